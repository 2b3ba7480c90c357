"""JSON to a plain tree. Keys that are there twice are refused, which is why the standard library reads it: it is the
reader that shows them."""

import json
import re
from collections.abc import Iterator
from typing import Any

from pipeline.workflow.markup import (
    MAX_FOUND,
    MAX_NESTING,
    MAX_NODES,
    Markup,
    Path,
    Places,
    Wrong,
    judged,
    place_at,
    shown,
)

# Possessive: a text of millions of escapes must not be gone through in small steps that are all remembered.
_TOKEN = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[{}\[\],:]|[^\s{}\[\],:"]++|\n', re.DOTALL)
_DIGITS = 40


class NotJson(Wrong):
    """The text is not JSON at all."""


def parse_json(text: str) -> Markup:
    """Raises NotJson."""
    repeated = _Repeated()
    try:
        tree = json.loads(text, object_pairs_hook=repeated.take, parse_int=_whole)
    except json.JSONDecodeError as error:
        raise NotJson(f"not JSON: {error.msg}", place=(error.lineno, error.colno)) from None
    except RecursionError:
        return Markup(None, _Scan(text).found)
    if not repeated.found:
        return judged(tree, [], lambda: _Scan(text).places)
    scan = _Scan(text)
    return judged(tree, scan.found, lambda: scan.places)


class _Repeated:
    """Notes whether an object has a key twice."""

    def __init__(self) -> None:
        self.found = False

    def take(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        taken = dict(pairs)
        if len(taken) < len(pairs):
            self.found = True
            return dict(reversed(pairs))  # the first of each, as in YAML
        return taken


def _whole(digits: str) -> int:
    return int(digits[:_DIGITS])  # whatever is longer is too large as well


class _Scan:
    """Goes through a text that a parser has taken (or that is nested too deeply for one) and notes where things stand,
    and which keys are there twice."""

    def __init__(self, text: str) -> None:
        self.places = Places()
        self.found: list[Wrong] = []
        self._line, self._start = 1, 0
        self._path: list[str | int] = []
        self._inside: list[str] = []
        self._expects_key = False
        for match in _tokens(text):
            if match[0] == "\n":
                self._line, self._start = self._line + 1, match.end()
            else:
                self._take(match[0], (self._line, match.start() - self._start + 1))
                self._line += match[0].count("\n")
            if len(self._inside) > MAX_NESTING:
                wrong = Wrong(f"nested more than {MAX_NESTING} deep", place=place_at(text[: match.start()]))
                self.found.append(wrong)
                return

    def _take(self, piece: str, place: tuple[int, int]) -> None:
        if piece in "]}":
            self._inside.pop()
            self._path.pop()
        elif piece == ",":
            self._expects_key = self._inside[-1] == "{"
            if not self._expects_key:
                self._path[-1] = int(self._path[-1]) + 1
        elif self._expects_key:
            self._key(json.loads(piece), place)
        elif piece != ":":
            self._value(piece, place)

    def _value(self, piece: str, place: tuple[int, int]) -> None:
        self.places.values.setdefault(tuple(self._path), place)
        if piece in "[{":
            self._inside.append(piece)
            self._path.append(0 if piece == "[" else "")
            self._expects_key = piece == "{"

    def _key(self, key: str, place: tuple[int, int]) -> None:
        self._expects_key = False
        self._path[-1] = key
        path: Path = tuple(self._path)
        if path not in self.places.keys:
            self.places.keys[path] = place
        elif len(self.found) < MAX_FOUND:
            hint = f"it is on line {self.places.keys[path][0]} already"
            self.found.append(Wrong(f"the key {shown(key)} is there twice", hint, path, place))


def _tokens(text: str) -> Iterator[re.Match[str]]:
    for number, match in enumerate(_TOKEN.finditer(text)):
        if number > 8 * MAX_NODES:
            return
        yield match
