"""Inputs on the command line."""

import io
import sys
from pathlib import Path

import pytest

from pipeline.operate.workflow import exits
from pipeline.operate.workflow.given import inputs
from pipeline.workflow.definition import Definition

DEFINITION = Definition(
    name="x",
    steps=[],
    inputs={
        "text": {"type": "string"},
        "count": {"type": "integer"},
        "tags": {"type": "array"},
        "tone": {"enum": ["1", "kind"]},
        "either": {"type": ["string", "null"]},
        "any": True,
    },
)


@pytest.mark.parametrize(
    ("pair", "value"),
    [
        ("text=1", "1"),
        ("text=a=b\nc", "a=b\nc"),
        ("text=", ""),
        ("count=3", 3),
        ('tags=["a", 2]', ["a", 2]),
        ("tone=1", "1"),
        ("either=null", None),
        ("either=nothing", "nothing"),
        ("any={}", {}),
        ("any=some words", "some words"),
        ("unknown=2", 2),
    ],
)
def test_a_value_is_read_as_its_schema_wants(pair, value):
    assert inputs(DEFINITION, [pair], None) == {pair.partition("=")[0]: value}


def test_without_a_definition_json_is_json():
    assert inputs(None, ["a=1", "b=x"], None) == {"a": 1, "b": "x"}


def test_all_that_is_no_json_is_told_at_once():
    with pytest.raises(exits.Ended) as refused:
        inputs(DEFINITION, ["count=many", "tags=a,b"], None)
    assert refused.value.exit_code == 2
    first, second = refused.value.message.splitlines()
    assert first.startswith("inputs.count: 'many' is no integer (")
    assert second.startswith("inputs.tags: 'a,b' is no array (")


@pytest.mark.parametrize("pair", ["text", "=x", ""])
def test_no_pair(pair):
    with pytest.raises(exits.Ended, match="expected NAME=VALUE"):
        inputs(DEFINITION, [pair], None)


@pytest.mark.parametrize(("name", "text"), [("i.json", '{"text": "a", "count": 1}'), ("i.yaml", "text: a\ncount: 1\n")])
def test_a_file_and_pairs_over_it(tmp_path, name, text):
    file = tmp_path / name
    file.write_text(text)
    assert inputs(DEFINITION, ["count=2"], file) == {"text": "a", "count": 2}


def test_standard_input(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"text": "a"}')))
    assert inputs(DEFINITION, [], Path("-")) == {"text": "a"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[1]", "i must hold an object"),
        ("{", "i:2:1 cannot be read: not YAML"),
        ("a: 1\nb: [", "i:3:1 cannot be read: not YAML"),
        ("1: 2", "i:1:1 cannot be read: a key that is not a text"),
        ("\0", "i:1:1 cannot be read: a control character"),
    ],
)
def test_a_file_that_is_no_object(tmp_path, text, said):
    file = tmp_path / "i"
    file.write_text(text)
    with pytest.raises(exits.Ended, match=said) as refused:
        inputs(DEFINITION, [], file)
    assert refused.value.exit_code == 2


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(exits.Ended, match=r"cannot read .*nowhere: No such file"):
        inputs(DEFINITION, [], tmp_path / "nowhere")
