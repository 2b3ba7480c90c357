"""What is certain about the type of a value before anything runs."""

from collections.abc import Collection
from typing import Any

from pipeline.workflow.definition import (
    LlmStep,
    MapStep,
    ParallelStep,
    VectorSearchStep,
    VectorUpsertStep,
    WorkflowStep,
)
from pipeline.workflow.scopes import Scope
from pipeline.workflow.signature import Declared

_VALUES: dict[type, str] = {
    VectorSearchStep: "array",
    VectorUpsertStep: "object",
    MapStep: "array",
    ParallelStep: "object",
    WorkflowStep: "object",
}
_FIELDS = {"text": "string", "model": "string", "metadata": "object", "state": "string"}
_VALUE = frozenset({"value", "output"})


class Types:
    """The JSON types of what references in a scope lead to; none where that is not certain."""

    def __init__(self, scope: Scope, inputs: Declared) -> None:
        self._scope = scope
        self._inputs = inputs

    def of(self, reference: tuple[str, ...]) -> Collection[str]:
        match reference:
            case ("inputs" | "input", name):
                return self._input(name)
            case ("steps", name, field):
                return self._field(name, field)
            case ("steps" | "outputs", name):
                return self._field(name, "value") if reference[0] == "outputs" else ()
            case (name,):
                return self._flat(name)
        return ()

    def _input(self, name: str) -> Collection[str]:
        schema = self._inputs.names.get(name)
        found = schema.get("type") if isinstance(schema, dict) else None
        if isinstance(found, str):
            return (found,)
        return [one for one in found if isinstance(one, str)] if isinstance(found, list) else ()

    def _flat(self, name: str) -> Collection[str]:
        for scope in self._scope.outward():
            if name in scope.local:
                return ()
            if name in scope.names:
                named = scope.names[name]
                step = scope.steps[named.node]
                return () if named.inner else _type(step, named.field or "value")
        return self._input(name)

    def _field(self, name: str, field: str) -> Collection[str]:
        for scope in self._scope.outward():
            if name in scope.ids:
                step = scope.steps[scope.ids[name]]
                return _type(step, field)
        return ()


def _type(step: Any, field: str) -> Collection[str]:
    if step.on_failure == "fallback" or step.condition is not None:
        return ()
    if field in _VALUE or field == step.output:
        return _type_of_value(step)
    if field == "state" or (isinstance(step, LlmStep) and field in _FIELDS):
        return (_FIELDS[field],)
    return ()


def _type_of_value(step: Any) -> Collection[str]:
    if not isinstance(step, LlmStep):
        found = _VALUES.get(type(step))
        return (found,) if found else ()
    if step.output_schema is None:
        return ("string",)
    declared = step.output_schema.get("type") if isinstance(step.output_schema, dict) else None
    return (declared,) if isinstance(declared, str) else ()
