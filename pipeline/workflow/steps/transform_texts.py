"""Transforms of texts: regex and chunk. Patterns run under a time limit, by the package `regex`."""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import regex

from pipeline.workflow.definition import TransformStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.steps.transform_meter import MAX_CHARS, Work
from pipeline.workflow.steps.values import invalid

MAX_PATTERN = 2000
MAX_WORDS = 2_000_000  # of a text that is cut by them
WORD = regex.compile(r"\S+")
_QUARTERS = 4  # of a token: what `workers.tokens.estimate` counts an ASCII character as is one


def text_input(value: Any) -> str:
    if not isinstance(value, str):
        raise invalid("input", "a text", value)
    if len(value) > MAX_CHARS:
        raise StepFailed("too_large", f"input: a text of {len(value)} characters, and at most {MAX_CHARS} are taken")
    return value


@lru_cache(256)
def compiled_pattern(pattern: str) -> "regex.Pattern[str]":
    """Raises `regex.error`, or ValueError for one that is too long."""
    if len(pattern) > MAX_PATTERN:
        raise ValueError(f"it has more than {MAX_PATTERN} characters")
    return regex.compile(pattern)


def search(step: TransformStep, value: Any, work: Work) -> Any:
    text = text_input(value)
    pattern = compiled_pattern(step.pattern or "")
    try:
        if step.replacement is not None:
            return _replaced(pattern, step.replacement, text, work)
        made: list[Any] = []
        size = 0
        for match in _matches(pattern, text, work):
            made.append(_told(match, step.group))
            if step.first:
                break
            size += _size(made[-1])
            work.items(len(made))
            work.chars(size)
    except TimeoutError:
        raise work.late() from None
    except (regex.error, IndexError) as error:
        told = f"replacement: not one for this pattern: {error}"
        raise StepFailed("invalid_input", told, details={"field": "replacement"}) from error
    return made if not step.first else (made[0] if made else None)


def _matches(pattern: "regex.Pattern[str]", text: str, work: Work) -> "Iterator[regex.Match[str]]":
    for match in pattern.finditer(text, timeout=work.left, concurrent=True):
        work.tick()
        yield match


def _told(match: "regex.Match[str]", group: int | str | None) -> Any:
    if group is not None:
        return match[group]
    if match.re.groupindex:
        return match.groupdict()
    groups = match.groups()
    return match[0] if not groups else groups[0] if len(groups) == 1 else list(groups)


def _size(told: Any) -> int:
    if isinstance(told, str):
        return len(told)
    parts = told.values() if isinstance(told, dict) else told or ()
    return sum(len(part) for part in parts if part is not None)


def _replaced(pattern: "regex.Pattern[str]", replacement: str, text: str, work: Work) -> str:
    parts: list[str] = []
    at = size = 0
    for match in _matches(pattern, text, work):
        parts += (text[at : match.start()], match.expand(replacement))
        size += len(parts[-2]) + len(parts[-1])
        work.chars(size)
        at = match.end()
    work.chars(size + len(text) - at)
    return "".join(parts) + text[at:]


def chunk(step: TransformStep, value: Any, work: Work) -> list[str]:
    text = text_input(value)
    size, overlap = step.size or 1, step.overlap
    if step.unit == "characters":
        return _slices(text, size, overlap, work)
    pieces = _Pieces()
    for found in work.each(WORD.finditer(text)):
        if step.unit == "words":
            pieces.add(found.start(), found.end(), len(pieces), len(pieces) + 1)
        else:
            _add_tokens(pieces, text, found.start(), found.end(), size)
        if len(pieces) > MAX_WORDS:
            raise StepFailed("too_large", f"input: a text of more than {MAX_WORDS} words")
    scale = 1 if step.unit == "words" else _QUARTERS
    return _packed(text, pieces, size * scale, overlap * scale, work)


def _slices(text: str, size: int, overlap: int, work: Work) -> list[str]:
    step = size - overlap
    count = max(1, -(-(len(text) - overlap) // step)) if text else 0
    work.items(count)
    work.chars(count * min(size, len(text)))
    return [text[at : at + size] for at in work.each(range(0, count * step, step))]


class _Pieces:
    """Words, or parts of long ones: where each begins and ends in the text, and how much text (in words, or quarters of
    tokens) there is up to its begin and its end."""

    __slots__ = ("begins", "ends", "until", "up_to")

    def __init__(self) -> None:
        self.begins = array("q")
        self.ends = array("q")
        self.up_to = array("q")
        self.until = array("q")

    def __len__(self) -> int:
        return len(self.begins)

    def add(self, begin: int, end: int, up_to: int, until: int) -> None:
        self.begins.append(begin)
        self.ends.append(end)
        self.up_to.append(up_to)
        self.until.append(until)


def _add_tokens(pieces: _Pieces, text: str, start: int, end: int, size: int) -> None:
    """A word, in parts where it alone has more than `size` tokens. The space before it counts."""
    before = pieces.ends[-1] if len(pieces) else start
    total = (pieces.until[-1] if len(pieces) else 0) + _quarters(text[before:start])
    longest = size * _QUARTERS if text[start:end].isascii() else size
    for at in range(start, end, longest):
        part = text[at : min(at + longest, end)]
        weight = _quarters(part)
        pieces.add(at, at + len(part), total, total + weight)
        total += weight


def _quarters(text: str) -> int:
    """Of tokens: one for an ASCII character, four for any other."""
    if text.isascii():
        return len(text)
    ascii_length = len(text.encode("ascii", "ignore"))
    return ascii_length + (len(text) - ascii_length) * _QUARTERS


def _packed(text: str, pieces: _Pieces, size: int, overlap: int, work: Work) -> list[str]:
    """As many pieces to a chunk as fit; the next one begins with as many of its last pieces as `overlap` holds."""
    chunks: list[str] = []
    first = made = 0
    while first < len(pieces):
        work.tick()
        last = bisect_right(pieces.until, pieces.up_to[first] + size) - 1
        made += pieces.ends[last] - pieces.begins[first]
        work.items(len(chunks) + 1)
        work.chars(made)
        chunks.append(text[pieces.begins[first] : pieces.ends[last]])
        if last == len(pieces) - 1:
            break
        again = bisect_left(pieces.up_to, pieces.until[last] - overlap)
        first = max(first + 1, min(again, last + 1))
    return chunks
