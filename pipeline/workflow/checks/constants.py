"""Whether what is written for a value can be right: constants by their type and bounds, and what is known of values
that a template takes over whole."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from msgspec import UNSET

from pipeline.workflow.definition import (
    ActionStep,
    EmbedStep,
    LlmStep,
    MapStep,
    ReduceStep,
    TransformStep,
    VectorSearchStep,
    VectorUpsertStep,
    WaitStep,
)
from pipeline.workflow.problems import Path, shown
from pipeline.workflow.steps.vectors import MAX_FOUND
from pipeline.workflow.wait import LONGEST


class Expected(NamedTuple):
    """What a field takes: `words` for people, `fits` decides on constants, `types` are the JSON types that can fit."""

    words: str
    fits: Callable[[Any], bool]
    types: Collection[str]


def _number(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: type(value) in {int, float} and math.isfinite(value) and low <= value <= high


def _integer(low: int, high: int) -> Callable[[Any], bool]:
    return lambda value: _number(low, high)(value) and value == int(value)


def _is_seconds(value: Any) -> bool:
    """As a number, or written as a text."""
    try:
        return _number(0, LONGEST)(float(value) if isinstance(value, str) else value)
    except ValueError:
        return False


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_moment(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False


def _is_url(value: Any) -> bool:
    return isinstance(value, str) and re.match(r"https?://[^/\s]", value, re.IGNORECASE) is not None


def _is_path(value: Any) -> bool:
    """Of a file in a folder, and of none beside it."""
    return _is_name(value) and not any(part in {"", ".", ".."} for part in value.split("/"))


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(one, str) for one in value))


def _is_document(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("text"), str))


def _is_documents(value: Any) -> bool:
    return _is_document(value) or (isinstance(value, list) and all(_is_document(one) for one in value))


_NUMBERS = ("number", "integer")
_NAME = Expected("a name", _is_name, ("string",))
_LIST = Expected("a list", lambda value: isinstance(value, list), ("array",))
_TEXT = Expected("a text", lambda value: isinstance(value, str), ("string",))
_OBJECTS = Expected("an object or a list", lambda value: isinstance(value, dict | list), ("object", "array"))
_INPUTS: dict[str, Expected] = {  # by the operation of a transform
    **dict.fromkeys(("concat", "merge", "filter", "map", "join"), _LIST),
    **dict.fromkeys(("split", "json_parse", "regex", "chunk"), _TEXT),
    "pick": _OBJECTS,
}

FIELDS: dict[type, dict[str, Expected]] = {
    LlmStep: {
        "route": _NAME,
        "temperature": Expected("a number from 0 to 2", _number(0, 2), _NUMBERS),
        "max_tokens": Expected("a whole number from 1", _integer(1, 2**31 - 1), _NUMBERS),
        "top_p": Expected("a number from 0 to 1", _number(0, 1), _NUMBERS),
        "seed": Expected("a whole number", _integer(-(2**63), 2**63 - 1), _NUMBERS),
    },
    EmbedStep: {
        "route": _NAME,
        "collection": _NAME,
        "input": Expected("a text or a list of texts", _is_texts, ("string", "array")),
    },
    VectorSearchStep: {
        "collection": _NAME,
        "limit": Expected(f"a whole number from 1 to {MAX_FOUND}", _integer(1, MAX_FOUND), _NUMBERS),
        "min_score": Expected("a number", _number(-1e9, 1e9), _NUMBERS),
    },
    VectorUpsertStep: {
        "collection": _NAME,
        "documents": Expected(
            "a text, an object with `text`, or a list of those", _is_documents, ("string", "object", "array")
        ),
    },
    MapStep: {"items": _LIST},
    ReduceStep: {"items": _LIST},
    ActionStep: {
        "url": Expected("an address that begins with http:// or https://", _is_url, ("string",)),
        "path": Expected("a path within workflows.files_dir, with no . or .. in it", _is_path, ("string",)),
    },
    WaitStep: {
        "seconds": Expected("a number of seconds, 0 or more", _is_seconds, _NUMBERS),
        "until": Expected("a moment with its offset, like 2030-01-31T08:00:00Z", _is_moment, ("string",)),
        "event": _NAME,
    },
}


def _expected(step: Any) -> Mapping[str, Expected]:
    if isinstance(step, TransformStep):
        return {"input": _INPUTS[step.operation]} if step.operation in _INPUTS else {}
    return FIELDS.get(type(step), {})


def wrong_constants(step: Any, compiled: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """Of the fields that hold no template."""
    for name, expected in _expected(step).items():
        value = getattr(step, name)
        if value is not None and value is not UNSET and name not in compiled and not expected.fits(value):
            yield (name,), f"expected {expected.words}, not {shown(value)}"


_WHOLE = re.compile(r"\s*\{\{-?\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)\s*-?\}\}\s*")


def wrong_types(
    step: Any, compiled: Mapping[str, Any], types_of: Callable[[tuple[str, ...]], Collection[str]]
) -> Iterator[tuple[Path, str]]:
    """Of the fields that are one whole reference. `types_of` gives the JSON types that it can have, none where that is
    not known."""
    for name, expected in _expected(step).items():
        if name not in compiled:
            continue
        value = getattr(step, name)
        whole = _WHOLE.fullmatch(value) if isinstance(value, str) else None
        types = types_of(tuple(whole[1].split("."))) if whole else ()
        if types and not any(one in expected.types for one in types):
            assert whole is not None  # noqa: S101 - it has types
            yield (name,), f"expected {expected.words}, but {whole[1]} is {' or '.join(types)}"
