"""Checks a file against its schema, key by key, so that every problem is found and not only the first."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar

from msgspec import Struct, inspect

from config.findings import Findings
from config.paths import KeyPath, dotted, is_secret, nearest, quote
from config.schema import Config
from config.shape import (
    Leaf,
    bare,
    common,
    describe,
    elsewhere,
    fits,
    keys,
    leaves,
    listed,
    of,
    shown,
    suggested,
    tag_field,
    variants,
)

_NO_KINDS: Mapping[str, inspect.StructType] = MappingProxyType({})
_BAD: Any = object()  # in place of a value that cannot be used

Schema = TypeVar("Schema", bound=Struct)


def draft(tree: dict[str, Any], findings: Findings) -> Config:
    """The configuration as far as it can be read: see `draft_of`."""
    return draft_of(Config, tree, findings, "a table of the configuration")


def draft_of(schema: type[Schema], tree: dict[str, Any], findings: Findings, top: str) -> Schema:
    """A file as far as it can be read, for the checks between keys. `top` is what its outermost keys are called.

    Keys with problems stand at their defaults, or are empty where they have none: ask `findings.sound` before relying
    on one. With no problem at all the tree is what msgspec converts without an error.
    """
    info = of(schema)
    checked: Schema = _Walk(findings, info, top).struct(info, tree, ())
    return checked


class _Walk:
    def __init__(self, findings: Findings, root: inspect.StructType, top: str) -> None:
        self._findings = findings
        self._root = root
        self._top = top

    def visit(self, info: inspect.Type, raw: Any, path: KeyPath) -> Any:
        """The value at a key, or _BAD after its problem has been noted."""
        kind = bare(info)[0]
        if choice := leaves(kind):
            return self._leaf(info, choice, raw, path)
        if isinstance(kind, inspect.ListType):
            return self._list(kind, raw, path)
        if not isinstance(raw, dict):
            return self._mismatch(info, raw, path)
        if isinstance(kind, inspect.DictType):
            entries = {key: self.visit(kind.value_type, entry, (*path, key)) for key, entry in raw.items()}
            return {key: entry for key, entry in entries.items() if entry is not _BAD}
        if isinstance(kind, inspect.UnionType):
            return self._union(kind, raw, path)
        if isinstance(kind, inspect.StructType):
            return self.struct(kind, raw, path)
        raise TypeError(f"the schema has a type that is not checked: {kind}")

    def struct(
        self,
        info: inspect.StructType,
        raw: dict[str, Any],
        path: KeyPath,
        *,
        kinds: Mapping[str, inspect.StructType] = _NO_KINDS,
        closed: bool = True,
    ) -> Any:
        """A table, one of these `kinds`. Where it is not `closed`, keys that it does not know are passed over."""
        for key in raw if closed else ():
            if key not in keys(info):
                self._unknown(info, key, path, [kind for kind, one in kinds.items() if key in keys(one)])
        values = {field.name: self._field(field, raw, path) for field in info.fields}
        return info.cls(**{name: value for name, value in values.items() if value is not _BAD})

    def _field(self, field: inspect.Field, raw: dict[str, Any], path: KeyPath) -> Any:
        here = (*path, field.encode_name)
        value = _BAD
        if field.encode_name in raw:
            value = self.visit(field.type, raw[field.encode_name], here)
        elif field.required:
            self._findings.add(here, "nothing", describe(field.type))
        return _blank(field.type) if field.required and value is _BAD else value

    def _leaf(self, info: inspect.Type, choice: tuple[Leaf, ...], raw: Any, path: KeyPath) -> Any:
        if any(fits(raw, kind) for kind in choice):
            return raw
        return self._mismatch(info, raw, path, "" if is_secret(path) else suggested(raw, choice))

    def _list(self, info: inspect.ListType, raw: Any, path: KeyPath) -> Any:
        if not isinstance(raw, list):
            tables = isinstance(raw, dict) and "tables" in describe(info)
            return self._mismatch(info, raw, path, f"[[{dotted(path)}]]" if tables else "")
        if len(raw) < (info.min_length or 0) or (info.max_length is not None and len(raw) > info.max_length):
            return self._mismatch(info, raw, path)
        elements = [self.visit(info.item_type, element, (*path, index)) for index, element in enumerate(raw)]
        return [_blank(info.item_type) if element is _BAD else element for element in elements]

    def _union(self, info: inspect.UnionType, raw: dict[str, Any], path: KeyPath) -> Any:
        known = variants(info)
        field = tag_field(info)
        tag = raw.get(field)
        if isinstance(tag, str) and tag in known:
            return self.struct(known[tag], raw, path, kinds=known)
        found = shown(tag, ()) if field in raw else "nothing"
        hint = nearest(str(tag), known) if isinstance(tag, str) else ""
        expected = "one of " + ", ".join(quote(one) for one in known)
        self._findings.add((*path, field), found, expected, quote(hint) if hint else "")
        return self.struct(common(info), raw, path, closed=False)

    def _unknown(self, info: inspect.StructType, key: str, path: KeyPath, kinds: Sequence[str]) -> None:
        """`kinds` are those of the same table that have such a key."""
        hint = nearest(key, keys(info)) or ("" if kinds else dotted(elsewhere(key, self._root)))
        table = f"a key of {dotted(path)}" if path else self._top
        if kinds:
            expected = f"{table}, whose kind is {info.tag}: {key} is a key of kind {' and '.join(kinds)}"
        else:
            expected = table if hint else f"{table}: {listed(info)}"
        self._findings.add((*path, key), "an unknown key", expected, hint)

    def _mismatch(self, info: inspect.Type, raw: Any, path: KeyPath, hint: str = "") -> Any:
        self._findings.add(path, shown(raw, path), describe(info), hint)
        return _BAD


def _blank(info: inspect.Type) -> Any:
    """Stands in for a required value that is missing or bad."""
    kind = bare(info)[0]
    if isinstance(kind, inspect.UnionType) and not leaves(kind):
        kind = common(kind)
    if isinstance(kind, inspect.StructType):
        return kind.cls(**{field.name: _blank(field.type) for field in kind.fields if field.required})
    if isinstance(kind, inspect.ListType):
        return []
    return "" if isinstance(kind, inspect.StrType) else 0
