"""docs/how-to/write-a-step.md, followed word by word."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.workflow.ports import Services, StepContext
from tests.e2e.page import FILES, ROOT, Reader, blocks

PAGE = (ROOT / "docs" / "how-to" / "write-a-step.md").read_text()


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@pytest.mark.slow
def test_the_page_works_as_it_stands(reader):
    assert reader.follow(PAGE) == 4


def test_the_page_names_the_files_that_it_shows():
    shown = [block.file for block in blocks(PAGE) if block.language in FILES]
    assert shown == [
        "package/pyproject.toml",
        "package/headgate_vote/__init__.py",
        "tone.yaml",
        "wrong.yaml",
        "pipeline.toml",
    ]


def test_the_page_says_all_that_a_handler_is_given():
    given = {*StepContext.__annotations__, *(name for name in vars(StepContext) if not name.startswith("_"))}
    given |= {f"services.{name}" for name in Services.__struct_fields__}
    assert {
        name for name in given - {"services", "caller", "priority", "underway"} if f"context.{name}" not in PAGE
    } == set()
