"""How a template reaches parts of what it is given: keys of objects, places in lists, and a few methods."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from jinja2.runtime import LoopContext

ABSENT: Final = object()
METHODS = frozenset(
    "strip lstrip rstrip split lower upper title capitalize startswith endswith join replace "
    "items keys values get cycle changed".split()
)
_OF_TEXT = frozenset("strip lstrip rstrip split lower upper title capitalize startswith endswith join replace".split())
_OF_OBJECTS = frozenset("items keys values get".split())
_OF_LOOPS = frozenset("cycle changed".split())
_LOOP_PARTS = frozenset("index index0 revindex revindex0 first last length depth depth0 previtem nextitem".split())
_SHOWN = 12


class Absent(Exception):
    """There is no such part. `reference` is all of the name, as it is written."""

    def __init__(self, message: str, reference: str) -> None:
        super().__init__(message)
        self.reference = reference


def part_of(value: Any, key: Any) -> Any:
    """`value[key]` for objects, lists and texts; `ABSENT` where there is nothing."""
    try:
        if type(value) is dict:
            return value.get(key, ABSENT)
        return _part_of_other(value, key)
    except (LookupError, TypeError):  # also for a key that is a list
        return ABSENT


def _part_of_other(value: Any, key: Any) -> Any:
    if isinstance(value, list | str | tuple | range):
        if type(key) is int:
            return value[key]
        if key in ("grouper", "list") and hasattr(type(value), "_fields"):  # of `groupby`
            return getattr(value, key)
    elif isinstance(value, Mapping):
        return value[key]
    elif isinstance(value, LoopContext) and key in _LOOP_PARTS:
        return getattr(value, key)
    return ABSENT


def method_of(value: Any, name: Any) -> Any:
    if not isinstance(name, str):
        return ABSENT
    if isinstance(value, str):
        return getattr(value, name) if name in _OF_TEXT else ABSENT
    if isinstance(value, Mapping):
        return getattr(value, name) if name in _OF_OBJECTS else ABSENT
    if isinstance(value, LoopContext):
        return getattr(value, name) if name in _OF_LOOPS else ABSENT
    return ABSENT


def follow(value: Any, name: str, keys: Sequence[Any], *, methods: bool = False) -> Any:
    """What `name.key.key` leads to, where `value` is what `name` stands for. Raises `Absent`."""
    for at, key in enumerate(keys):
        found = part_of(value, key)
        if found is ABSENT and methods:
            found = method_of(value, key)
        if found is ABSENT:
            raise _absent(value, name, keys, at)
        value = found
    return value


def reference_of(name: str, keys: Sequence[Any]) -> str:
    """As one would write it: `steps.draft.items[0]`."""
    return name + "".join(
        f".{key}" if isinstance(key, str) and key.isidentifier() else f"[{_short(key)!r}]" for key in keys
    )


def _absent(value: Any, name: str, keys: Sequence[Any], at: int) -> Absent:
    reference, owner = reference_of(name, keys[: at + 1]), reference_of(name, keys[:at])
    whole = reference_of(name, keys)
    return Absent(f"`{reference}` is not there: `{owner}` {_has(value)}", whole)


def _has(value: Any) -> str:
    if value is None:
        return "is null"
    if isinstance(value, bool | int | float):
        return "is a number" if not isinstance(value, bool) else "is true or false"
    if isinstance(value, str):
        return f"is a text of {len(value)} characters"
    if isinstance(value, Mapping):
        names = [_short(key) for _, key in zip(range(_SHOWN + 1), value, strict=False)]
        more = ", …" if len(names) > _SHOWN else ""
        return f"has: {', '.join(map(str, names[:_SHOWN]))}{more}" if names else "is empty"
    if isinstance(value, list | tuple | range):
        return f"is a list of {len(value)}" if len(value) else "is an empty list"
    return f"is a {type(value).__name__}"


def _short(key: Any) -> Any:
    return key[:40] + "…" if isinstance(key, str) and len(key) > 40 else key
