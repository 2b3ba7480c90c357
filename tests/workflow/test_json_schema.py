"""Schemas that may be used, those that may not, and what is told of values that do not fit."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.workflow.json_schema import MAX_FAULTS, MAX_MESSAGE, SchemaRefused, compile_schema

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
KEYWORDS = st.sampled_from(
    [
        *("type", "properties", "items", "anyOf", "allOf", "$ref", "$defs", "pattern", "enum", "required", "minimum"),
        *("not", "additionalProperties", "prefixItems", "format", "$anchor", "$dynamicRef", "const", "$id", "if"),
    ]
)
SCHEMAS = st.recursive(
    st.booleans() | st.sampled_from(["string", "#", "#/$defs/a", "^a+$", "(", "object"]) | st.integers(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS | st.just("a"), inner, max_size=4),
    max_leaves=25,
)


def refused(schema: Any) -> SchemaRefused:
    with pytest.raises(SchemaRefused) as caught:
        compile_schema(schema)
    return caught.value


def nested(levels: int, value: Any = "x") -> Any:
    for _ in range(levels):
        value = [value]
    return value


def test_every_fault_has_its_place():
    schema = {
        "type": "object",
        "required": ["name", "tags"],
        "additionalProperties": False,
        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"enum": ["a", "b"]}}},
    }
    validator = compile_schema(schema)
    assert validator.faults({"name": "x", "tags": ["a"]}) == []
    faults = dict(validator.faults({"name": 5, "tags": ["a", "c"], "more": 1}))
    assert faults[("name",)] == 'the value is not of type "string" (got 5)'
    assert "not one of" in faults[("tags", 1)]
    assert "more" in faults[()]


def test_faults_are_few_and_short():
    validator = compile_schema({"items": {"type": "string", "maxLength": 3}})
    faults = validator.faults(list(range(100)))
    assert len(faults) == MAX_FAULTS
    huge = "x" * 5_000_000
    (fault,) = validator.faults([huge])
    assert len(fault[1]) <= MAX_MESSAGE
    assert "xxxx" not in fault[1]
    (fault,) = compile_schema({"enum": ["y" * 10_000]}).faults("z")
    assert len(fault[1]) <= MAX_MESSAGE


def test_large_values_are_told_their_first_fault():
    value: list[Any] = ["x"] * 200_000
    assert compile_schema({"items": {"type": "string"}}).faults(value) == []
    value[7] = 1
    ((path, message),) = compile_schema({"items": {"type": "string"}}).faults(value)
    assert path == (7,)
    assert "string" in message
    ((path, message),) = compile_schema({"anyOf": [{"items": {"type": "string"}}, {"type": "null"}]}).faults(value)
    assert path == ()
    assert "too large" in message


def test_alternatives_say_why_none_fits():
    validator = compile_schema({"anyOf": [{"type": "string"}, {"type": "object", "required": ["id"]}]})
    ((_, message),) = validator.faults({})
    assert '"string"' in message
    assert '"id" is a required property' in message


@pytest.mark.parametrize("value", [{1: 2}, {1, 2}, b"x", object(), "\ud800"])
def test_what_is_not_json_is_a_fault(value: Any):
    ((path, message),) = compile_schema({"not": {"type": "null"}}).faults(value)
    assert path == ()
    assert message.startswith("not JSON")


def test_formats_are_checked():
    assert compile_schema({"format": "date-time"}).faults("yesterday")
    assert not compile_schema({"format": "date-time"}).faults("2024-02-29T12:00:00Z")


@pytest.mark.parametrize(
    ("schema", "path", "message"),
    [
        ("text", (), "object"),
        ({"type": "strin"}, ("type",), "expected null, boolean"),
        ({"properties": {"a": {"type": 5}}}, ("properties", "a", "type"), "expected null"),
        ({"properties": {"a": {"pattern": "("}}}, ("properties", "a", "pattern"), "pattern"),
        ({"pattern": "(?=a)b"}, ("pattern",), "look-around"),
        ({"pattern": r"(a)\1"}, ("pattern",), "references"),
        ({"pattern": "(a{1000}){1000}"}, ("pattern",), "too large"),
        ({"$ref": "http://127.0.0.1:1/x"}, ("$ref",), "only references within"),
        ({"$ref": "file:///etc/passwd"}, ("$ref",), "only references within"),
        ({"$defs": {"a": {"$ref": "other.json"}}}, ("$defs", "a", "$ref"), "only references within"),
        ({"$ref": 5}, ("$ref",), "only references within"),
        ({"$ref": "#/$defs/none"}, ("$ref",), "leads to no schema"),
        ({"$ref": "#nowhere"}, ("$ref",), "leads to no schema"),
        ({"$ref": "#"}, ("$ref",), "without end"),
        ({"allOf": [{"$ref": "#"}]}, ("allOf", 0, "$ref"), "without end"),
        ({"$schema": "http://json-schema.org/draft-07/schema#"}, ("$schema",), "2020-12"),
        ({"properties": {"a": {"$id": "http://x/"}}}, ("properties", "a", "$id"), "$id"),
        ({"a": {1: 2}}, ("a",), "not a text"),
        ({"enum": ["x" * 300_000]}, (), "too large"),
    ],
)
def test_what_may_not_be_used(schema: Any, path: tuple[str | int, ...], message: str):
    found = refused(schema)
    assert found.path == path
    assert message in found.message
    assert len(found.message) <= MAX_MESSAGE


def test_a_circle_is_found_however_one_comes_into_it():
    first = {"$defs": {"a": {"items": {"$ref": "#/$defs/c"}, "$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
    first["$defs"]["c"] = {"$ref": "#/$defs/b"}
    assert "without end" in refused(first).message
    chain: dict[str, Any] = {f"a{i}": {"$ref": f"#/$defs/a{i + 1}"} for i in range(3000)}
    compile_schema({"$defs": {**chain, "a3000": {}}, "$ref": "#/$defs/a0"})
    assert "without end" in refused({"$defs": {**chain, "a3000": {"$ref": "#/$defs/a5"}}}).message


def test_names_that_look_like_keywords_are_names():
    schema = {"properties": {"$ref": {"type": "string"}, "$id": {}}, "examples": [{"$ref": "http://x/"}]}
    assert compile_schema(schema).faults({"$ref": 1})
    assert not compile_schema(schema).faults({"$ref": "http://x/"})


def test_recursion_through_parts_of_the_value_is_fine():
    tree = {
        "$defs": {
            "node": {
                "type": "object",
                "required": ["v"],
                "properties": {"v": {"type": "integer"}, "in": {"type": "array", "items": {"$ref": "#/$defs/node"}}},
            }
        },
        "$ref": "#/$defs/node",
    }
    value: dict[str, Any] = {"v": 0}
    for number in range(40):
        value = {"v": number, "in": [value]}
    assert compile_schema(tree).faults(value) == []
    value["in"][0]["in"][0]["v"] = "x"
    (((*path, last), _),) = compile_schema(tree).faults(value)
    assert (path, last) == (["in", 0, "in", 0], "v")


def test_recursion_that_doubles_is_held_to_shallow_values():
    twice = {"anyOf": [{"items": {"$ref": "#/$defs/n"}}, {"items": {"$ref": "#/$defs/n"}}], "type": "array"}
    validator = compile_schema({"$defs": {"n": twice}, "$ref": "#/$defs/n"})
    assert validator.faults(nested(3, [])) == []
    began = time.monotonic()
    assert validator.faults(nested(8))
    assert "nested too deeply" in validator.faults(nested(20))[0][1]
    assert time.monotonic() - began < 5  # the library alone takes hours


@pytest.mark.parametrize("part", [None, "items"])
def test_a_schema_that_grows_when_written_out_is_too_large(part: str | None):
    def both(name: str) -> dict[str, Any]:
        inner = {"$ref": f"#/$defs/{name}"}
        return {"allOf": [inner if part is None else {part: inner}] * 2}

    levels: dict[str, Any] = {f"a{i}": both(f"a{i + 1}") for i in range(60)}
    assert "too large" in refused({"$defs": {**levels, "a60": {}}, "$ref": "#/$defs/a0"}).message


def test_deep_schemas_and_values():
    schema: dict[str, Any] = {}
    for _ in range(5000):
        schema = {"items": schema}
    assert "nested too deeply" in refused(schema).message
    assert "nested too deeply" in compile_schema(True).faults(nested(5000))[0][1]


def test_patterns_take_linear_time():
    began = time.monotonic()
    assert compile_schema({"pattern": "^(a+)+$"}).faults("a" * 100_000 + "b")
    assert time.monotonic() - began < 5


def test_the_same_schema_is_made_ready_once():
    assert compile_schema({"type": "string", "minLength": 1}) is compile_schema({"minLength": 1, "type": "string"})
    for number in range(600):
        compile_schema({"const": number})
    assert compile_schema({"const": 599}).faults(1)


@given(SCHEMAS, JSON)
def test_any_schema_is_refused_or_judges_any_value(schema: Any, value: Any):
    try:
        validator = compile_schema(schema)
    except SchemaRefused:
        return
    for path, message in validator.faults(value):
        assert isinstance(path, tuple)
        assert 0 < len(message) <= MAX_MESSAGE
