"""Texts become trees, or faults that say where: YAML's traps, limits, and a corpus of bad files."""

import json
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.workflow import markup, markup_yaml
from pipeline.workflow.definition import MAX_BYTES
from pipeline.workflow.errors import DefinitionRefused
from pipeline.workflow.source import read, read_tree

CORPUS = Path(__file__).parent / "corpus"
STEP = "name: x\nsteps:\n  - {id: a, type: wait, seconds: 1}\n"

# Line, column, where, and a part of the message or the hint: all faults of the file, in order.
EXPECTED: dict[str, list[tuple[int, int, str, str]]] = {
    "a-list.yaml": [(1, 1, "definition", "found a list of 1, expected a mapping")],
    "a-text.yaml": [(1, 1, "definition", 'found "name", expected a mapping')],
    "billion-laughs.yaml": [(8, 22, "definition", "aliases make this more than 500,000 values")],
    "byte-order-mark.yaml": [(1, 1, "definition", "save it as UTF-8 without one")],
    "colon.yaml": [(2, 17, "definition", "put a text that holds `: ` in quotes")],
    "control.yaml": [(2, 15, "definition", "a control character (U+0007)")],
    "cut.json": [(2, 12, "definition", "not JSON")],
    "deep-block.yaml": [(3, 257, "definition", "nested more than 128 deep")],
    "deep-flow.yaml": [(2, 135, "definition", "nested more than 128 deep")],
    "deep.json": [(1, 151, "steps" + "[0]" * 39 + "…", "nested more than 128 deep")],
    "duplicate-keys.json": [
        (3, 18, "steps[0].id", "it is on line 2 already"),
        (4, 2, "name", "it is on line 1 already"),
    ],
    "duplicate-keys.yaml": [
        (5, 24, "metadata.k", "it is on line 5 already"),
        (6, 1, "version", "it is on line 4 already"),
    ],
    "empty.json": [(1, 1, "definition", "not JSON")],
    "empty.yaml": [(1, 1, "definition", "the text is empty")],
    "endless.json": [
        (3, 20, "metadata.a", "a number that JSON cannot hold"),
        (4, 7, "metadata.b", "a number that JSON cannot hold"),
        (4, 23, "metadata.c", "a number that JSON cannot hold"),
    ],
    "endless.yaml": [
        (4, 15, "metadata.a", 'as a text: ".inf"'),
        (4, 24, "metadata.b", 'as a text: "-.INF"'),
        (4, 34, "metadata.c", "a number that JSON cannot hold"),
        (4, 43, "metadata.d", "a number that JSON cannot hold"),
    ],
    "huge-numbers.json": [
        (3, 20, "metadata.a", "a whole number of more than 64 bits"),
        (4, 9, "metadata.b", "a whole number of more than 64 bits"),
    ],
    "huge-numbers.yaml": [
        (5, 6, "metadata.a", "a whole number of more than 64 bits"),
        (6, 6, "metadata.b", "a whole number of more than 64 bits"),
        (7, 6, "metadata.c", "a whole number of more than 64 bits"),
    ],
    "merge-keys.yaml": [(7, 5, "metadata.more", "a merge key (<<)")],
    "not-utf8.yaml": [(2, 17, "definition", "not UTF-8: byte 0xE9")],
    "nul.yaml": [(2, 14, "definition", "a control character (U+0000)")],
    "number-keys.yaml": [
        (5, 3, "metadata", "a key that is not a text: 1"),
        (6, 3, "metadata", "a key that is not a text: 1.0"),
        (7, 3, "metadata", "a key that is not a text: true"),
        (8, 3, "metadata", "a key that is not a text: null"),
        (9, 5, "metadata", "a list as a key"),
    ],
    "octal.yaml": [
        (4, 15, "metadata.a", 'as a text: "010"'),
        (4, 23, "metadata.b", "a number with a leading zero"),
        (4, 31, "metadata.c", "a number with a leading zero"),
    ],
    "recursive-alias.yaml": [(5, 12, "steps.a.steps", "the alias *s is inside of what it stands for")],
    "repeated-text.yaml": [(4, 2099, "definition", "aliases make this more than 10,485,760 characters")],
    "surrogate.json": [(2, 17, "description", "half of a surrogate pair")],
    "tab.yaml": [(3, 1, "definition", "indent with spaces, not with tabs")],
    "tags.yaml": [
        (5, 6, "metadata.a", "a tag: tag:yaml.org,2002:python/object/apply:os.system"),
        (6, 6, "metadata.b", "a tag: tag:yaml.org,2002:binary"),
        (7, 6, "metadata.c", "a tag: !mine"),
        (8, 6, "metadata.d", "a tag: tag:yaml.org,2002:str"),
    ],
    "two-documents.yaml": [(4, 1, "definition", "a second document begins here")],
    "unclosed.yaml": [(3, 1, "definition", "not YAML")],
    "unknown-alias.yaml": [(4, 15, "metadata.a", "no anchor &nobody stands before this alias")],
    "unquoted-template.yaml": [(6, 14, "steps.a.prompt", 'put a text that begins with { in quotes: "{{ … }}"')],
    "utf16.yaml": [(1, 1, "definition", "save it as UTF-8")],
    "very-deep.json": [(1, 151, "definition", "nested more than 128 deep")],
}


@pytest.mark.parametrize("file", sorted(CORPUS.iterdir()), ids=lambda file: file.name)
def test_a_bad_file_is_refused_with_all_that_is_wrong_and_where(file):
    started = time.perf_counter()
    source = read(file.read_bytes(), name=file.name)
    found = [(fault.line, fault.column, fault.where) for fault in source.faults]
    assert found == [one[:3] for one in EXPECTED[file.name]]
    for fault, (*_, said) in zip(source.faults, EXPECTED[file.name], strict=True):
        assert said in f"{fault.message}\n{fault.hint}"
    with pytest.raises(DefinitionRefused):
        source.raise_if_any()
    assert time.perf_counter() - started < 5


def test_every_expectation_has_its_file():
    assert EXPECTED.keys() == {file.name for file in CORPUS.iterdir()}


def metadata(yaml: str) -> object:
    source = read(f"{STEP}metadata: {{a: {yaml}}}\n")
    source.raise_if_any()
    return source.tree["metadata"]["a"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("yes", "yes"),
        ("no", "no"),
        ("on", "on"),
        ("off", "off"),
        ("y", "y"),
        ("2026-01-01", "2026-01-01"),
        ("2026-01-01T10:00:00Z", "2026-01-01T10:00:00Z"),
        ("12:30:45", "12:30:45"),
        ("1_000", "1_000"),
        ("0b11", "0b11"),
        ("true", True),
        ("False", False),
        ("~", None),
        ("null", None),
        ("nULL", "nULL"),
        ("", None),
        ("''", ""),
        ("0", 0),
        ("-17", -17),
        ("+3", 3),
        ("0x1F", 31),
        ("0o17", 15),
        ("1e3", 1000.0),
        (".5", 0.5),
        ("1.", 1.0),
        ("-1.5e-2", -0.015),
        ("'010'", "010"),
        ("1.2.3", "1.2.3"),
        ("-", "-"),
        ("9223372036854775807", 9223372036854775807),
    ],
)
def test_scalars_follow_the_core_schema_of_yaml_1_2(written, meant):
    if written == "-":
        written = "'-'"
    found = metadata(written)
    assert found == meant
    assert type(found) is type(meant)


def test_keys_that_yaml_1_1_takes_for_booleans_are_texts():
    source = read(STEP + "metadata: {on: 1, no: 2, y: 3}\n")
    assert source.faults == []
    assert source.tree["metadata"] == {"on": 1, "no": 2, "y": 3}


def test_an_alias_repeats_a_value_and_faults_in_it_stand_where_it_is_written():
    text = "name: x\nsteps:\n  - {id: a, type: wait, seconds: 1, retry: &r {max_attempts: 2}}\n"
    source = read(text + "  - {id: b, type: wait, seconds: 1, retry: *r}\n")
    assert source.faults == []
    assert source.definition is not None
    assert source.definition.steps[1].retry.max_attempts == 2
    wrong = read(text + "  - {id: b, type: wait, seconds: 1, on_failure: *r}\n")
    assert [(one.line, one.column, one.where) for one in wrong.faults] == [(4, 49, "steps.b.on_failure")]


def test_an_anchor_may_be_set_again():
    source = read(STEP + "metadata: {a: &x 1, b: *x, c: &x 2, d: *x}\n")
    assert source.tree["metadata"] == {"a": 1, "b": 1, "c": 2, "d": 2}


def test_a_text_that_is_too_large_is_refused_before_it_is_read():
    for text in (b"#" * (MAX_BYTES + 1), "é" * (MAX_BYTES // 2 + 1)):
        (fault,) = read(text).faults
        assert (fault.line, fault.column, fault.message) == (1, 1, f"larger than {MAX_BYTES:,} bytes")


def test_a_text_with_too_many_values_is_refused(monkeypatch):
    monkeypatch.setattr(markup, "MAX_NODES", 1000)
    monkeypatch.setattr(markup_yaml, "MAX_NODES", 1000)
    for text, media in ((b"- - - - - - - -\n" * 125, "yaml"), (b"[" + b"1," * 1000 + b"1]", "json")):
        (fault,) = read(text, media).faults
        assert fault.message == "more than 1,000 values"
        assert fault.line


def test_json_is_told_by_media_name_or_look():
    text = json.dumps({"name": "x", "steps": [{"id": "a", "type": "wait", "seconds": 1}]}).replace(" ", "\t")
    for source in (read(text, "json"), read(text, name="x.json"), read(text)):
        assert source.faults == []
    flow = "{name: x, steps: [{id: a, type: wait, seconds: 1}]}"
    assert read(flow).faults == read(flow, "yaml").faults == []
    assert read(flow, "json").faults[0].message.startswith("not JSON")


def test_a_block_text_is_placed_at_its_first_line_so_that_lines_inside_can_be_counted():
    text = "name: x\nsteps:\n  - id: a\n    type: llm\n    route: echo\n    prompt: |\n      one\n      {{ two\n"
    source = read(text)
    assert source.place(("steps", 0, "prompt")) == source.place(("steps", "a", "prompt")) == (7, 7)


def test_a_tree_has_no_places_and_holds_only_what_json_can():
    loop: dict = {"name": "x"}
    loop["steps"] = [loop]
    bad = {
        "name": "x",
        "steps": [{"id": "a", "type": "wait", "seconds": 1}],
        "metadata": {"a": float("nan"), "b": {1, 2}, 3: 4, "c": "\ud800", "d": 1 << 70, "e": (1,)},
    }
    found = {fault.where: fault.message for fault in read_tree(bad).faults}
    assert found == {
        "metadata": "a key that is not a text: 3",
        "metadata.a": "a number that JSON cannot hold",
        "metadata.b": "a value of type set, which JSON does not have",
        "metadata.c": "a text with half of a surrogate pair",
        "metadata.d": "a whole number of more than 64 bits",
        "metadata.e": "a value of type tuple, which JSON does not have",
    }
    assert all((fault.line, fault.column) == (0, 0) for fault in read_tree(bad).faults)
    assert "nested more than" in read_tree(loop).faults[0].message
    assert read_tree([]).faults[0].where == "definition"
    assert read_tree(bad).definition is None


TEXTS = st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers(-(1 << 63), (1 << 63) - 1) | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)


@given(tree=st.dictionaries(st.text("ab: \"'\\\n{}é\U0001f600", max_size=5), VALUES, max_size=4))
@settings(deadline=None, max_examples=150)
def test_json_that_is_read_as_json_is_what_it_says_and_has_a_place_for_everything(tree):
    read_one = read(json.dumps(tree, indent=1), "json")
    assert read_one.tree == tree
    places = read_one._markup.places
    lines = json.dumps(tree, indent=1).split("\n")

    def visit(value, path):
        line, column = places.values[path]
        assert lines[line - 1][column - 1] in '"-0123456789ntf{['
        for key, inner in (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        ):
            visit(inner, (*path, key))

    visit(tree, ())


@given(text=st.text(st.characters(codec="utf-8")) | st.text("ab:- \n{}[]&*!|>'\"#%@`,?01.~\t<\\u"))
@settings(deadline=None, max_examples=400)
def test_any_text_is_read_or_refused_with_places(text):
    for media in ("yaml", "json", None):
        source = read(text, media)
        assert source.faults
        assert all(fault.line >= 1 and fault.column >= 1 and fault.message for fault in source.faults)


@given(data=st.binary(max_size=60))
@settings(deadline=None, max_examples=150)
def test_any_bytes_are_read_or_refused_with_places(data):
    source = read(data)
    assert source.faults
    assert all(fault.line >= 1 and fault.column >= 1 for fault in source.faults)
