"""Key paths: how a place in the configuration is written, and which valid one is nearest to a wrong one."""

import difflib
import json
import re
import tomllib
from collections.abc import Iterable, Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import fields

KeyPath = tuple[str | int, ...]
PREFIX = "HEADGATE__"

_BARE = re.compile(r"[A-Za-z0-9_-]+")
_PART = re.compile(r'\[(\d+)\]|(?:^|\.)(?:([A-Za-z0-9_-]+)|("(?:[^"\\]|\\.)*"))')


def dotted(path: KeyPath) -> str:
    """`("routes", 0, "worker")` → `routes[0].worker`; keys that TOML would not take bare are quoted."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            text += ("." if text else "") + (part if _BARE.fullmatch(part) else quote(part))
    return text


def parsed(text: str) -> KeyPath:
    """What `dotted` made a text of; empty for one that is no key path."""
    path: list[str | int] = []
    at = 0
    while at < len(text):
        part = _PART.match(text, at)
        if part is None:
            return ()
        index, bare, quoted = part.groups()
        path.append(int(index) if index else bare or tomllib.loads(f"key = {quoted}")["key"])
        at = part.end()
    return tuple(path)


def variable(path: KeyPath) -> str:
    """The environment variable that overrides the key."""
    return PREFIX + "__".join(str(part) for part in path).upper()


def quote(text: str) -> str:
    """The text as a TOML basic string: safe to print, whatever it holds."""
    return "".join(_escape(character) for character in json.dumps(text, ensure_ascii=False))


def _escape(character: str) -> str:
    if character.isprintable():
        return character
    return f"\\u{ord(character):04X}" if ord(character) <= 0xFFFF else f"\\U{ord(character):08X}"


def nearest(name: str, valid: Iterable[str]) -> str:
    """The valid name that is most like the given one, ignoring case and `-` for `_`; empty when none is near."""
    known = {one.lower(): one for one in valid}
    matches = difflib.get_close_matches(name.lower().replace("-", "_")[:128], known, n=1)
    matches = matches or difflib.get_close_matches(name.lower()[:128], known, n=1)
    return known[matches[0]] if matches else ""


def is_secret(path: KeyPath) -> bool:
    """Whether a value at this path that is not valid must not be repeated: references to secrets and hashes of keys (a
    literal key may stand there by mistake) and headers."""
    return path[-1:] in {("api_key",), ("hash",)} or "headers" in path


def leaves(section: Struct, path: KeyPath = ()) -> Iterator[tuple[KeyPath, Any]]:
    """Every key with its value, in the order of the schema; tables and lists of tables are descended into."""
    config = section.__struct_config__
    if config.tag_field is not None:
        yield (*path, config.tag_field), config.tag
    for field in fields(section):
        yield from _leaves(getattr(section, field.name), (*path, field.encode_name))


def _leaves(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    if isinstance(value, Struct):
        yield from leaves(value, path)
    elif isinstance(value, dict) and value:
        for key, entry in value.items():
            yield (*path, key), entry
    elif isinstance(value, list) and value and isinstance(value[0], Struct):
        for index, element in enumerate(value):
            yield from leaves(element, (*path, index))
    else:
        yield path, value
