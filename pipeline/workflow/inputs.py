"""What a run is given, against what its workflow declares."""

import re
from itertools import islice
from typing import Any

import msgspec

from config.paths import nearest
from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import Fault, InputRefused
from pipeline.workflow.flat import inputs_schema
from pipeline.workflow.json_schema import MAX_FAULTS, SchemaRefused, compile_schema, deeper_than
from pipeline.workflow.markup import MAX_NESTING, MAX_NODES, Path, shown, strange

_ROOT = "inputs"
_DEEPEST = 40  # parts of a path that are told
_long_number = re.compile(rb"[0-9]{19}").search  # it may have more than 64 bits


def check(definition: Definition, given: Any) -> dict[str, Any]:
    """The inputs with defaults filled in. None stands for no inputs. Raises `InputRefused` with every fault; a workflow
    that declares no inputs takes none."""
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise InputRefused([Fault(_ROOT, f"found {shown(given)}, expected an object")])
    if not _plain(given) and (found := list(islice(strange(given), MAX_FAULTS))):
        raise InputRefused([Fault(_spelt((_ROOT, *one.path)), one.message) for one in found])
    schema = inputs_schema(definition.inputs) or {"type": "object", "additionalProperties": False}
    filled: dict[str, Any] = with_defaults(schema, given)
    try:
        faults = compile_schema(schema).faults(filled)
    except SchemaRefused as refused:
        where = _spelt((_ROOT, *refused.path))
        raise InputRefused([Fault(where, f"the workflow's schema cannot be used: {refused.message}")]) from refused
    if faults:
        raise InputRefused(_told(schema, filled, faults))
    return filled


def _plain(given: dict[str, Any]) -> bool:
    """Whether there is certainly nothing strange about it: told many times faster than what is."""
    try:
        text = msgspec.json.encode(given)
        same = msgspec.json.decode(text) == given
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return False
    most = 1 + text.count(b",") + text.count(b"[") + text.count(b"{")
    return same and most <= MAX_NODES and not _long_number(text) and not deeper_than(given, MAX_NESTING - 1)


def with_defaults(schema: Any, given: Any) -> Any:
    """A copy, with the `default` of each property that is not there, in objects within objects too. Only what stands
    under `properties` counts: nothing is looked up by reference."""
    if not isinstance(schema, dict) or not isinstance(given, dict):
        return given
    properties = schema.get("properties")
    if not isinstance(properties, dict):
        return given
    filled = dict(given)
    for name, one in properties.items():
        if name in filled:
            filled[name] = with_defaults(one, filled[name])
        elif isinstance(one, dict) and "default" in one:
            filled[name] = one["default"]
    return filled


def _told(schema: dict[str, Any], given: dict[str, Any], found: list[tuple[Path, str]]) -> list[Fault]:
    """Names that are missing or unknown one by one, with what was probably meant; then the rest as the validator says
    it."""
    properties = schema.get("properties")
    known = list(properties) if isinstance(properties, dict) else []
    faults: list[Fault] = []
    if schema.get("additionalProperties") is False and "patternProperties" not in schema:
        unknown = [name for name in given if name not in known]
        faults += [_unknown(name, [one for one in known if one not in given], known) for name in unknown]
    needed = schema.get("required")
    missing = [name for name in (needed if isinstance(needed, list) else ()) if name not in given]
    faults += [Fault(_spelt((_ROOT, name)), "is missing") for name in missing]
    return faults + [
        Fault(_spelt((_ROOT, *path)), message) for path, message in found if path or not faults or not _is_said(message)
    ]


def _is_said(message: str) -> bool:
    return any(words in message for words in ("required property", "Additional properties", "False schema"))


def _unknown(name: str, missing: list[str], known: list[str]) -> Fault:
    meant = nearest(name, missing[:100])
    listed = ", ".join(known[:10]) + (", …" if len(known) > 10 else "")
    message = f"there is no such input: the workflow takes {listed or 'none'}"
    return Fault(_spelt((_ROOT, name)), message, hint=f"did you mean {meant}?" if meant else "")


def _spelt(path: Path) -> str:
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part[:100]}" for part in path[:_DEEPEST])
    return text.removeprefix(".")
