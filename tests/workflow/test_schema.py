"""The JSON schema and the reference page follow the structs."""

from pathlib import Path
from typing import get_args

import jsonschema_rs
import msgspec
import pytest
from msgspec.structs import fields

from pipeline.workflow import definition as parts
from pipeline.workflow import keywords
from pipeline.workflow.descriptions import DESCRIPTIONS, description
from pipeline.workflow.schema import json_schema, markdown
from pipeline.workflow.source import read
from pipeline.workflow.states import RunState, StepState
from pipeline.workflow.steps.transform_checks import _FIELDS
from tests.workflow.test_reading import EVERYTHING

ROOT = Path(__file__).parents[2]
STEPS = get_args(parts.AnyStep)
PARTS = (parts.Definition, *STEPS, parts.CustomStep, parts.Retry, parts.Message, parts.Case)


def test_every_key_has_a_description():
    for part in PARTS:
        for field in fields(part):
            assert description(part, field.encode_name), (part, field.name)


def test_no_description_is_of_a_key_that_is_gone():
    for part, keys in DESCRIPTIONS.items():
        assert keys.keys() <= set(part.__struct_encode_fields__), part


def test_the_reference_page_is_the_current_one():
    page = (ROOT / "docs" / "reference" / "workflow.md").read_text()
    assert page == markdown(), "run: headgate workflow schema --markdown > docs/reference/workflow.md"


def test_the_reference_names_every_key_type_operation_state_and_limit():
    page = markdown()
    for part in PARTS:
        for field in fields(part):
            assert f"| `{field.encode_name}` |" in page
    for step in STEPS:
        assert f"### `{step.__struct_config__.tag}`" in page
    for operation in _FIELDS:
        assert f"| `{operation}` |" in page
    for state in (*RunState, *StepState):
        assert f"| `{state}` |" in page
    for limit in (parts.MAX_STEPS, parts.MAX_BYTES):
        assert f"{limit:,}" in page


def test_what_the_reference_says_of_operations_is_what_is_checked():
    for operation, (needed, others) in _FIELDS.items():
        for key in needed | others:
            said = DESCRIPTIONS[parts.TransformStep][key]
            assert operation in said or said.startswith("all operations"), (operation, key)


SCHEMA = jsonschema_rs.Draft202012Validator(json_schema())


def test_the_schema_is_one_and_describes_every_key():
    jsonschema_rs.meta.validate(json_schema())
    named = json_schema()["$defs"]
    for part in PARTS:
        for field in fields(part):
            assert named[part.__name__]["properties"][field.encode_name]["description"]


@pytest.mark.parametrize("file", sorted((ROOT / "examples" / "workflows").glob("*.yaml")), ids=lambda file: file.stem)
def test_examples_fit_the_schema(file):
    assert [str(error) for error in SCHEMA.iter_errors(read(file.read_bytes()).tree)] == []


def test_what_is_read_fits_the_schema():
    for text in (EVERYTHING, "{name: x, steps: [{id: a, type: mine, options: {a: 1}}]}"):
        assert [str(error) for error in SCHEMA.iter_errors(read(text).tree)] == []
        assert [str(error) for error in SCHEMA.iter_errors(msgspec.to_builtins(read(text).definition))] == []


@pytest.mark.parametrize(
    "step",
    [
        {"id": "a", "type": "llm", "promt": "b"},
        {"id": "1a", "type": "wait"},
        {"id": "a", "type": "wait", "output": "a b"},
        {"id": "a", "type": "wait", "retry": {"max_attempts": 0}},
        {"id": "a", "type": "branch", "cases": [{"when": True, "then": [3]}]},
        {"id": "a", "type": "branch", "cases": [{"when": True, "then": [{"id": "b", "type": "wait", "x": 1}]}]},
        {"id": "a", "type": "parallel", "steps": [{"id": "b", "type": "wait", "x": 1}]},
        {"id": "a", "type": "transform", "operation": "fliter"},
    ],
)
def test_what_is_refused_does_not_fit_the_schema(step):
    tree = {"name": "x", "steps": [step]}
    assert not SCHEMA.is_valid(tree)
    assert read(msgspec.json.encode(tree), "json", kinds=()).faults


def test_the_builders_keywords_are_the_keys():
    """So that a type checker knows what the structs know."""
    for kind, keys, given in (
        (parts.LlmStep, keywords.Llm, set()),
        (parts.EmbedStep, keywords.Embed, set()),
        (parts.VectorSearchStep, keywords.Search, {"collection", "query"}),
        (parts.TransformStep, keywords.Transform, {"operation"}),
        (parts.ActionStep, keywords.Action, {"action"}),
        (parts.WaitStep, keywords.Wait, set()),
        (parts.ParallelStep, keywords.Parallel, {"steps"}),
        (parts.MapStep, keywords.Map, {"items", "steps"}),
        (parts.ReduceStep, keywords.Reduce, {"items", "steps"}),
        (parts.LoopStep, keywords.Loop, {"steps"}),
    ):
        assert keys.__annotations__.keys() | given | {"id"} == {field.name for field in fields(kind)}
    assert keywords.Retry.__annotations__.keys() == {field.name for field in fields(parts.Retry)}
    assert keywords.Message.__annotations__.keys() == {field.name for field in fields(parts.Message)}
