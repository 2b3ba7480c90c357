"""What a library writes to standard error by itself, as lines of the log.

It goes to a file, as that can be read when the process has died of what it says: by the supervisor then.
"""

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

_STDERR = 2
_MOST_BYTES = 64 << 10  # of what was said at once
_MOST_LINES = 50
_LONGEST = 500  # characters of a line
_LINE = re.compile(r"[\d.]+ ([A-Z]) (.*)")  # llama.cpp's: time since the start, a level, what is to be said
_LEVELS = {"E": logging.ERROR, "W": logging.WARNING}
_ABOUT_REQUESTS = re.compile(r"(?:srv|slot|que|res)\b")  # parts of the server whose lines may quote a prompt


class Said(NamedTuple):
    level: int
    text: str


def catch(path: Path) -> None:
    """From now on standard error is this file. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    os.dup2(descriptor, _STDERR)
    os.close(descriptor)


def take(path: Path, *, serving: bool) -> list[Said]:
    """Warnings and errors that came since the last time. Of a server that is `serving`, none that may quote what a
    client has sent."""
    try:
        size = path.stat().st_size
        if not size:
            return []
        with path.open("rb") as file:
            file.seek(max(0, size - _MOST_BYTES))
            text = file.read(_MOST_BYTES).decode(errors="replace")
        os.truncate(path, 0)
    except OSError:
        return []
    return list(_lines(text, serving=serving))[-_MOST_LINES:]


def first_error(said: list[Said]) -> str | None:
    """The one that the others follow from."""
    return next((line.text for line in said if line.level == logging.ERROR), None)


def _lines(text: str, *, serving: bool) -> Iterator[Said]:
    for line in text.splitlines():
        found = _LINE.fullmatch(line)
        level, words = (found[1], found[2]) if found else ("E", line)  # not by its logger: a failed assertion, say
        if level in _LEVELS and words.strip() and not (serving and _ABOUT_REQUESTS.match(words)):
            yield Said(_LEVELS[level], " ".join(words.split())[:_LONGEST])
