"""`HEADGATE__SECTION__KEY` variables: laid over what the file says, before it is checked."""

import tomllib
from collections.abc import Mapping
from typing import Any

from msgspec import inspect

from config.findings import Findings
from config.paths import PREFIX, KeyPath, nearest, variable
from config.shape import bare, describe, elsewhere, keys, leaves, listed, root, tag_field, variants


class _Refused(Exception):
    """A variable that names no key."""

    def __init__(self, path: KeyPath, found: str, expected: str, hint: str = "") -> None:
        super().__init__(path)
        self.details = (path, found, expected, hint)


def apply(tree: dict[str, Any], environ: Mapping[str, str], findings: Findings) -> None:
    """Change `tree` as the variables say; those that name no key become problems.

    Names are taken without regard to case, elements of arrays by their index. A key for text takes the variable's text
    as it is; any other takes it as a TOML value where it is one.
    """
    for name in sorted((name for name in environ if name.upper().startswith(PREFIX)), key=_order):
        try:
            _apply(tree, name, environ[name], findings)
        except _Refused as refused:
            findings.add_variable(name, *refused.details)


def _order(name: str) -> tuple[int, bool, str]:
    """A table before its keys, and `kind` before the keys that depend on it."""
    parts = name.upper().split("__")
    return len(parts), parts[-1] != "KIND", name


def _apply(tree: dict[str, Any], name: str, text: str, findings: Findings) -> None:
    path, info = _resolve(name[len(PREFIX) :].split("__"), tree)
    if path in findings.overrides:
        raise _Refused(path, "the same key twice", f"only one of {name} and {findings.overrides[path]}")
    if not text.isascii() and not _is_utf8(text):
        raise _Refused(path, "bytes that are not UTF-8", describe(info))
    holder = _holder(tree, path)
    last: Any = path[-1]
    if isinstance(holder, dict | list):  # otherwise the file has no table there, which is a problem of its own
        holder[last] = text if isinstance(bare(info)[0], inspect.StrType | inspect.LiteralType) else _value(text)
        findings.overrides[path] = name


def _holder(tree: dict[str, Any], path: KeyPath) -> Any:
    """The table or array that the path's last key stands in; tables that the file leaves out are added."""
    holder: Any = tree
    for part in path[:-1]:
        if isinstance(holder, dict):
            holder = holder.setdefault(part, {})
        elif isinstance(holder, list) and isinstance(part, int):
            holder = holder[part]
    return holder


def _resolve(segments: list[str], tree: dict[str, Any]) -> tuple[KeyPath, inspect.Type]:
    """The key path that the segments name, and the type at its end."""
    info: inspect.Type = root()
    raw: Any = tree
    path: KeyPath = ()
    for segment in segments:
        kind = bare(info)[0]
        if isinstance(kind, inspect.UnionType) and not leaves(kind):
            kind = _variant(kind, raw)
        part, info = _step(kind, segment, raw, path)
        path = (*path, part)
        raw = _inner(raw, part)
    return path, info


def _inner(raw: Any, part: str | int) -> Any:
    if isinstance(raw, list) and isinstance(part, int):
        return raw[part]
    return raw.get(part, {}) if isinstance(raw, dict) else None


def _step(kind: inspect.Type, segment: str, raw: Any, path: KeyPath) -> tuple[str | int, inspect.Type]:
    if isinstance(kind, inspect.StructType):
        return _field(kind, segment, path)
    if isinstance(kind, inspect.ListType):
        return _index(segment, raw, path), kind.item_type
    if isinstance(kind, inspect.DictType):
        known = list(raw) if isinstance(raw, dict) else []
        return next((key for key in known if key.lower() == segment.lower()), segment), kind.value_type
    raise _Refused((*path, segment.lower()), "a key below a plain value", f"{variable(path)} itself", variable(path))


def _field(kind: inspect.StructType, segment: str, path: KeyPath) -> tuple[str, inspect.Type]:
    key = segment.lower()
    if key == kind.tag_field:
        return key, inspect.StrType()
    for field in kind.fields:
        if field.encode_name == key:
            return key, field.type
    match = nearest(key, keys(kind))
    near = (*path, match) if match else elsewhere(key)
    expected = "a variable that names a key" + ("" if near else f": {listed(kind)}")
    raise _Refused((*path, key), "an unknown key", expected, variable(near) if near else "")


def _index(segment: str, raw: Any, path: KeyPath) -> int:
    length = len(raw) if isinstance(raw, list) else 0
    number = int(segment) if len(segment) <= 6 and segment.isascii() and segment.isdecimal() else None
    if number is not None and number < length:
        return number
    valid = f"an index from 0 to {length - 1}" if length else "nothing"
    part = segment.lower() if number is None else number
    raise _Refused((*path, part), "no such element", f"{valid}: variables change elements, only the file adds them")


def _variant(kind: inspect.UnionType, raw: Any) -> inspect.StructType:
    """The struct that the element's own tag asks for; with a bad tag, one with the keys of all of them."""
    known = variants(kind)
    tag = raw.get(tag_field(kind)) if isinstance(raw, dict) else None
    if isinstance(tag, str) and tag in known:
        return known[tag]
    first = next(iter(known.values()))
    fields = {field.encode_name: field for one in known.values() for field in one.fields}
    return inspect.StructType(cls=first.cls, fields=tuple(fields.values()), tag_field=first.tag_field, tag=first.tag)


def _value(text: str) -> Any:
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if parsed.keys() == {"value"} else text


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
