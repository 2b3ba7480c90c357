"""What a step comes to must be JSON, and of a size that can be kept."""

import math
from typing import Any

import msgspec

from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Result

MAX_NESTING = 100  # lists and objects within each other
# Of a value, whatever its size: making millions of small things keeps the event loop from all else.
MAX_PARTS = 1_000_000  # items of lists; names and values of objects
MAX_CONTAINERS = 100_000  # lists and objects
_LOOKED_AT = 200  # parts
_SHOWN = 80  # characters of a key in a message

TOO_MANY = f"more than {MAX_PARTS} values, or than {MAX_CONTAINERS} lists and objects"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


def checked(result: object, max_bytes: int) -> Result:
    """The result as others may keep it: a copy made of plain JSON. Raises `StepFailed` of kind `not_json` for what is
    not (a number that is none, a key that is no text, some other object, lists and objects more than 100 deep) and of
    kind `too_large`."""
    if not isinstance(result, Result):
        raise StepFailed("not_json", f"the step gave a {type(result).__name__}, not a Result")
    left = max_bytes
    value, size = _checked("value", result.value, left)
    if not result.fields:
        return Result(value)
    left -= size
    fields = {}
    for name, field in result.fields.items():
        fields[name], size = _checked(name, field, left)
        left -= size
    return Result(value, fields)


def _checked(name: str, value: Any, max_bytes: int) -> tuple[Any, int]:
    """With its length as JSON."""
    if value is None or value is True or value is False:
        return value, 4
    if type(value) is not str and _texts(value) > max_bytes:
        raise StepFailed("too_large", f"the step's {name} is too large: more than {max_bytes} bytes as JSON")
    try:
        data = _encode(value)
    except (TypeError, ValueError, OverflowError, UnicodeEncodeError, RecursionError, msgspec.MsgspecError) as error:
        raise StepFailed("not_json", f"the step's {name} is not JSON: {error}") from error
    if len(data) > max_bytes:
        raise StepFailed("too_large", f"the step's {name} is too large: {len(data)} bytes as JSON, {max_bytes} allowed")
    if type(value) is str:
        return value, len(data)
    if too_many(data):
        raise StepFailed("too_large", f"the step's {name} is too large: {TOO_MANY}")
    if data.count(b"[") + data.count(b"{") > MAX_NESTING:
        _check_depth(name, value)
    copy = _decode(data)
    if copy != value:
        _explain(name, value)
    return copy, len(data)


def _texts(value: Any) -> int:
    """Characters of the texts that are found in it soon: enough to refuse large ones together before they are
    copied."""
    size, left, waiting = 0, _LOOKED_AT, [value]
    while waiting and left:
        one = waiting.pop()
        left -= 1
        if type(one) is str:
            size += len(one)
        elif type(one) is dict and len(one) <= left:
            waiting.extend(one.values())
        elif type(one) is list and len(one) <= left:
            waiting.extend(one)
    return size


def too_many(data: bytes) -> bool:
    """Whether a value, given as JSON, has more parts than are allowed. What is not JSON may be taken for such."""
    if not _crowded(data):
        return False
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 2 * MAX_PARTS + 2:
        return True
    return _crowded(b"".join(bare.split(b'"')[::2]))  # without what stands in texts


def _crowded(data: bytes) -> bool:
    return data.count(b",") + data.count(b":") > MAX_PARTS or data.count(b"[") + data.count(b"{") > MAX_CONTAINERS


def _check_depth(name: str, value: Any) -> None:
    level = [value]
    for _ in range(MAX_NESTING + 1):
        following: list[Any] = []
        for one in level:
            inner = one.values() if isinstance(one, dict) else one if isinstance(one, list | tuple) else ()
            following.extend(item for item in inner if isinstance(item, dict | list | tuple))
        level = following
        if not level:
            return
    raise StepFailed("not_json", f"the step's {name} is nested more than {MAX_NESTING} deep")


def _explain(name: str, value: Any) -> None:
    """Raises unless it differs from its copy by nothing but tuples in the place of lists."""
    stack = [(name, value)]
    while stack:
        where, one = stack.pop()
        if isinstance(one, dict):
            for key, inner in one.items():
                if type(key) is not str:
                    raise StepFailed("not_json", f"{where} has the key {key!r}, which is no text"[: 2 * _SHOWN])
                stack.append((f"{where}.{key[:_SHOWN]}", inner))
        elif isinstance(one, list | tuple):
            stack.extend((f"{where}[{index}]", inner) for index, inner in enumerate(one))
        elif isinstance(one, float) and not math.isfinite(one):
            raise StepFailed("not_json", f"{where} is {one}, which JSON does not have")
        elif one is not None and not isinstance(one, str | int | float):
            raise StepFailed("not_json", f"{where} is a {type(one).__name__}, which JSON does not have")
