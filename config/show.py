"""The configuration in force, with the origin of every value, for `headgate config show`. Secrets are not in it."""

from typing import Any

import msgspec
from msgspec import Struct
from msgspec.structs import fields

from config.load import Loaded
from config.paths import KeyPath, dotted, leaves, quote
from config.secrets import is_reference, is_secret_header

MASK = "***"

_COLUMN = 48  # where origins begin; longer lines push theirs out


def as_toml(loaded: Loaded) -> str:
    """A TOML document that says the same as the configuration; comments hold the origins."""
    return "\n".join([f"# in force: {loaded.path}", *_table(loaded.config, (), loaded.origins)]) + "\n"


def as_json(loaded: Loaded) -> bytes:
    """`{"file": …, "keys": {key path: {"value": …, "origin": …}}}`."""
    keys = {
        dotted(path): {"value": _masked(path, value), "origin": loaded.origins[dotted(path)]}
        for path, value in leaves(loaded.config)
    }
    return msgspec.json.format(msgspec.json.encode({"file": str(loaded.path), "keys": keys}))


def _table(value: Any, path: KeyPath, origins: dict[str, str]) -> list[str]:
    """A table, or each of an array of tables: its plain keys first, as TOML wants it, then the tables inside it."""
    if isinstance(value, list):
        return [line for index, element in enumerate(value) for line in _table(element, (*path, index), origins)]
    inner = [(field.encode_name, getattr(value, field.name)) for field in fields(value)]
    nested = [(key, entry) for key, entry in inner if _is_table(entry)]
    plain = [
        _line(leaf[len(path) :], entry, origins[dotted(leaf)])
        for leaf, entry in leaves(value, path)
        if leaf[len(path)] not in dict(nested)
    ]
    header = [_header(path)] if path else []
    lines = ["", *header, *plain] if plain else []
    for key, entry in nested:
        lines += _table(entry, (*path, key), origins)
    return lines


def _is_table(value: Any) -> bool:
    return isinstance(value, Struct) or (isinstance(value, list) and bool(value) and isinstance(value[0], Struct))


def _header(path: KeyPath) -> str:
    name = dotted(tuple(part for part in path if isinstance(part, str)))
    return f"[[{name}]]" if isinstance(path[-1], int) else f"[{name}]"


def _line(path: KeyPath, value: Any, origin: str) -> str:
    value = _masked(path, value)
    text = f"# {dotted(path)} is not set" if value is None else f"{dotted(path)} = {_toml(value)}"
    return f"{text:<{_COLUMN}}  # {origin}"


def _masked(path: KeyPath, value: Any) -> Any:
    header = len(path) > 1 and path[-2] == "headers"
    secret = header and is_secret_header(str(path[-1])) and not is_reference(str(value))
    return MASK if secret else value


def _toml(value: Any) -> str:
    match value:
        case str():
            return quote(value)
        case bool():
            return "true" if value else "false"
        case list():
            return "[" + ", ".join(_toml(entry) for entry in value) + "]"
        case dict():  # only an empty one: the entries of others are keys of their own
            return "{}"
        case _:
            return repr(value)
