"""A run's inputs as the command line has them."""

import contextlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from pipeline.operate.workflow import exits
from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import Fault
from pipeline.workflow.markup import Wrong, checked
from pipeline.workflow.markup_yaml import parse_yaml
from pipeline.workflow.signature import declared_inputs

_MAX_BYTES = 64 << 20


def inputs(definition: Definition | None, pairs: Sequence[str], file: Path | None) -> dict[str, Any]:
    """Those of the file, with the pairs `name=value` over them. Raises `exits.Ended`. Without a definition a value is
    JSON where it can be, else text."""
    given = {} if file is None else _read(file)
    schemas: Mapping[str, Any] = {} if definition is None else declared_inputs(definition).names
    faults = []
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise exits.Ended(f"--input {pair!r}: expected NAME=VALUE", exits.REFUSED)
        try:
            given[name] = _value(text, schemas.get(name))
        except msgspec.DecodeError as error:
            kinds = " or ".join(sorted(_types(schemas.get(name)))) or "JSON value"
            faults.append(Fault(f"inputs.{name}", f"{text!r} is no {kinds}", hint=str(error)))
    if faults:
        raise exits.refused(faults)
    return given


def _value(text: str, schema: Any) -> Any:
    """A text as it is where the schema asks for one. Where it says nothing: JSON, else the text."""
    types = _types(schema)
    if types == {"string"}:
        return text
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        if types and "string" not in types:
            raise
        return text


def _types(schema: Any) -> set[str]:
    if not isinstance(schema, dict):
        return set()
    wanted = schema.get("type", [])
    if not wanted and isinstance(schema.get("enum"), list) and all(isinstance(one, str) for one in schema["enum"]):
        return {"string"}
    return {wanted} if isinstance(wanted, str) else {str(one) for one in wanted}


def _read(file: Path) -> dict[str, Any]:
    name = "standard input" if str(file) == "-" else str(file)
    try:
        with sys.stdin.buffer if str(file) == "-" else file.open("rb") as opened:
            data = opened.read(_MAX_BYTES + 1)
    except OSError as error:
        raise exits.Ended(f"cannot read {name}: {error.strerror}", exits.REFUSED) from error
    if len(data) > _MAX_BYTES:
        raise exits.Ended(f"{name} is larger than {_MAX_BYTES:,} bytes", exits.REFUSED)
    found = _parsed(data, name)
    if not isinstance(found, dict) or not all(isinstance(key, str) for key in found):
        raise exits.Ended(f"{name} must hold an object: a value for each input, by name", exits.REFUSED)
    return found


def _parsed(data: bytes, name: str) -> Any:
    """YAML as definitions are read, so that none takes the machine down."""
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        return msgspec.json.decode(data)
    try:
        markup = parse_yaml(checked(data))
    except Wrong as wrong:
        raise exits.Ended(f"{name} cannot be read: {wrong.message}", exits.REFUSED) from wrong
    for problem in markup.problems:
        line = f":{problem.place[0]}:{problem.place[1]}" if problem.place else ""
        raise exits.Ended(f"{name}{line} cannot be read: {problem.message}", exits.REFUSED)
    return markup.tree
