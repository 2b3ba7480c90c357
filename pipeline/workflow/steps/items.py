"""What map and reduce go over."""

from typing import Any

from msgspec import UNSET

from pipeline.workflow.doing import Doing
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.filling import fill
from pipeline.workflow.frame import Frame

MAX_ITEMS = 100_000


def listed(value: Any) -> list[Any]:
    """Raises `StepFailed` for what is not a list, or is a very long one."""
    if not isinstance(value, list | tuple):
        raise StepFailed("invalid_value", f"items: it must be a list, but it is {_named(value)}")
    if len(value) > MAX_ITEMS:
        raise StepFailed("too_large", f"items: {len(value)} of them, at most {MAX_ITEMS} are allowed")
    return list(value)


def turn_value(doing: Doing, frame: Frame, field: str) -> Any:
    """What a turn came to: the step's `field`, filled in inside of the frame; where there is none, the value of the
    last step."""
    if getattr(doing.node.step, field) is not UNSET:
        return fill(doing.node, field, frame, limits=doing.run.shared.limits)
    last = frame.outcomes[-1]
    return None if last is None else last.value


def _named(value: Any) -> str:
    names = {dict: "an object", str: "a text", bool: "true or false", int: "a number", float: "a number"}
    return "null" if value is None else names.get(type(value), type(value).__name__)
