"""Problems as they are found, before they have a place in a text."""

import difflib
from collections.abc import Collection, Iterable, Iterator
from itertools import count, islice
from typing import Any, NamedTuple

from pipeline.workflow.gaps import Gaps

Path = tuple[str | int, ...]  # keys and indices from the definition's root

MAX_PROBLEMS = 1000  # of one definition; of more only their number is told
_COMPARED = 500  # names, for one hint
_COMPARED_IN_ALL = 10_000  # for one definition; each takes some 20 microseconds
_LOOKED_AT_IN_ALL = 1_000_000  # for one definition
_LONGEST = 500  # characters of a message


class Problem(NamedTuple):
    """`line`: how many lines further down inside of a text; `said`: words that the text has there."""

    path: Path
    message: str
    hint: str = ""
    line: int = 0
    said: str = ""


class Problems:
    """What is wrong with one definition. What is found twice is kept once, and what comes of its `gaps` not at all."""

    def __init__(self, gaps: Gaps | None = None) -> None:
        self.gaps = gaps or Gaps()
        self._found: dict[Problem, None] = {}
        self._more = 0
        self._compare = _COMPARED_IN_ALL
        self._look_at = _LOOKED_AT_IN_ALL

    @property
    def full(self) -> bool:
        """Whether more are only counted: no work needs to go into what they say."""
        return len(self._found) >= MAX_PROBLEMS

    def add(self, path: Path, message: str, hint: str = "", line: int = 0, said: str = "") -> None:
        if self.gaps and self.gaps.covers(path):
            return
        if self.full:
            self._more += 1
        else:
            self._found.setdefault(Problem(path, _shortened(message), _shortened(hint), line, said))

    def near(self, name: str, known: Iterable[str], prefix: str = "") -> str:
        """A hint that names the nearest of what is known; empty where none is near."""
        looked_at = count()
        named = (one for one, _ in zip(known, looked_at, strict=False))
        alike = list(islice(_alike(name, islice(named, self._look_at)), min(_COMPARED, self._compare)))
        self._look_at = max(self._look_at - next(looked_at), 0)
        self._compare -= len(alike)
        found = next(iter(difflib.get_close_matches(name[:128], alike, n=1)), None)
        return f"did you mean {prefix}{found}?" if found else ""

    def __iter__(self) -> Iterator[Problem]:
        yield from self._found
        if self._more:
            yield Problem((), f"and {self._more} more problems")

    def __len__(self) -> int:
        return len(self._found)


def _alike(name: str, known: Iterable[str]) -> Iterator[str]:
    """Those that a slip of the pen may have turned into this name: about as long, with the same beginning or end."""
    length, start, end = len(name), name[:2], name[-2:]
    for other in known:
        about_as_long = abs(len(other) - length) <= 2 + length // 3 and other != name
        if about_as_long and (length <= 4 or len(other) <= 4 or other.startswith(start) or other.endswith(end)):
            yield other


def listed(names: Collection[str], most: int = 8) -> str:
    """`a, b, c and 4 more`."""
    more = len(names) - most
    return ", ".join(islice(names, most)) + (f" and {more} more" if more > 0 else "")


def shown(value: Any) -> str:
    """A constant, for a message."""
    text = repr(value[:60] if isinstance(value, str | list) else value)
    return text if len(text) <= 60 else text[:57] + "…"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
