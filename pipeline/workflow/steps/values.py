"""What steps check of their fields once these are filled in. All raise `StepFailed` (`invalid_input`, not retryable)
naming the field."""

from typing import Any

import msgspec

from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import StepContext

_SHOWN = 60  # characters of a wrong value that are told back


def invalid(field: str, expected: str, value: Any) -> StepFailed:
    return StepFailed("invalid_input", f"{field}: expected {expected}, got {shown(value)}", details={"field": field})


def shown(value: Any) -> str:
    """What a value is, for people; long ones by their beginning."""
    if isinstance(value, dict):
        return f"an object of {len(value)}"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    try:
        text = value if isinstance(value, str) and len(value) > _SHOWN else msgspec.json.encode(value).decode()
    except (TypeError, ValueError, msgspec.MsgspecError):
        return f"something that is not JSON ({type(value).__name__})"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def text(context: StepContext, field: str, **local: Any) -> str:
    """A text. What is not one, but is there, is written as JSON."""
    return as_text(field, context.value(field, **local))


def as_text(field: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        raise invalid(field, "a text", value)
    return encoded(field, value).decode()


def name(context: StepContext, field: str) -> str:
    """A text that is not empty, and nothing else."""
    value = context.value(field)
    if not isinstance(value, str) or not value.strip():
        raise invalid(field, "a name", value)
    return value


def number(context: StepContext, field: str, least: float, most: float) -> float | None:
    value = context.value(field)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise invalid(field, f"a number from {least:g} to {most:g}", value)
    return float(value)


def integer(context: StepContext, field: str, least: int, most: int) -> int | None:
    value = context.value(field)
    if value is None:
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise invalid(field, f"an integer from {least} to {most}", value)
    return value


def encoded(field: str, value: Any) -> bytes:
    """As JSON."""
    try:
        return msgspec.json.encode(value)
    except (TypeError, ValueError, RecursionError, msgspec.MsgspecError) as error:
        raise StepFailed("invalid_input", f"{field}: not JSON: {error}", details={"field": field}) from error
