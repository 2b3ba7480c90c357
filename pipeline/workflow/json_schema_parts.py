"""Where in a JSON schema (2020-12) others stand, and what they look at."""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

Path = tuple[str | int, ...]

# Keywords that hold schemas: those that look at the same value, and those that look at a part of it.
_SAME = ("not", "if", "then", "else")
_SAME_LISTS = ("allOf", "anyOf", "oneOf")
_PART = (
    "items",
    "contains",
    "additionalProperties",
    "propertyNames",
    "unevaluatedItems",
    "unevaluatedProperties",
    "contentSchema",
)
_PART_MAPS = ("properties", "patternProperties")
_APART_MAPS = ("$defs", "definitions")
# With those, all that a schema of 2020-12 can say, and some of older ones.
_OTHERS = (
    "dependentSchemas prefixItems type enum const multipleOf maximum exclusiveMaximum minimum exclusiveMinimum "
    "maxLength minLength pattern maxItems minItems uniqueItems maxContains minContains maxProperties "
    "minProperties required dependentRequired format contentEncoding contentMediaType title description "
    "default deprecated readOnly writeOnly examples dependencies additionalItems"
)
KEYWORDS = frozenset([*_SAME, *_SAME_LISTS, *_PART, *_PART_MAPS, *_APART_MAPS, *_OTHERS.split()])


class Edge(NamedTuple):
    """Leads from a schema to one that it applies: to the same value (`part` empty), or to a part of it."""

    part: str
    path: Path
    target: Any


def schemas_of(root: dict[str, Any]) -> Iterator[tuple[Path, dict[str, Any]]]:
    """All that stand in one, itself first."""
    waiting: list[tuple[Path, Any]] = [((), root)]
    while waiting:
        path, schema = waiting.pop()
        yield path, schema
        waiting += [(edge.path, edge.target) for edge in edges_of(path, schema)]
        for keyword in _APART_MAPS:
            waiting += [(where, one) for where, one in _in_map(path, schema, keyword)]


def edges_of(path: Path, schema: dict[str, Any]) -> Iterator[Edge]:
    """What one schema applies, references left out."""
    for keyword in _SAME:
        if isinstance(schema.get(keyword), dict):
            yield Edge("", (*path, keyword), schema[keyword])
    for where, one in itertools.chain(*[_in_list(path, schema, keyword) for keyword in _SAME_LISTS]):
        yield Edge("", where, one)
    for where, one in _in_map(path, schema, "dependentSchemas"):
        yield Edge("", where, one)
    yield from _to_parts(path, schema)


def _to_parts(path: Path, schema: dict[str, Any]) -> Iterator[Edge]:
    for keyword in _PART:
        if isinstance(schema.get(keyword), dict):
            yield Edge(_part(keyword), (*path, keyword), schema[keyword])
    for where, one in _in_list(path, schema, "prefixItems"):
        yield Edge(f"[{where[-1]}]", where, one)
    for keyword in _PART_MAPS:
        for where, one in _in_map(path, schema, keyword):
            yield Edge(f".{where[-1]}" if keyword == "properties" else "*", where, one)


def _part(keyword: str) -> str:
    return "[]" if keyword in {"items", "contains", "unevaluatedItems"} else "*"


def _in_list(path: Path, schema: dict[str, Any], keyword: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    held = schema.get(keyword)
    if isinstance(held, list):
        for position, one in enumerate(held):
            if isinstance(one, dict):
                yield (*path, keyword, position), one


def _in_map(path: Path, schema: dict[str, Any], keyword: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    held = schema.get(keyword)
    if isinstance(held, dict):
        for name, one in held.items():
            if isinstance(one, dict):
                yield (*path, keyword, name), one


def pointed(root: Any, pointer: str) -> Any:
    """RFC 6901, in a URI's fragment; None where it leads nowhere."""
    value = root
    for token in unquote(pointer).split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict):
            value = value.get(key)
        elif isinstance(value, list):
            value = value[int(key)] if key.isdecimal() and len(key) < 7 and int(key) < len(value) else None
        else:
            return None
    return value
