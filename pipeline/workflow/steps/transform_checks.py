"""What a `transform` declares: which fields its operation needs and takes, and whether constants make sense."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import jsonpath
import msgspec
import regex

from pipeline.workflow.definition import TransformStep
from pipeline.workflow.steps.transform_json import compiled_path
from pipeline.workflow.steps.transform_texts import compiled_pattern

# Needed fields, then others that the operation takes.
_FIELDS: dict[str, tuple[frozenset[str], frozenset[str]]] = {
    operation: (frozenset(needed.split()), frozenset(others.split()))
    for operation, needed, others in (
        ("concat", "input", "separator"),
        ("merge", "input", ""),
        ("filter", "input where", ""),
        ("map", "input value", ""),
        ("split", "input", "separator"),
        ("join", "input", "separator"),
        ("pick", "input fields", ""),
        ("json_parse", "input", ""),
        ("json_path", "input path", "first"),
        ("regex", "input pattern", "first replacement group"),
        ("template", "template", ""),
        ("chunk", "input size", "overlap unit"),
    )
}
_TRIED_SECONDS = 0.1
_DEFAULTS: dict[str, Any] = {
    "input": msgspec.UNSET,
    "separator": None,
    "where": None,
    "value": msgspec.UNSET,
    "fields": None,
    "path": None,
    "first": False,
    "pattern": None,
    "replacement": None,
    "group": None,
    "template": None,
    "size": None,
    "overlap": 0,
    "unit": "characters",
}


def check_transform(step: TransformStep) -> list[tuple[str, str]]:
    """What is wrong, as field and message."""
    return list(_faults(step))


def _faults(step: TransformStep) -> Iterator[tuple[str, str]]:
    needed, others = _FIELDS[step.operation]
    for field, default in _DEFAULTS.items():
        value = getattr(step, field)
        given = value is not default and value != default
        if field in needed and not given:
            yield field, f"{step.operation} needs it"
        elif given and field not in needed | others:
            yield field, f"{step.operation} does not take it"
    if step.operation == "split" and step.separator == "":
        yield "separator", "it is empty: leave it out to split between words"
    if step.operation == "chunk" and step.size is not None and step.overlap >= step.size:
        yield "overlap", f"it must be less than size ({step.size})"
    if step.operation == "pick" and step.fields is not None:
        yield from _fields_faults(step.fields)
    if step.operation == "json_path" and step.path is not None:
        yield from _path_faults(step.path)
    if step.operation == "regex" and step.pattern is not None:
        yield from _pattern_faults(step)


def _fields_faults(fields: list[str] | dict[str, str]) -> Iterator[tuple[str, str]]:
    if not fields:
        yield "fields", "it names none"
    for path in fields if isinstance(fields, list) else fields.values():
        if not path or "" in path.split("."):
            yield "fields", f"{path!r} is no dotted path"
    if isinstance(fields, list):
        names = Counter(path.rpartition(".")[2] for path in fields)
        for name in (name for name, count in names.items() if count > 1):
            yield "fields", f"two of them would be called {name!r}: write new names, as in `{name}: path.to.it`"


def _path_faults(path: str) -> Iterator[tuple[str, str]]:
    try:
        compiled_path(path)
    except (jsonpath.JSONPathError, RecursionError, ValueError) as error:
        yield "path", f"not a JSONPath (RFC 9535): {str(error).splitlines()[0] if str(error) else 'nested too deeply'}"


def _pattern_faults(step: TransformStep) -> Iterator[tuple[str, str]]:
    try:
        pattern = compiled_pattern(str(step.pattern))
    except (regex.error, RecursionError, ValueError, OverflowError) as error:
        yield "pattern", f"not a regular expression: {error}"
        return
    if step.group is not None:
        known = step.group in pattern.groupindex if isinstance(step.group, str) else 0 <= step.group <= pattern.groups
        if not known:
            yield "group", f"the pattern has no group {step.group!r}"
    if step.replacement is None:
        return
    for field in ("group", "first"):
        if getattr(step, field) not in (None, False):
            yield field, "it is of no use with a replacement"
    try:
        _expand(pattern.pattern, step.replacement)
    except (regex.error, IndexError) as error:
        yield "replacement", f"not one for this pattern: {error}"


def _expand(pattern: str, replacement: str) -> None:
    """A replacement is only looked at where there is a match: so one is made, of nothing."""
    try:
        match = regex.compile(pattern + "|").search("", timeout=_TRIED_SECONDS)
    except (regex.error, TimeoutError):
        return
    if match is not None:
        match.expand(replacement)
