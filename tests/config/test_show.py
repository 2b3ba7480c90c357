import tomllib
from pathlib import Path

import msgspec
import pytest

from config.load import Loaded, load
from config.show import as_json, as_toml

FILE = """
[server]
port = 1
[[workers]]
name = "w"
kind = "openai"
base_url = "http://x"
api_key = "env:KEY"
headers = {X-Team = "a", X-API-Key = "env:H", Proxy-Authorization = "env:H", "X.Y" = "b"}
[[workers]]
name = "v"
kind = "echo"
failure_rate = 1e-7
[[routes]]
name = "r"
worker = "w"
template = 'three \\ "lines" é\u2028'
[[routes.filters]]
kind = "stop"
sequences = ["a", "\\n"]
[[routes.filters]]
kind = "max_length"
chars = 3
[[routes]]
name = "s"
worker = "v"
"""


@pytest.fixture
def loaded(tmp_path: Path) -> Loaded:
    (tmp_path / "test.toml").write_text(FILE)
    return load(tmp_path / "test.toml", {"HEADGATE__STAGES__RAG__CAPACITY": "7"})


def test_the_output_is_toml_that_says_the_same(loaded: Loaded, tmp_path: Path):
    again = tmp_path / "again.toml"
    again.write_text(as_toml(loaded))
    assert load(again, {}).config == loaded.config


def test_each_value_has_its_origin(loaded: Loaded):
    lines = as_toml(loaded).splitlines()
    assert lines[0] == f"# in force: {loaded.path}"
    assert f"{'port = 1':48}  # file {loaded.path}" in lines
    assert f"{'capacity = 7':48}  # environment HEADGATE__STAGES__RAG__CAPACITY" in lines
    assert f"{'# deadline_ms is not set':48}  # default" in lines
    assert f"{'collections = []':48}  # default" in lines


def test_secrets_are_shown_as_references(loaded: Loaded):
    for text in (as_toml(loaded), as_json(loaded).decode()):
        assert text.count('"env:H"') == 2
        assert '"env:KEY"' in text
        assert '"a"' in text


def test_json_has_every_key_with_value_and_origin(loaded: Loaded):
    shown = msgspec.json.decode(as_json(loaded))
    assert shown["file"] == str(loaded.path)
    assert shown["keys"].keys() == loaded.origins.keys()
    assert shown["keys"]["server.port"] == {"value": 1, "origin": f"file {loaded.path}"}
    assert shown["keys"]["routes[0].filters[0].sequences"]["value"] == ["a", "\n"]


def test_both_forms_show_the_same_keys(loaded: Loaded):
    document = tomllib.loads(as_toml(loaded))
    for path, entry in msgspec.json.decode(as_json(loaded))["keys"].items():
        value = document
        for part in path.replace("[", ".").replace("]", "").replace('"X.Y"', "X_Y").split("."):
            value = value[int(part)] if isinstance(value, list) else value.get(part.replace("_Y", ".Y"))
        assert value == entry["value"], path
