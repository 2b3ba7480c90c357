"""docs/how-to/write-a-worker.md, followed word by word."""

import re
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.page import ROOT, Reader, blocks

PAGE = ROOT / "docs" / "how-to" / "write-a-worker.md"


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    reader = Reader(tmp_path, port)
    yield reader
    reader.close()


@pytest.mark.slow
def test_the_page_works_as_it_stands(reader):
    began = time.monotonic()
    assert reader.follow(PAGE.read_text()) == 5
    assert time.monotonic() - began < 600, "ten minutes were promised"


def test_the_page_names_the_files_that_it_shows():
    shown = [block.file for block in blocks(PAGE.read_text()) if block.language in ("python", "toml")]
    assert shown == [
        "shouting.py",
        "pipeline.toml",
        "shouting_server.py",
        "pipeline.toml",
        "package/pyproject.toml",
        "package/headgate_whisper/__init__.py",
        "pipeline.toml",
    ]


def test_every_package_and_link_of_the_page_is_there():
    page = PAGE.read_text()
    for address in re.findall(r"\]\(((?!https?:)[^)#]+)", page):
        assert (PAGE.parent / address).exists(), address
    for module in ("workers/base.py", "workers/errors.py", "workers/canonical.py", "workers/worker.proto"):
        assert (ROOT / module).exists()
