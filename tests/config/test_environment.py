from pathlib import Path

import msgspec
import pytest

from config.load import load
from config.show import as_json
from tests.config.helpers import SMALLEST, problems

FILE = """
[server]
port = 1
[[workers]]
name = "w"
kind = "openai"
base_url = "http://x"
headers = {X-Team = "a"}
[[routes]]
name = "r"
worker = "w"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "test.toml"
    file.write_text(FILE)
    return file


@pytest.mark.parametrize(
    ("name", "text", "path", "value"),
    [
        ("HEADGATE__SERVER__PORT", "9000", "server.port", 9000),
        ("headgate__server__port", "9_000", "server.port", 9000),
        ("Headgate__Stages__Rag__Capacity", "7", "stages.rag.capacity", 7),
        ("HEADGATE__STAGES__INFERENCE__CONCURRENCY", "7", "stages.inference.concurrency", 7),
        ("HEADGATE__STAGES__INFERENCE__CONCURRENCY", "adaptive", "stages.inference.concurrency", "adaptive"),
        ("HEADGATE__LOGGING__PROMPTS", "true", "logging.prompts", True),
        ("HEADGATE__LOGGING__LEVEL", "debug", "logging.level", "debug"),
        ("HEADGATE__SERVER__DATA_DIR", "127", "server.data_dir", "127"),
        ("HEADGATE__WORKERS__0__BASE_URL", "https://y/v1", "workers[0].base_url", "https://y/v1"),
        ("HEADGATE__WORKERS__0__MODEL", "true", "workers[0].model", "true"),
        ("HEADGATE__WORKERS__0__MODEL", '"quoted"', "workers[0].model", '"quoted"'),
        ("HEADGATE__WORKERS__0__HEADERS__x-team", "b", "workers[0].headers.X-Team", "b"),
        ("HEADGATE__WORKERS__0__HEADERS__X-New", "c", "workers[0].headers.X-New", "c"),
        ("HEADGATE__ROUTES__0__DEADLINE_MS", "5", "routes[0].deadline_ms", 5),
        ("HEADGATE__ROUTES__0__SYSTEM", "two\nlines", "routes[0].system", "two\nlines"),
        ("HEADGATE__ROUTES__0__FILTERS", '[{kind = "max_length", chars = 3}]', "routes[0].filters[0].chars", 3),
        ("HEADGATE__KNOWLEDGE", "{batch = 4}", "knowledge.batch", 4),
    ],
)
def test_a_variable_overrides_a_key_and_is_named_as_its_origin(file, name, text, path, value):
    loaded = load(file, {name: text})
    assert loaded.origins[path] == f"environment {name}"
    assert msgspec.json.decode(as_json(loaded))["keys"][path]["value"] == value


def test_where_the_others_come_from(file):
    loaded = load(file, {"HEADGATE__SERVER__PORT": "2", "HEADGATE_OTHER": "x", "OTHER": "y"})
    assert loaded.origins["server.host"] == "default"
    assert loaded.origins["workers[0].base_url"] == f"file {file}"
    assert set(loaded.origins.values()) == {"default", f"file {file}", "environment HEADGATE__SERVER__PORT"}


def test_a_key_within_an_overridden_table_has_the_nearer_origin(file):
    environ = {"HEADGATE__KNOWLEDGE__BATCH": "5", "HEADGATE__KNOWLEDGE": "{batch = 4, threads = 2}"}
    loaded = load(file, environ)
    assert (loaded.config.knowledge.batch, loaded.config.knowledge.threads) == (5, 2)
    assert loaded.origins["knowledge.batch"] == "environment HEADGATE__KNOWLEDGE__BATCH"
    assert loaded.origins["knowledge.threads"] == "environment HEADGATE__KNOWLEDGE"
    assert loaded.origins["knowledge.capacity"] == "default"


def test_the_kind_of_a_worker_is_set_before_its_keys(file):
    environ = {"HEADGATE__WORKERS__0": '{kind = "echo", name = "w"}', "HEADGATE__WORKERS__0__TOKENS": "3"}
    assert load(file, environ).config.workers[0].tokens == 3
    environ = {"HEADGATE__ROUTES__0__FILTERS": '[{kind = "stop"}]'} | {
        "HEADGATE__ROUTES__0__FILTERS__0__CHARS": "3",
        "HEADGATE__ROUTES__0__FILTERS__0__KIND": "max_length",
    }
    assert load(file, environ).config.routes[0].filters[0].chars == 3


@pytest.mark.parametrize(
    ("environ", "path", "found", "hint"),
    [
        ({"HEADGATE__SERVER__PROT": "1"}, "server.prot", "an unknown key", "HEADGATE__SERVER__PORT"),
        ({"HEADGATE__SEVER__PORT": "1"}, "sever", "an unknown key", "HEADGATE__SERVER"),
        ({"HEADGATE__PORT": "1"}, "port", "an unknown key", "HEADGATE__SERVER__PORT"),
        ({"HEADGATE__": "1"}, '""', "an unknown key", ""),
        ({"HEADGATE__SERVER____PORT": "1"}, 'server.""', "an unknown key", ""),
        ({"HEADGATE__SERVER__PORT__X": "1"}, "server.port.x", "a key below a plain value", "HEADGATE__SERVER__PORT"),
        ({"HEADGATE__WORKERS__1__NAME": "x"}, "workers[1]", "no such element", ""),
        ({"HEADGATE__WORKERS__-1__NAME": "x"}, "workers.-1", "no such element", ""),
        ({"HEADGATE__WORKERS__" + "9" * 5000: "x"}, "workers." + "9" * 5000, "no such element", ""),
        ({"HEADGATE__COLLECTIONS__0__NAME": "x"}, "collections[0]", "no such element", ""),
        ({"HEADGATE__WORKERS__0__MODL": "1"}, "workers[0].modl", "an unknown key", "HEADGATE__WORKERS__0__MODEL"),
        ({"HEADGATE__SERVER__PORT": "x"}, "server.port", '"x"', ""),
        ({"HEADGATE__SERVER__PORT": ""}, "server.port", '""', ""),
        ({"HEADGATE__SERVER__PORT": "1\nhost = 2"}, "server.port", '"1\\nhost = 2"', ""),
        ({"HEADGATE__SERVER__PORT": "65536"}, "server.port", "65536", ""),
        ({"HEADGATE__SERVER__PORT": "[" * 5000}, "server.port", f'"{"[" * 79}…"', ""),
        ({"HEADGATE__LOGGING__PROMPTS": "True"}, "logging.prompts", '"True"', "true"),
        ({"HEADGATE__SERVER": "5"}, "server", "5", ""),
        ({"HEADGATE__WORKERS__0__KIND": "opena"}, "workers[0].kind", '"opena"', '"openai"'),
        ({"HEADGATE__ROUTES__0__WORKER": "v"}, "routes[0].worker", '"v"', ""),
        ({"HEADGATE__WORKERS__0__API_KEY": "sk-1"}, "workers[0].api_key", "a text that is no reference, not shown", ""),
        ({"HEADGATE__SERVER__HOST": "\udcff"}, "server.host", "bytes that are not UTF-8", ""),
    ],
)
def test_a_bad_variable_is_named(tmp_path, environ, path, found, hint):
    (problem,) = problems(tmp_path, FILE, environ)
    (name,) = environ
    assert (problem.path, problem.found, problem.hint, problem.where) == (path, found, hint, f"environment {name}")


def test_a_bad_key_within_a_variable_is_not_looked_for_in_the_file(tmp_path):
    (problem,) = problems(tmp_path, FILE, {"HEADGATE__SERVER": "{port = 0.5}"})
    assert (problem.path, problem.where) == ("server.port", "environment HEADGATE__SERVER")


def test_the_same_key_twice(tmp_path):
    environ = {"HEADGATE__SERVER__PORT": "1", "headgate__server__port": "2"}
    (problem,) = problems(tmp_path, FILE, environ)
    assert problem.found == "the same key twice"
    assert "HEADGATE__SERVER__PORT" in problem.expected


def test_all_at_once_with_those_of_the_file(tmp_path):
    environ = {"HEADGATE__SERVER__PROT": "1", "HEADGATE__STAGES__RAG__CAPACITY": "0"}
    found = [problem.path for problem in problems(tmp_path, f"port = 1\n{SMALLEST}", environ)]
    assert found == ["server.prot", "stages.rag.capacity", "port"]


@pytest.mark.parametrize(
    "text", [f"server = 5\n{SMALLEST}", f"workers = [5]\n{SMALLEST[SMALLEST.index('[[routes') :]}"]
)
def test_a_variable_for_a_table_that_the_file_has_no_table_for(tmp_path, text):
    environ = {"HEADGATE__SERVER__PORT": "1", "HEADGATE__WORKERS__0__NAME": "w"}
    (problem,) = problems(tmp_path, text, environ)
    assert problem.path in {"server", "workers[0]"}
    assert problem.found == "5"


def test_a_variable_may_repair_the_file(file):
    file.write_text(FILE.replace("port = 1", "port = 'x'"))
    assert load(file, {"HEADGATE__SERVER__PORT": "3"}).config.server.port == 3
