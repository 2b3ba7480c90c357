"""Fills in what a step declares: its values with templates, and the constants around them."""

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct
from msgspec.structs import fields as fields_of

from pipeline.workflow.errors import StepFailed
from pipeline.workflow.plan import Node
from pipeline.workflow.scope import Place, Scope
from pipeline.workflow.templates import Compiled, Failed, Limits

_NOTHING: Mapping[str, Any] = {}


def fill(
    node: Node, field: str, place: Place, local: Mapping[str, Any] = _NOTHING, limits: Limits | None = None
) -> Any:
    """A field of the node's step, filled in at a place (dotted: something inside of it). Raises `StepFailed`."""
    compiled = node.values.get(field)
    if compiled is not None:
        return render(compiled, place, local, limits)
    value = _constant(node.step, field)
    prefix = field + "."
    if isinstance(value, dict | list | Struct) and any(name.startswith(prefix) for name in node.values):
        return _inside(field, value, lambda inner: fill(node, inner, place, local, limits))
    return value


def _inside(field: str, value: Any, filled: Callable[[str], Any]) -> Any:
    if isinstance(value, Struct):
        return {one.name: filled(f"{field}.{one.name}") for one in fields_of(type(value))}
    if isinstance(value, dict):
        return {name: filled(f"{field}.{name}") for name in value}
    return [filled(f"{field}.{index}") for index in range(len(value))]


def render(compiled: Compiled, place: Place, local: Mapping[str, Any] = _NOTHING, limits: Limits | None = None) -> Any:
    try:
        return compiled.render(Scope(place), local, limits)
    except Failed as failed:
        details = {"reference": failed.reference} if failed.reference else None
        raise StepFailed("template", failed.message, details=details) from failed


def _constant(step: Any, field: str) -> Any:
    """Keys of objects may have dots themselves: the longest that is there is meant."""
    head, dot, rest = field.partition(".")
    value = getattr(step, head)
    while dot:
        if isinstance(value, dict) and rest in value:
            return value[rest]
        head, dot, rest = rest.partition(".")
        value = _part(value, head)
    return value


def _part(value: Any, name: str) -> Any:
    if isinstance(value, dict):
        return value[name]
    if isinstance(value, list | tuple):
        return value[int(name)]
    return getattr(value, name)
