"""Transforms of JSON: json_parse, and json_path (RFC 9535, by the package python-jsonpath)."""

import json.decoder
import json.scanner
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

import jsonpath
import msgspec
import regex
from jsonpath.function_extensions import ExpressionType, FilterFunction

from pipeline.workflow.definition import TransformStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.steps.transform_meter import Work
from pipeline.workflow.steps.transform_texts import compiled_pattern, text_input

MAX_JSON = 16_777_216  # characters
_AT_ONCE = 131_072  # characters parsed in one go
MAX_PATH = 1000
_MAX_SEARCHED = 262_144  # of a text with JSON somewhere in it
_MAX_TRIED = 50
_FENCE = regex.compile(r"^[ \t]*```[^\n`]*\n(.*?)^[ \t]*```", regex.DOTALL | regex.MULTILINE)
_BEGIN = regex.compile(r"[\[{]")
_decoder: Any = json.decoder  # with parts that its annotations leave out
_scanner: Any = json.scanner
_MATCH_SECONDS = 0.1
_PLACE = regex.compile(r"^(.*?)(?: \(byte (\d+)\))?$", regex.DOTALL)


def parse(step: TransformStep, value: Any, work: Work) -> Any:
    del step
    text = text_input(value)
    if len(text) > MAX_JSON:
        raise StepFailed("too_large", f"input: a text of {len(text)} characters, and at most {MAX_JSON} are parsed")
    try:
        return msgspec.json.decode(text) if len(text) <= _AT_ONCE else _in_slices(text, work)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError) as error:
        found = _found_in(text, work)
        if found is not None:
            return found
        raise _malformed(text, error) from error


def _in_slices(text: str, work: Work) -> Any:
    """By the standard library's parser that is written in Python: ten times as slow as those in C, which let no other
    thread run until they are done."""
    decoder: Any = json.JSONDecoder(parse_constant=_no_constant)
    decoder.parse_object = _ticking(_decoder.JSONObject, work)
    decoder.parse_array = _ticking(_decoder.JSONArray, work)
    decoder.scan_once = _scanner.py_make_scanner(decoder)
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise msgspec.DecodeError(f"{error.msg} at line {error.lineno}, column {error.colno}") from error
    except ValueError as error:
        raise msgspec.DecodeError(str(error)) from error


def _ticking(parser: Callable[..., Any], work: Work) -> Callable[..., Any]:
    def parse_part(*args: Any) -> Any:
        work.tick()
        return parser(*args)

    return parse_part


def _found_in(text: str, work: Work) -> Any:
    """The first fenced block that is JSON, else the longest object or list that stands in the text; None where there is
    none."""
    if len(text) > _MAX_SEARCHED:
        return None
    for number, block in enumerate(_FENCE.finditer(text)):
        if number >= _MAX_TRIED:
            break
        try:
            return msgspec.json.decode(block[1])
        except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
            continue
    return max(_standing_in(text, work), key=lambda found: found[0], default=(0, None))[1]


def _standing_in(text: str, work: Work) -> Iterator[tuple[int, Any]]:
    """Length and value of each. What looks like one and is not is looked into: there may be one in it."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    at = 0
    for _ in range(_MAX_TRIED):
        work.tick()
        begin = _BEGIN.search(text, at)
        if begin is None:
            return
        try:
            value, at = decoder.raw_decode(text, begin.start())
            yield at - begin.start(), value
        except (ValueError, RecursionError):
            at = begin.start() + 1


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def _malformed(text: str, error: Exception) -> StepFailed:
    told = _PLACE.match(str(error))
    message = told[1] if told is not None else str(error)
    if told is not None and told[2] is not None:
        before = text.encode(errors="surrogatepass")[: int(told[2])].decode(errors="ignore")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        message += f" at line {line}, column {column}"
    return StepFailed("invalid_input", f"input: no JSON in this text: {message}", details={"field": "input"})


def query(step: TransformStep, value: Any, work: Work) -> Any:
    _running.work = work
    found: list[Any] = []
    try:
        for match in compiled_path(step.path or "$").finditer(value):
            found.append(match.obj)
            work.items(len(found))
            if step.first:
                break
    except (jsonpath.JSONPathError, RecursionError) as error:
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise StepFailed("invalid_input", f"path: {told}", details={"field": "path"}) from error
    finally:
        _running.work = None
    return found if not step.first else (found[0] if found else None)


@lru_cache(256)
def compiled_path(path: str) -> Any:
    """Raises `jsonpath.JSONPathError`, RecursionError, or ValueError for one that is too long."""
    if len(path) > MAX_PATH:
        raise ValueError(f"it has more than {MAX_PATH} characters")
    return _Environment(strict=True).compile(path)


class _Running(threading.local):
    """The work under way in this thread: the package has no other way to tell its parts about it."""

    work: Work | None = None


_running = _Running()


def _tick() -> None:
    if _running.work is not None:
        _running.work.tick()


class _Match(jsonpath.JSONPathMatch):
    """Counts every value that is looked at. Does not keep those found under it, which nobody asks for."""

    def add_child(self, *children: jsonpath.JSONPathMatch) -> None:
        del children

    def new_child(self, obj: object, key: int | str) -> jsonpath.JSONPathMatch:
        _tick()
        return super().new_child(obj, key)


class _Regular(FilterFunction):
    """`match` and `search` under a time limit. As the RFC says, what is no text or no pattern does not match."""

    arg_types = [ExpressionType.VALUE, ExpressionType.VALUE]  # noqa: RUF012 - as its base has it
    return_type = ExpressionType.LOGICAL

    def __init__(self, *, whole: bool) -> None:
        self._whole = whole

    def __call__(self, value: object, pattern: object) -> bool:
        if not isinstance(value, str) or not isinstance(pattern, str):
            return False
        try:
            compiled = compiled_pattern(pattern)
        except (regex.error, ValueError):
            return False
        look = compiled.fullmatch if self._whole else compiled.search
        left = _MATCH_SECONDS if _running.work is None else min(_MATCH_SECONDS, _running.work.left)
        try:
            return look(value, timeout=left, concurrent=True) is not None
        except TimeoutError:
            raise StepFailed("timeout", f"path: the pattern {pattern[:60]!r} takes too long") from None


class _Environment(jsonpath.JSONPathEnvironment):
    match_class = _Match

    def setup_function_extensions(self) -> None:
        super().setup_function_extensions()
        self.function_extensions["match"] = _Regular(whole=True)
        self.function_extensions["search"] = _Regular(whole=False)

    def compare(self, left: object, operator: str, right: object) -> bool:
        _tick()
        return super().compare(left, operator, right)
