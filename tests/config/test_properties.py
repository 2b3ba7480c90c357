"""Whatever stands in a file or in the environment, it either loads or is refused with problems that name a place."""

import re
import tomllib
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from config.errors import ConfigError
from config.findings import Findings
from config.load import decode, encode, load
from config.paths import quote
from config.schema import Config
from config.shape import bare, keys, of, root, variants
from config.show import as_json, as_toml
from config.source import Source
from config.structure import draft

SHIPPED = (Path(__file__).parents[2] / "pipeline.toml").read_text()

many = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])

scalars = st.one_of(
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(),
    st.text(),
    st.sampled_from(["echo", "openai", "env:A", "http://x/v1", "docs", "(", "a*", ""]),
    st.dates(),
)
names = st.text() | st.sampled_from(["name", "kind", "port", "server"])
values = st.recursive(scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3))


def right(info: inspect.Type) -> st.SearchStrategy:
    """Values that the schema takes."""
    kind = bare(info)[0]
    match kind:
        case inspect.BoolType():
            return st.booleans()
        case inspect.LiteralType():
            return st.sampled_from(kind.values)
        case inspect.IntType():
            return st.integers(kind.ge, kind.le)
        case inspect.FloatType():
            return st.floats(kind.ge, kind.le) | st.integers(int(kind.ge), int(kind.le))
        case inspect.StrType() if kind.pattern:
            return st.sampled_from(["a", "docs-qa", "127.0.0.1", "http://x/v1", "https://[::1]:80"]).filter(
                re.compile(kind.pattern).search
            )
        case inspect.StrType():
            return st.text(min_size=kind.min_length or 0, max_size=min(kind.max_length or 20, 20))
        case inspect.ListType():
            return st.lists(right(kind.item_type), min_size=kind.min_length or 0, max_size=3)
        case inspect.DictType():
            return st.dictionaries(names, right(kind.value_type), max_size=2)
        case inspect.UnionType():
            return st.one_of([right(one) for one in variants(kind).values()])
        case inspect.StructType():
            tag = {kind.tag_field: st.just(kind.tag)} if kind.tag_field else {}
            required = {field.encode_name: right(field.type) for field in kind.fields if field.required}
            optional = {field.encode_name: right(field.type) for field in kind.fields if not field.required}
            return st.fixed_dictionaries(tag | required, optional=optional)


RIGHT = right(root())


@st.composite
def nearly_right(draw: st.DrawFn):
    """A tree that the schema takes, with a few places changed."""
    tree = draw(RIGHT)
    for _ in range(draw(st.integers(0, 4))):
        holder = tree
        while True:
            inner = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
            if not inner:
                break
            key = draw(st.sampled_from(inner))
            if not isinstance(holder[key], dict | list) or draw(st.booleans()):
                change = draw(st.sampled_from(["replace", "delete", "add"]))
                if change == "replace":
                    holder[key] = draw(values)
                elif change == "delete":
                    del holder[key]
                elif isinstance(holder, dict):
                    holder[draw(names)] = draw(values)
                break
            holder = holder[key]
    return tree


def toml(value) -> str:
    match value:
        case str():
            return quote(value)
        case bool():
            return str(value).lower()
        case list():
            return "[" + ", ".join(toml(entry) for entry in value) + "]"
        case dict():
            return "{" + ", ".join(f"{quote(key)} = {toml(entry)}" for key, entry in value.items()) + "}"
        case _:
            return str(value)


def document(tree) -> str:
    return "".join(f"{quote(key)} = {toml(entry)}\n" for key, entry in tree.items())


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties") / "test.toml"


def judge(file: Path, text: str, environ: dict[str, str] | None = None) -> None:
    file.write_text(text, newline="")
    try:
        loaded = load(file, environ or {})
    except ConfigError as refused:
        parts = [(one.path, one.found, one.expected, one.where) for one in refused.problems]
        event("refused")
    else:
        parts = [(as_toml(loaded), as_json(loaded), tomllib.loads(as_toml(loaded)))]
        assert decode(encode(loaded.config)) == loaded.config
        event("loaded")
    assert parts
    assert all(all(part) for part in parts)


@given(tree=st.dictionaries(names | st.sampled_from(keys(of(Config))), values, max_size=5))
@many
def test_any_tree_loads_or_is_refused(file, tree):
    judge(file, document(tree))


@given(tree=nearly_right())
@many
def test_a_tree_that_is_nearly_right_loads_or_is_refused(file, tree):
    judge(file, document(tree))


@given(text=st.text())
@many
def test_any_text_loads_or_is_refused(file, text):
    judge(file, text)


@given(data=st.data())
@many
def test_the_shipped_file_with_a_few_characters_changed_loads_or_is_refused(file, data):
    text = SHIPPED
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 40))
        text = text[:start] + data.draw(st.text("[]{}=.\"'# \n01a_-\\", max_size=3)) + text[end:]
    judge(file, text)


@given(
    environ=st.dictionaries(
        st.lists(
            st.sampled_from([*keys(of(Config)), "0", "1", "port", "name", "kind", "base_url", "headers", "rag", ""])
            | st.text(max_size=5),
            max_size=4,
        ).map(lambda parts: "__".join(["HEADGATE", *parts])),
        st.one_of(st.text(), values.map(toml)),
        max_size=4,
    )
)
@many
def test_any_environment_is_applied_or_refused(file, environ):
    judge(file, SHIPPED, environ)


@given(tree=st.one_of(nearly_right(), RIGHT))
@many
def test_what_is_found_is_what_msgspec_finds(tree):
    """No problem where msgspec has none, and at least one where it has."""
    findings = Findings(Source(Path("x"), ""))
    draft(tree, findings)
    try:
        msgspec.convert(tree, Config)
    except msgspec.ValidationError:
        with pytest.raises(ConfigError):
            findings.raise_if_any()
        event("refused")
    else:
        findings.raise_if_any()
        event("taken")


@given(tree=RIGHT)
@many
def test_what_the_schema_takes_survives_the_way_to_a_child_process(tree):
    config = msgspec.convert(tree, Config)
    assert decode(encode(config)) == config
