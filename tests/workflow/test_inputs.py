"""A run's inputs: defaults filled in, everything that is wrong told at once."""

import time

import pytest

from pipeline.workflow.errors import InputRefused
from pipeline.workflow.inputs import check
from pipeline.workflow.source import read_tree


def workflow(inputs=None):
    tree = {"name": "x", "steps": [{"id": "a", "type": "wait", "seconds": 1}]}
    source = read_tree(tree if inputs is None else {**tree, "inputs": inputs})
    source.raise_if_any()
    assert source.definition is not None
    return source.definition


SHORT = {
    "text": {"type": "string", "minLength": 1},
    "count": {"type": "integer", "default": 3, "maximum": 9},
    "options": {
        "type": "object",
        "default": {},
        "properties": {"deep": {"type": "boolean", "default": True}},
        "additionalProperties": False,
    },
}


def refused(inputs, given):
    with pytest.raises(InputRefused) as caught:
        check(workflow(inputs), given)
    return {fault.where: (fault.message, fault.hint) for fault in caught.value.faults}


def test_defaults_are_filled_in_and_what_was_given_is_left_alone():
    given = {"text": "a", "options": {}}
    assert check(workflow(SHORT), given) == {"text": "a", "count": 3, "options": {"deep": True}}
    assert given == {"text": "a", "options": {}}


def test_the_short_form_is_a_schema_of_an_object_afterwards():
    definition = workflow(SHORT)
    assert definition.inputs == {
        "type": "object",
        "properties": SHORT,
        "required": ["text"],
        "additionalProperties": False,
    }
    assert workflow(definition.inputs).inputs == definition.inputs


def test_a_schema_is_taken_as_it_is():
    schema = {"type": "object", "properties": {"n": {"type": "number"}}, "required": ["n"]}
    assert check(workflow(schema), {"n": 1.5, "more": "is fine"}) == {"n": 1.5, "more": "is fine"}
    assert "inputs.n" in refused(schema, {})


def test_everything_that_is_wrong_is_told_at_once():
    found = refused(SHORT, {"txet": "a", "count": 10, "options": {"deep": 1}})
    assert found["inputs.txet"] == (
        "there is no such input: the workflow takes text, count, options",
        "did you mean text?",
    )
    assert found["inputs.text"][0] == "is missing"
    assert "9" in found["inputs.count"][0]
    assert "boolean" in found["inputs.options.deep"][0]
    assert set(found) == {"inputs.txet", "inputs.text", "inputs.count", "inputs.options.deep"}


def test_a_workflow_without_inputs_takes_none():
    assert check(workflow(), None) == check(workflow(), {}) == {}
    assert refused(None, {"a": 1}) == {"inputs.a": ("there is no such input: the workflow takes none", "")}


@pytest.mark.parametrize("given", [[], "text", 3, True])
def test_inputs_are_an_object(given):
    assert list(refused(SHORT, given)) == ["inputs"]


def test_inputs_that_are_nested_too_deeply_or_are_no_json_are_refused():
    deep: dict = {}
    for _ in range(300):
        deep = {"a": deep}
    ((where, (message, _)),) = refused({"type": "object"}, deep).items()
    assert where.startswith("inputs.a.a")
    assert "nested" in message
    assert refused({"type": "object"}, {"a": {1, 2}})


def test_a_schema_that_cannot_be_used_is_told_as_such():
    found = refused({"type": "object", "properties": {"a": {"$ref": "http://127.0.0.1:1/schema.json"}}}, {"a": 1})
    assert any("schema cannot be used" in message for message, _ in found.values())


@pytest.mark.parametrize(
    "given",
    [{"a": float("nan")}, {"a": [float("inf")]}, {"a": "\ud800"}, {"\udfff": 1}, {"a": {1: 2}}, {"a": 1 << 70}],
)
def test_what_is_strange_is_refused_however_quickly_it_is_looked_at(given):
    with pytest.raises(InputRefused):
        check(workflow({"a": {}}), given)


@pytest.mark.alone
def test_hundreds_of_thousands_of_objects_are_looked_at_quickly():
    given = {"a": [{"b": 1}] * 190_000}
    before = time.process_time()
    assert check(workflow({"a": {}}), given) == given
    assert time.process_time() - before < 0.6
