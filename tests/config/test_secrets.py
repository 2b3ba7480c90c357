import os

import pytest

from config.errors import ConfigError
from config.secrets import Secret, is_secret_header, looks_secret, missing, references, resolve
from tests.flows import config


def refusal(reference, environ=None):
    with pytest.raises(ConfigError) as refused:
        resolve(reference, path="workers[0].api_key", environ=environ or {})
    (problem,) = refused.value.problems
    assert problem.path == "workers[0].api_key"
    return problem


def test_from_a_variable():
    assert resolve("env:KEY", path="x", environ={"KEY": " sk-1\n"}) == "sk-1"


def test_from_the_environment_of_the_process(monkeypatch):
    monkeypatch.setenv("HEADGATE_TEST_KEY", "sk-2")
    assert resolve("env:HEADGATE_TEST_KEY", path="x") == "sk-2"


def test_from_a_file_without_the_newline_at_its_end(tmp_path):
    (tmp_path / "key").write_text("sk-3\n")
    assert resolve(f"file:{tmp_path}/key", path="x") == "sk-3"


def test_a_variable_that_is_not_set():
    assert refusal("env:KEY").found == "no environment variable KEY"


@pytest.mark.parametrize("value", ["", " \n"])
def test_an_empty_variable(value):
    assert refusal("env:KEY", {"KEY": value}).found == "nothing in env:KEY"


def test_a_file_that_is_not_there(tmp_path):
    assert refusal(f"file:{tmp_path}/key").found == f"{tmp_path}/key: no such file or directory"


def test_an_empty_file(tmp_path):
    (tmp_path / "key").touch()
    assert refusal(f"file:{tmp_path}/key").found == f"nothing in file:{tmp_path}/key"


def test_a_file_without_an_end():
    assert refusal("file:/dev/zero").found == "/dev/zero: is a device"


def test_a_pipe_that_nobody_writes_to(tmp_path):
    os.mkfifo(tmp_path / "key")
    assert refusal(f"file:{tmp_path}/key").found == f"{tmp_path}/key: is a pipe"


def test_a_file_that_is_too_large(tmp_path):
    with (tmp_path / "key").open("wb") as file:
        file.truncate(65_537)
    assert refusal(f"file:{tmp_path}/key").found == f"{tmp_path}/key: a larger file"


@pytest.mark.parametrize(
    "value",
    [
        "Bearer abc",
        "bearer env:KEY",
        "Basic dXNlcjpodW50ZXIy",
        "sk-ant-REDACTED",
        "key=sk-proj-abcdefgh",
        "ghp_0123456789abcdef",
        "github_pat_0123456789",
        "hf_abcdefghijkl",
        "xoxb-1234-5678-abc",
        "AKIAIOSFODNN7EXAMPLE",
        "gsk_abcdefghijkl",
        "AIzaSyA-0123456789",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2ln",
    ],
)
def test_values_that_only_secrets_have(value):
    assert looks_secret(value)


@pytest.mark.parametrize(
    "value",
    [
        "blue",
        "Basic monthly",
        "the bearer of news",
        "task-force-seven",
        "sk-team",
        "a/b;c=1",
        "prompt-caching-2024-07-31",
    ],
)
def test_values_that_are_no_secrets(value):
    assert not looks_secret(value)


@pytest.mark.parametrize("secret", ["hunter2\r\nX-Other: 1", "hunter2\x00", "hünter2", "hunter2\udcff"])
def test_a_secret_that_would_break_a_header_is_refused_and_not_repeated(secret):
    problem = refusal("env:KEY", {"KEY": secret})
    assert problem.expected == "one line of printable ASCII"
    assert "nter2" not in repr(problem)


@pytest.mark.parametrize("kind", ["vault", "aws"])
def test_what_is_not_supported_yet_says_so_and_what_is(kind):
    problem = refusal(f"{kind}:somewhere")
    assert f"a reference to {kind}:, which is not supported yet" in problem.found
    assert problem.expected == "env:NAME or file:PATH"


@pytest.mark.parametrize(
    "reference", ["", "hunter2", "hunter2:x", "env:", "env:hunter2-x", "env:ENV:hunter2", "file:", "$hunter2"]
)
def test_what_is_no_reference_is_refused_and_not_repeated(reference):
    problem = refusal(reference, {"": "x"})
    assert problem.expected == "env:NAME or file:PATH"
    assert "hunter2" not in repr(problem)


def test_headers_that_refer_to_secrets_are_looked_up_and_others_are_not():
    worker = {
        "name": "o",
        "kind": "openai",
        "base_url": "http://127.0.0.1:1/v1",
        "api_key": "env:KEY",
        "headers": {"X-Api-Key": "env:OTHER", "X.Token": "file:/no/such/file", "X-Team": "blue"},
    }
    configured = config(workers=[{"name": "e", "kind": "echo"}, worker])
    assert list(references(configured)) == [
        Secret("workers[1].api_key", "env:KEY"),
        Secret("workers[1].headers.X-Api-Key", "env:OTHER"),
        Secret('workers[1].headers."X.Token"', "file:/no/such/file"),
    ]
    found = missing(configured, {"KEY": "k"})
    assert [(problem.path, problem.found) for problem in found] == [
        ("workers[1].headers.X-Api-Key", "no environment variable OTHER"),
        ('workers[1].headers."X.Token"', "/no/such/file: no such file or directory"),
    ]


@pytest.mark.parametrize("name", ["Authorization", "X-Api-Key", "api_key", "Cookie", "X-Auth-Token", "X-Amz-Signature"])
def test_names_that_say_that_a_header_is_secret(name):
    assert is_secret_header(name)


@pytest.mark.parametrize("name", ["X-Team", "OpenAI-Organization", "anthropic-beta", "HTTP-Referer", "X-Title"])
def test_names_that_do_not(name):
    assert not is_secret_header(name)


def test_all_that_a_configuration_refers_to_is_looked_up():
    openai = {"kind": "openai", "base_url": "http://127.0.0.1:1/v1"}
    configured = config(
        admin={"token": "env:TOKEN"},
        workers=[{"name": "e", "kind": "echo"}, openai | {"name": "o", "api_key": "env:KEY"}, openai | {"name": "p"}],
        collections=[{"name": "docs"}, {"name": "far", "store": "qdrant", "api_key": "file:/no/such/file"}],
    )
    assert list(references(configured)) == [
        Secret("admin.token", "env:TOKEN"),
        Secret("workers[1].api_key", "env:KEY"),
        Secret("collections[1].api_key", "file:/no/such/file"),
    ]
    found = missing(configured, {"TOKEN": "t"})
    assert [problem.path for problem in found] == ["workers[1].api_key", "collections[1].api_key"]
    assert missing(config(), {}) == []
