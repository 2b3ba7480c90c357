"""A configuration with what is in its files: which of them are others than before, and what is told of that."""

from pathlib import Path

import pytest

from config.errors import ConfigError
from config.load import load
from pipeline.process.version import Version
from tests.config.helpers import SMALLEST

WORKER = """
[[workers]]
name = "o"
kind = "openai"
replicas = ["http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1"]
api_key = "file:key"
headers = {X-Api-Key = "file:other", X-Team = "blue"}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "a.toml").write_text(SMALLEST + WORKER)
    for name in ("key", "other"):
        (tmp_path / name).write_text("hunter2")
    return tmp_path / "a.toml"


def version(file: Path) -> Version:
    return Version.of(load(file, {}).config)


@pytest.mark.parametrize(("name", "key"), [("key", "api_key"), ("other", "headers.X-Api-Key")])
def test_a_secret_s_file_with_other_contents_is_a_change_that_shows_neither(file, name, key):
    before = version(file)
    assert before.differences(version(file), before.named) == []
    (file.parent / name).write_text("hunter2-new")
    after = version(file)
    (difference,) = before.differences(after, after.named)
    assert difference.path == f"workers[o].{key}"
    assert difference.after == f"file:{file.parent}/{name}, with other contents"
    assert not difference.restart
    assert "hunter2" not in repr((before, after, difference))


def test_another_file_is_told_once(file):
    before = version(file)
    file.write_text(file.read_text().replace("file:key", "file:other"))
    after = version(file)
    assert [found.path for found in before.differences(after, after.named)] == ["workers[o].api_key"]


def test_a_secret_s_file_that_is_gone_is_named_by_its_key(file):
    (file.parent / "other").unlink()
    with pytest.raises(ConfigError) as refused:
        version(file)
    (problem,) = refused.value.problems
    assert problem.path == "workers[1].headers.X-Api-Key"
