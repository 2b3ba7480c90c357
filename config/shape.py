"""The schema as data: what may stand at a key, decided and put into words."""

import math
import re
from functools import cache
from inspect import get_annotations
from typing import Any

import msgspec
from msgspec import inspect

from config.paths import KeyPath, is_secret, nearest, quote
from config.schema import Config

Leaf = inspect.BoolType | inspect.IntType | inspect.FloatType | inspect.StrType | inspect.LiteralType
Table = inspect.StructType | inspect.UnionType | inspect.DictType

_INT64 = (-(1 << 63), (1 << 63) - 1)  # what TOML promises to carry
_ADDRESSES = {("url",), ("base_url",), ("target",)}
_LISTED = 10  # keys
_SHOWN = 80  # characters of a value that are repeated


@cache
def root() -> inspect.StructType:
    return of(Config)


def of(section: type[msgspec.Struct]) -> inspect.StructType:
    info = inspect.type_info(section)
    if not isinstance(info, inspect.StructType):
        raise TypeError(f"{section} is not a struct")
    return info


def bare(info: inspect.Type) -> tuple[inspect.Type, str]:
    """The type without `None` (which TOML cannot say) and without its description, and that description."""
    description = ""
    while True:
        if isinstance(info, inspect.Metadata):
            description = (info.extra_json_schema or {}).get("description", description)
            info = info.type
        elif isinstance(info, inspect.UnionType) and info.includes_none:
            rest = tuple(one for one in info.types if not isinstance(one, inspect.NoneType))
            info = rest[0] if len(rest) == 1 else inspect.UnionType(rest)
        else:
            return info, description


def variants(info: inspect.UnionType) -> dict[str, inspect.StructType]:
    """A tagged union's structs by their tag."""
    return {str(one.tag): one for one in info.types if isinstance(one, inspect.StructType)}


def leaves(info: inspect.Type) -> tuple[Leaf, ...]:
    """The plain values that may stand here, one type or a choice of several; empty for a table or an array."""
    kind = bare(info)[0]
    if isinstance(kind, Leaf):
        return (kind,)
    if not isinstance(kind, inspect.UnionType):
        return ()
    found = tuple(leaf for one in kind.types for leaf in leaves(one))
    return found if len(found) == len(kind.types) else ()


def keys(info: inspect.StructType) -> list[str]:
    tag = [info.tag_field] if info.tag_field else []
    return [*tag, *(field.encode_name for field in info.fields)]


def listed(info: inspect.StructType) -> str:
    """Some of the keys, for people: those of the table's own kind before those that all kinds have."""
    bases = info.cls.__mro__
    rank = {name: place for place in reversed(range(len(bases))) for name in get_annotations(bases[place])}
    ordered = sorted(info.fields, key=lambda field: rank.get(field.name, 0))
    names = [*([info.tag_field] if info.tag_field else []), *(field.encode_name for field in ordered)]
    return ", ".join(names[:_LISTED]) + (", …" if len(names) > _LISTED else "")


def tag_field(info: inspect.UnionType) -> str:
    return next(one.tag_field for one in variants(info).values() if one.tag_field)


def common(info: inspect.UnionType) -> inspect.StructType:
    """What all structs of a union share: the nearest class that all of them descend from."""
    classes = [one.cls for one in variants(info).values()]
    return of(next(base for base in classes[0].__mro__ if all(issubclass(one, base) for one in classes)))


def elsewhere(key: str, top: inspect.StructType | None = None) -> KeyPath:
    """Where a key of this name stands among the tables that every configuration (or other file, of the type `top`)
    may have once; empty when nowhere."""
    pending: list[tuple[KeyPath, inspect.StructType]] = [((), root() if top is None else top)]
    while pending:
        path, info = pending.pop(0)
        if path and key in keys(info):
            return (*path, key)
        inner = ((field.encode_name, bare(field.type)[0]) for field in info.fields)
        pending += [((*path, name), kind) for name, kind in inner if isinstance(kind, inspect.StructType)]
    return ()


def fits(value: Any, info: Leaf) -> bool:
    """Whether msgspec would take the value, and JSON could say it."""
    match info:
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.LiteralType():
            return isinstance(value, str) and value in info.values
        case inspect.IntType():
            return _is_int(value) and _within(value, info)
        case inspect.FloatType():
            return (_is_int(value) or (isinstance(value, float) and math.isfinite(value))) and _within(value, info)
        case inspect.StrType():
            return isinstance(value, str) and _matches(value, info)


def _is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and _INT64[0] <= value <= _INT64[1]


def _within(value: float, info: inspect.IntType | inspect.FloatType) -> bool:
    enough = (info.ge is None or value >= info.ge) and (info.gt is None or value > info.gt)
    return enough and (info.le is None or value <= info.le) and (info.lt is None or value < info.lt)


def _matches(value: str, info: inspect.StrType) -> bool:
    long_enough = info.min_length is None or len(value) >= info.min_length
    short_enough = info.max_length is None or len(value) <= info.max_length
    return long_enough and short_enough and (info.pattern is None or re.search(info.pattern, value) is not None)


def describe(info: inspect.Type) -> str:
    """What the type takes, in words."""
    info, description = bare(info)
    if description:
        return description
    if len(plain := leaves(info)) > 1:
        return " or ".join(_describe_leaf(one) for one in plain)
    if isinstance(info, inspect.ListType):
        what = "tables" if isinstance(bare(info.item_type)[0], Table) else "texts"
        return f"an array of {_amount(info.min_length, info.max_length)} {what}".replace("  ", " ")
    return _describe_leaf(info) if isinstance(info, Leaf) else "a table"


def _describe_leaf(info: Leaf) -> str:
    match info:
        case inspect.BoolType():
            return "true or false"
        case inspect.LiteralType():
            named = ", ".join(quote(str(one)) for one in info.values)
            return named if len(info.values) == 1 else f"one of {named}"
        case inspect.IntType():
            return "a whole number" + _range(info)
        case inspect.FloatType():
            return "a number" + _range(info)
        case inspect.StrType():
            length = _amount(info.min_length, info.max_length)
            return f"a text of {length} characters" if length else "a text"


def _range(info: inspect.IntType | inspect.FloatType) -> str:
    if info.gt is not None or info.lt is not None:
        low = _amount(info.ge, None) if info.gt is None else f"above {_plain(info.gt)}"
        high = _amount(None, info.le) if info.lt is None else f"below {_plain(info.lt)}"
        return " " + " and ".join(part for part in (low, high) if part)
    amount = _amount(info.ge, info.le)
    if not amount:
        return ""
    return f" of {amount}" if info.ge is None or info.le is None else f" from {amount}"


def _amount(low: float | None, high: float | None) -> str:
    if low is not None and high is not None:
        return f"{_plain(low)} to {_plain(high)}"
    if low is not None:
        return f"at least {_plain(low)}"
    return "" if high is None else f"at most {_plain(high)}"


def _plain(number: float) -> str:
    return f"{int(number) if float(number).is_integer() else number:,}"


def shown(value: Any, path: KeyPath) -> str:
    """A value as found, short and without secrets."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return f"an array of {len(value)}"
    return _hidden(value, path) or _literal(value)


def _hidden(value: Any, path: KeyPath) -> str:
    if is_secret(path):
        return "a value that is not shown"
    text = value if isinstance(value, str) else ""
    if not ("://" in text or path[-1:] in _ADDRESSES or path[-2:-1] == ("replicas",)):
        return ""
    if "@" in text:
        return "an address with credentials, not shown"
    return "an address with a query, not shown" if "?" in text or "#" in text else ""


def _literal(value: Any) -> str:
    match value:
        case str():
            return quote(value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…")
        case bool():
            return "true" if value else "false"
        case int() if not _is_int(value):
            return "a number of more than 64 bits"
        case _:
            return str(value)


def suggested(value: Any, choice: tuple[Leaf, ...]) -> str:
    """A valid value of one of these types that the given one probably means; empty when none is near."""
    return next(filter(None, (suggestion(value, one) for one in choice)), "")


def suggestion(value: Any, info: Leaf) -> str:
    """The same for one type."""
    if isinstance(info, inspect.LiteralType):
        match = nearest(str(value), [str(one) for one in info.values])
        return quote(match) if match else ""
    meant = _meant(value, info)
    return _literal(meant) if meant is not None and fits(meant, info) else ""


def _meant(value: Any, info: Leaf) -> Any:
    """The same value as TOML should say it: a number in quotes without them, a number as text within them."""
    if isinstance(info, inspect.StrType):
        return _literal(value) if isinstance(value, bool | int | float) else None
    if isinstance(value, str) and len(value) <= _SHOWN:
        try:
            value = msgspec.json.decode(value.strip().lower())
        except (msgspec.DecodeError, UnicodeEncodeError):
            return None
    return int(value) if isinstance(value, float) and value.is_integer() else value
