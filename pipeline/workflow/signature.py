"""What a workflow may be given: its declared inputs, whichever way they are written."""

from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from pipeline.workflow.definition import Definition

_OPEN = ("$ref", "allOf", "anyOf", "oneOf", "patternProperties", "if", "dependentSchemas")


class Declared(NamedTuple):
    """Inputs of a workflow, with their schemas. `others`: ones that are not declared may be given too."""

    names: Mapping[str, Any]
    required: Collection[str] = ()
    others: bool = False


def is_schema(inputs: Mapping[str, Any]) -> bool:
    """Whether they are a JSON schema of an object, rather than name -> schema."""
    return inputs.get("type") == "object" or "$schema" in inputs or "$ref" in inputs


def declared_inputs(definition: Definition) -> Declared:
    """Names with their schemas, and which of them must be given."""
    inputs = definition.inputs
    if not is_schema(inputs):
        return Declared(inputs, [name for name, schema in inputs.items() if not _has_default(schema)])
    properties = inputs.get("properties")
    names: dict[str, Any] = properties if isinstance(properties, dict) else {}
    listed = inputs.get("required")
    required = [one for one in listed if isinstance(one, str)] if isinstance(listed, list) else []
    others = bool(inputs.get("additionalProperties", False)) or any(key in inputs for key in _OPEN)
    return Declared(names, [name for name in required if not _has_default(names.get(name))], others)


def _has_default(schema: Any) -> bool:
    return isinstance(schema, dict) and "default" in schema
