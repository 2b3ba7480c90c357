"""JSON in a model's answer: found, checked, and what the model is told where it does not fit."""

import json
import re
from collections.abc import Iterator
from typing import Any, NoReturn

import msgspec

from pipeline.workflow.json_schema import Schema, Validator

_FENCED = re.compile(r"```[\w+-]*[^\S\n]*\n(.*?)```", re.DOTALL)
_OPENING = re.compile(r"[{\[]")
_FENCES = 8  # that are looked into
_OPENINGS = 32  # places at which an object or a list may begin
_SEARCHED = 1_000_000  # characters
_TOLD = 20_000  # characters of a wrong answer that the model gets to see again


class Parsed:
    """What an answer came to. `faults` are for people and models: empty where `value` fits."""

    def __init__(self, value: Any, faults: list[str]) -> None:
        self.value = value
        self.faults = faults


def parsed(text: str, validator: Validator, finish_reason: str) -> Parsed:
    """The first JSON in the answer that fits; else what is wrong with the first that there is."""
    first: Parsed | None = None
    for value in candidates(text):
        faults = [_placed(*fault) for fault in validator.faults(value)]
        if not faults:
            return Parsed(value, [])
        first = first or Parsed(value, faults)
    if first is None:
        first = Parsed(None, ["there is no JSON in the answer"])
    if finish_reason == "length":
        first.faults.append("the answer was cut off because it was too long: make it shorter")
    return first


def instruction(schema: Schema) -> str:
    """For the model, before it answers."""
    written = msgspec.json.encode(schema).decode()
    return f"Answer with JSON and nothing else. The JSON must be valid against this JSON schema:\n{written}"


def correction(faults: list[str]) -> str:
    """For the model, after an answer that does not fit."""
    listed = "\n".join(f"- {fault}" for fault in faults)
    return f"This answer is not valid:\n{listed}\nAnswer again, with the corrected JSON and nothing else."


def recalled(text: str) -> str:
    """A wrong answer, as the model gets to see it again."""
    return text if len(text) <= _TOLD else f"{text[:_TOLD]}…"


def candidates(text: str) -> Iterator[Any]:
    """All that could be meant: the whole answer, what stands between fences, and what begins with { or [."""
    text = text[:_SEARCHED]
    for piece in (text, *[found[1] for found, _ in zip(_FENCED.finditer(text), range(_FENCES), strict=False)]):
        try:
            yield msgspec.json.decode(piece.strip())
        except (msgspec.MsgspecError, ValueError, RecursionError):
            continue
    at = 0
    for _ in range(_OPENINGS):
        opening = _OPENING.search(text, at)
        if opening is None:
            return
        try:
            value, at = _decoder.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            at = opening.end()
            continue
        yield value


def _placed(path: tuple[str | int, ...], message: str) -> str:
    where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")
    return f"{where}: {message}" if where else message


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_decoder = json.JSONDecoder(parse_constant=_no_constant)
