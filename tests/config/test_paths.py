import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.paths import dotted, is_secret, leaves, nearest, parsed, quote, variable
from config.schema import Config, EchoWorker, OpenAIWorker, RouteSection, StopFilter


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (("server", "port"), "server.port"),
        (("routes", 0, "filters", 12, "kind"), "routes[0].filters[12].kind"),
        (("workers", 0, "headers", "X.Y\x1b"), 'workers[0].headers."X.Y\\u001b"'),
        (("",), '""'),
    ],
)
def test_dotted(path, text):
    assert dotted(path) == text


def test_variable():
    assert variable(("workers", 0, "base_url")) == "HEADGATE__WORKERS__0__BASE_URL"


@pytest.mark.parametrize("text", ['a"\\\n\t', "\x00\x1b\x7f\x9b", "é中\U0001f600", "\u202e\u2028\U000e0001"])
def test_quoted_text_is_printable_toml_that_says_the_same(text):
    assert quote(text).isprintable()
    assert tomllib.loads(f"a = {quote(text)}")["a"] == text


@pytest.mark.parametrize(
    ("name", "match"),
    [("prot", "port"), ("PORT", "port"), ("max-body-bytes", "max_body_bytes"), ("zzz", ""), ("", ""), ("x" * 9999, "")],
)
def test_nearest(name, match):
    assert nearest(name, ["host", "port", "max_body_bytes"]) == match


def test_nearest_finds_names_with_hyphens():
    assert nearest("doc-qa", ["docs-qa", "echo"]) == "docs-qa"


def test_secret_paths():
    assert is_secret(("workers", 0, "api_key"))
    assert is_secret(("workers", 0, "headers", "Authorization"))
    assert is_secret(("workers", 0, "headers"))
    assert not is_secret(("workers", 0, "model"))


def test_leaves_are_all_keys_in_the_order_of_the_schema():
    worker = OpenAIWorker(name="w", base_url="http://x", headers={"A": "b"})
    route = RouteSection(name="r", worker="w", filters=[StopFilter(sequences=["x", "y"])])
    entries = dict(leaves(Config(workers=[EchoWorker(name="e"), worker], routes=[route])))
    assert next(iter(entries)) == ("server", "host")
    assert list(entries)[-1] == ("keys",)
    assert entries["workers", 0, "kind"] == "echo"
    assert entries["workers", 1, "headers", "A"] == "b"
    assert entries["routes", 0, "filters", 0, "sequences"] == ["x", "y"]
    assert entries["routes", 0, "collection"] is None
    assert ("routes", 0, "filters") not in entries


@given(st.lists(st.integers(0, 99) | st.text(), max_size=4).filter(lambda path: not path or isinstance(path[0], str)))
def test_a_path_is_read_as_it_was_written(path):
    assert parsed(dotted(tuple(path))) == tuple(path)


def test_what_is_no_path():
    assert parsed("a b") == parsed("workers[x].y") == parsed("/etc/a.toml") == ()
