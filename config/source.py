"""A TOML file that is to be checked: which one, what it says, and on which line."""

import re
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from config.errors import ConfigError, Problem, Unreadable
from config.files import read_text
from config.paths import KeyPath

DEFAULT_FILE = "pipeline.toml"
FILE_VARIABLE = "HEADGATE_CONFIG"
_NAMED = f"a file named by --config or {FILE_VARIABLE}, or {DEFAULT_FILE} in the working directory"

_MAX_BYTES = 4 << 20
_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class Source:
    """A file that has been read. `tree` is what it says, before it is checked."""

    def __init__(self, path: Path, text: str) -> None:
        self.path = path
        self.text = text
        self.tree = _parse(path, text)

    @cached_property
    def lines(self) -> dict[KeyPath, int]:
        """The line, counted from 1, on which each key or table begins; worked out only when there is a problem."""
        lines: dict[KeyPath, int] = {}
        for path, line in _lines(self.text):
            for length in range(1, len(path) + 1):  # [a.b] also begins a, unless that stands on its own before
                lines.setdefault(path[:length], line)
        return lines


def find(path: Path | None, environ: Mapping[str, str]) -> tuple[Path, str]:
    """The file to read and who named it: the caller, the environment, or nobody (the working directory's)."""
    if path is not None:
        return path, ""
    if environ.get(FILE_VARIABLE):
        return Path(environ[FILE_VARIABLE]), f"environment {FILE_VARIABLE}"
    return Path(DEFAULT_FILE), "the working directory"


def read(path: Path, named_by: str, wanted: str = _NAMED) -> Source:
    """Read the file. Raises ConfigError with one problem when it is missing, unreadable, too large, or no TOML.

    `wanted` says what was expected where there is no such file."""
    try:
        return Source(path, read_text(path, _MAX_BYTES))
    except Unreadable as unreadable:
        expected = wanted if isinstance(unreadable.__cause__, FileNotFoundError) else unreadable.expected
        _refuse(path, unreadable.found, expected, named_by)


def _refuse(path: Path, found: str, expected: str, where: str) -> NoReturn:
    raise ConfigError([Problem(str(path), found, expected, where=where)]) from None


def _parse(path: Path, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except RecursionError:
        _refuse(path, "values nested too deeply", "TOML", str(path))
    except ValueError as error:  # TOMLDecodeError, and what int() and datetime() say about their literals
        message = str(error)
        position = _POSITION.search(message)
        line, column = position.groups() if position else (None, None)
        where = f"{path}:{line}:{column}" if line else str(path)
        at_end = ", at the end of the file" if position and not line else ""
        found = message[: position.start()] if position else message
        _refuse(path, found[0].lower() + found[1:] + at_end, "TOML", where)


def _lines(text: str) -> Iterator[tuple[KeyPath, int]]:
    """Where each key begins. A statement is the fewest lines that tomllib takes on their own."""
    table: KeyPath = ()
    lengths: dict[KeyPath, int] = {}  # of the arrays of tables seen so far
    lines = text.replace("\r\n", "\n").split("\n")
    start = 0
    while start < len(lines):
        statement, end = _statement(lines, start)
        if lines[start].lstrip().startswith("["):
            table = _enter(statement, lengths)
            yield table, start + 1
        else:
            yield from ((table + path, start + 1) for path in _keys(statement))
        start = end


def _statement(lines: list[str], start: int) -> tuple[dict[str, Any], int]:
    """The statement that begins on a line, and the line after it. Empty when it is nested too deeply to be parsed from
    here, where the stack is fuller than it was for the file as a whole."""
    for end in range(start + 1, len(lines) + 1):
        with suppress(ValueError, RecursionError):
            return tomllib.loads("\n".join(lines[start:end])), end
    return {}, len(lines)


def _enter(header: dict[str, Any], lengths: dict[KeyPath, int]) -> KeyPath:
    """The table that a header (parsed on its own) opens; a part that names an array of tables means its newest one."""
    path: KeyPath = ()
    inner: Any = header
    while inner:
        ((key, inner),) = inner.items()
        path = (*path, key)
        if isinstance(inner, list):
            lengths[path] = lengths.get(path, 0) + 1
            inner = inner[0]
        if path in lengths:
            path = (*path, lengths[path] - 1)
    return path


def _keys(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, entry in entries:
        yield (*path, key)
        yield from _keys(entry, (*path, key))
