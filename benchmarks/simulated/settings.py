"""What the backend is told: by the command line, by a file, and while it runs. All problems are found at once."""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, inspect

from benchmarks.service import MOST_UNIFORM_SPREAD, Service
from config.errors import ConfigError, Problem
from config.findings import Findings
from config.paths import nearest
from config.shape import Leaf, bare, describe, fits, keys, of, shown, suggestion
from config.source import read
from config.structure import draft_of


class Place(msgspec.Struct, frozen=True):
    """Where the backend listens.

    host        address to listen on
    port        of the first replica, the others take the next ones; 0: a free one for each
    replicas    backends, each with slots and counts of its own
    """

    host: Annotated[str, Meta(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535)] = 9100
    replicas: Annotated[int, Meta(ge=1, le=256)] = 1


S = TypeVar("S", bound=msgspec.Struct)


def changed(before: S, values: Mapping[str, Any], name: Callable[[str], str] = str) -> S:
    """The settings with some of them changed. Raises ConfigError with every problem there is.

    `name` is what a problem calls a key.
    """
    info = of(type(before))
    types = {field.encode_name: field.type for field in info.fields}
    problems = []
    for key, value in values.items():
        if key not in types:
            expected = f"one of {', '.join(keys(info))}"
            problems.append(Problem(name(key), "an unknown key", expected, nearest(key, types)))
        elif not _fits(value, types[key]):
            problems.append(_mismatch(name(key), value, types[key]))
    after = before
    if not problems:
        after = msgspec.convert(msgspec.structs.asdict(before) | dict(values), type(before))
        problems = _between(after, name)
    if problems:
        raise ConfigError(problems)
    return after


def from_file(path: Path) -> Service:
    """Raises ConfigError with every problem and its line."""
    source = read(path, "--service", "a TOML file with the backend's settings")
    findings = Findings(source)
    drafted = draft_of(Service, source.tree, findings, "a setting of the backend")
    if findings.sound(("spread",), ("distribution",)):
        for problem in _between(drafted, str):
            findings.add((problem.path,), problem.found, problem.expected)
    findings.raise_if_any()
    return changed(Service(), source.tree)


def from_text(schema: type[msgspec.Struct], key: str, text: str) -> Any:
    """What the command line says for a key, as a value; text that stands for none stays text."""
    kind, _ = bare(next(field.type for field in of(schema).fields if field.encode_name == key))
    if isinstance(kind, inspect.StrType | inspect.LiteralType):
        return text
    if text == "none":
        return None
    try:
        return msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeEncodeError):
        return text


def explained(schema: type[msgspec.Struct]) -> dict[str, str]:
    """What the schema's docstring says of each field."""
    parts = re.findall(r"^    (\w+) {2,}(\S.*(?:\n {8,}\S.*)*)", schema.__doc__ or "", re.MULTILINE)
    return {name: " ".join(text.split()) for name, text in parts}


def _fits(value: Any, info: inspect.Type) -> bool:
    if value is None:
        return _optional(info)
    kind, _ = bare(info)
    assert isinstance(kind, Leaf)
    return fits(value, kind)


def _mismatch(name: str, value: Any, info: inspect.Type) -> Problem:
    kind, _ = bare(info)
    assert isinstance(kind, Leaf)
    found = "nothing" if value is None else shown(value, (name,))
    expected = describe(info) + (", or none" if _optional(info) else "")
    return Problem(name, found, expected, suggestion(value, kind))


def _optional(info: inspect.Type) -> bool:
    return isinstance(info, inspect.UnionType) and info.includes_none


def _between(settings: msgspec.Struct, name: Callable[[str], str]) -> list[Problem]:
    """Problems between keys that are sound by themselves."""
    if isinstance(settings, Service):
        if settings.distribution == "uniform" and settings.spread > MOST_UNIFORM_SPREAD:
            expected = f"at most {MOST_UNIFORM_SPREAD} for a uniform distribution, which ends at 0"
            return [Problem(name("spread"), f"{settings.spread:g}", expected)]
    elif isinstance(settings, Place) and settings.port and settings.port + settings.replicas - 1 > 65535:
        found = f"{settings.port}, and {settings.replicas - 1} more for the other replicas"
        return [Problem(name("port"), found, "ports up to 65535")]
    return []
