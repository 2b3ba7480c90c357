"""Files of recorded arrivals. Which formats there are: `docs/reference/scenarios.md`."""

import csv
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

import msgspec
from msgspec import Meta

from config.errors import ConfigError, Problem
from config.paths import nearest, quote

MOST_LINES = 1_000_000
_MOST_BYTES = 1 << 20  # of one line
_MOST_PROBLEMS = 10  # reported of one file
_WANTED = 'an arrival such as {"at": 1.25, "words": 120}'

Size = Annotated[int, Meta(ge=1, le=1_000_000)]


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """One arrival, `at` seconds after the phase began. What is None is left to the scenario's mix."""

    at: Annotated[float, Meta(ge=0.0, le=1e9)]
    words: Size | None = None
    max_tokens: Size | None = None
    stream: bool | None = None
    session: Annotated[str, Meta(pattern=r"^[ -~]{1,256}(?!\n)$")] | None = None
    class_: Literal["critical", "high", "normal", "low"] | None = msgspec.field(name="class", default=None)


class _Mooncake(msgspec.Struct):
    """A line of a Mooncake trace (Qin et al., FAST 2025): milliseconds, tokens, and more that is passed over."""

    timestamp: Annotated[float, Meta(ge=0.0)]
    input_length: Annotated[int, Meta(ge=0)]
    output_length: Annotated[int, Meta(ge=0)]


_KEYS = [field.encode_name for field in msgspec.structs.fields(Entry)]
_AZURE = ["TIMESTAMP", "ContextTokens", "GeneratedTokens"]  # of the Azure LLM inference traces of 2023 and 2024

_BAD = (ValueError, csv.Error)  # msgspec's errors are ValueErrors

Line = tuple[int, bytes]
Parse = Callable[[bytes], Entry]


def read_trace(path: Path) -> list[Entry]:
    """All arrivals in order of time. Raises ConfigError with what is wrong and on which line, `_MOST_PROBLEMS` at most.

    A token of the public traces counts as a word, and their first arrival comes at 0.
    """
    if not path.is_file():
        found = "no regular file" if path.exists() else "no such file"
        raise ConfigError([Problem(str(path), found, "a file of arrivals", where=str(path))])
    try:
        with path.open("rb") as file:
            entries = _entries(_lines(file, path), path)
    except OSError as error:
        found = (error.strerror or str(error)).lower()
        raise ConfigError([Problem(str(path), found, "a readable file", where=str(path))]) from error
    if not entries:
        raise ConfigError([Problem(str(path), "no arrival", _WANTED, where=str(path))])
    return sorted(entries, key=lambda entry: entry.at)


def _lines(file: BinaryIO, path: Path) -> Iterator[Line]:
    """The lines that are not empty, with their numbers from 1."""
    number = 0
    while line := file.readline(_MOST_BYTES + 1):
        number += 1
        if len(line) > _MOST_BYTES:
            raise ConfigError([_problem(path, number, "a longer line", f"a line of at most {_MOST_BYTES:,} bytes")])
        if number > MOST_LINES:
            raise ConfigError([_problem(path, number, "more lines", f"at most {MOST_LINES:,} lines")])
        line = (line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line).strip()
        if line:
            yield number, line


def _entries(lines: Iterator[Line], path: Path) -> list[Entry]:
    number, first = next(lines, (0, b""))
    if not first:
        return []
    if first.startswith(b"{"):
        public = b'"timestamp"' in first
        parse: Parse = _mooncake if public else _own
        lines = _again((number, first), lines)
    else:
        parse, public = _columns(first, number, path)
    entries = _parsed(lines, parse, path)
    return _from_zero(entries) if public and entries else entries


def _again(first: Line, rest: Iterator[Line]) -> Iterator[Line]:
    yield first
    yield from rest


def _parsed(lines: Iterator[Line], parse: Parse, path: Path) -> list[Entry]:
    entries: list[Entry] = []
    problems: list[Problem] = []
    for number, line in lines:
        try:
            entries.append(parse(line))
        except _BAD as error:
            problems.append(_problem(path, number, _why(error), _WANTED))
        if len(problems) >= _MOST_PROBLEMS:
            break
    if problems:
        raise ConfigError(problems)
    return entries


def _why(error: Exception) -> str:
    if isinstance(error, UnicodeDecodeError):
        return "bytes that are not UTF-8"
    text = str(error) or "something else"
    return text if text[1:2].isupper() else text[0].lower() + text[1:]


def _problem(path: Path, line: int, found: str, expected: str, hint: str = "") -> Problem:
    return Problem(str(path), found, expected, hint, f"{path}:{line}")


_own: Parse = msgspec.json.Decoder(Entry).decode
_decode_mooncake = msgspec.json.Decoder(_Mooncake).decode


def _mooncake(line: bytes) -> Entry:
    row = _decode_mooncake(line)
    return Entry(at=row.timestamp / 1000, words=_size(row.input_length), max_tokens=_size(row.output_length))


def _size(tokens: int) -> int:
    return min(max(tokens, 1), 1_000_000)


def _columns(header: bytes, number: int, path: Path) -> tuple[Parse, bool]:
    """How to read the rows below this header line, and whether they are those of a public trace."""
    try:
        names = _cells(header)
    except _BAD as error:
        raise ConfigError([_problem(path, number, _why(error), _WANTED)]) from None
    if names == _AZURE:
        return _azure, True
    problems = [
        _problem(
            path, number, f"an unknown column, {quote(name[:80])}", f"some of {', '.join(_KEYS)}", nearest(name, _KEYS)
        )
        for name in names
        if name not in _KEYS
    ]
    if not problems and ("at" not in names or len(set(names)) < len(names)):
        problems = [_problem(path, number, quote(",".join(names)), "each column once, and `at` among them")]
    if problems:
        raise ConfigError(problems[:_MOST_PROBLEMS])
    return lambda line: _row(names, _cells(line)), False


def _cells(line: bytes) -> list[str]:
    return [cell.strip() for cell in next(csv.reader([line.decode()]))]


def _row(names: list[str], cells: list[str]) -> Entry:
    if len(cells) != len(names):
        raise ValueError(f"{len(cells)} columns where the first line names {len(names)}")
    values: dict[str, Any] = {name: cell for name, cell in zip(names, cells, strict=True) if cell}
    return msgspec.convert(values, Entry, strict=False)


def _azure(line: bytes) -> Entry:
    cells = _cells(line)
    if len(cells) != len(_AZURE):
        raise ValueError(f"{len(cells)} columns where the first line names {len(_AZURE)}")
    at, context, generated = cells
    time = datetime.fromisoformat(at)  # seconds have seven decimals; the seventh is passed over
    time = time if time.tzinfo else time.replace(tzinfo=UTC)
    return Entry(at=time.timestamp(), words=_size(int(context)), max_tokens=_size(int(generated)))


def _from_zero(entries: list[Entry]) -> list[Entry]:
    first = min(entry.at for entry in entries)
    return [msgspec.structs.replace(entry, at=entry.at - first) for entry in entries]
