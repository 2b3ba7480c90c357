from pathlib import Path

import msgspec
import pytest

from config.errors import ConfigError
from config.load import decode, encode, load, self_contained
from config.schema import EchoWorker, OpenAIWorker
from tests.config.helpers import SMALLEST


def test_the_smallest_file_that_serves(tmp_path: Path, monkeypatch):
    (tmp_path / "pipeline.toml").write_text(SMALLEST)
    monkeypatch.chdir(tmp_path)
    config, origins, path, _ = load(None, {})
    assert path == Path("pipeline.toml")
    assert config.workers == [EchoWorker(name="w")]
    assert origins["routes[0].name"] == "file pipeline.toml"
    assert origins["server.port"] == "default"


def test_the_environment_names_the_file(tmp_path: Path, monkeypatch):
    (tmp_path / "other.toml").write_text(SMALLEST)
    monkeypatch.setenv("HEADGATE_CONFIG", str(tmp_path / "other.toml"))
    assert load().path == tmp_path / "other.toml"


def test_nothing_stands_in_for_a_file_that_is_not_there(tmp_path: Path, monkeypatch):
    (tmp_path / "pipeline.toml").write_text(SMALLEST)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError):
        load(None, {"HEADGATE_CONFIG": "other.toml"})
    with pytest.raises(ConfigError):
        load(Path("other.toml"), {})


def test_key_files_are_relative_to_the_configuration_file(tmp_path: Path, monkeypatch):
    worker = '[[workers]]\nname = "w"\nkind = "openai"\nbase_url = "http://x"\n'
    route = '[[routes]]\nname = "r"\nworker = "w"\n'
    absolute = worker.replace('"w"', '"v"') + 'api_key = "file:/run/b"\n'
    (tmp_path / "a.toml").write_text(f'{worker}api_key = "file:keys/a"\n{absolute}{route}')
    monkeypatch.chdir("/")
    first, second = load(tmp_path / "a.toml", {}).config.workers
    assert isinstance(first, OpenAIWorker)
    assert isinstance(second, OpenAIWorker)
    assert (first.api_key, second.api_key) == (f"file:{tmp_path}/keys/a", "file:/run/b")


def test_every_key_in_force_has_an_origin(tmp_path: Path):
    (tmp_path / "a.toml").write_text(SMALLEST)
    _, origins, *_ = load(tmp_path / "a.toml", {})
    assert {"stages.rag.capacity", "workers[0].kind", "workers[0].seed", "routes[0].deadline_ms"} <= origins.keys()
    assert "collections" in origins


def test_what_is_handed_to_child_processes_is_the_same():
    config = load(Path("pipeline.toml"), {}).config
    assert decode(encode(config)) == config


def test_what_is_handed_to_child_processes_is_checked_again():
    with pytest.raises(msgspec.ValidationError):
        decode(b'{"workers": [], "routes": [], "sever": {}}')


def test_a_self_contained_configuration_needs_its_template_files_no_more(tmp_path):
    (tmp_path / "t.j2").write_text("\ufeffBe brief. {{ system }}", encoding="utf-8")
    path = tmp_path / "pipeline.toml"
    path.write_text(
        '[[workers]]\nname = "w"\nkind = "echo"\n[[routes]]\nname = "r"\nworker = "w"\ntemplate_file = "t.j2"\n'
    )
    config = load(path, {}).config
    whole = self_contained(config)
    (tmp_path / "t.j2").unlink()
    assert (whole.routes[0].template, whole.routes[0].template_file) == ("Be brief. {{ system }}", None)
    with pytest.raises(ConfigError) as caught:
        self_contained(config)
    assert caught.value.problems[0].path == "routes[0].template_file"
