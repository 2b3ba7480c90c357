"""Text to a plain tree: YAML or JSON, held to limits before anything is made of it.

What the two have in common. `Markup` is what a text says; where each part of it stands is worked out only when somebody
asks, which is when something is wrong.
"""

import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from config.paths import quote
from pipeline.workflow.definition import MAX_BYTES

MAX_NODES = 500_000  # values in a text, those that aliases repeat counted
MAX_NESTING = 128  # of lists and mappings
MAX_FOUND = 1000  # problems of one text that are told

Path = tuple[str | int, ...]
Place = tuple[int, int]  # line and column, from 1

_INT64 = (-(1 << 63), (1 << 63) - 1)
_SURROGATE = re.compile("[\ud800-\udfff]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\x80-\x84\x86-\x9f\ufeff\ufffe\uffff]")
_SHOWN = 60  # characters of a value that are repeated


class Wrong(Exception):
    """One problem. `place` is given where the path does not lead there; `key`: it is the key that is wrong. Raised
    where reading cannot go on."""

    key = False

    def __init__(self, message: str, hint: str = "", path: Path = (), place: Place | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.path = path
        self.place = place


class Beyond(Wrong):
    """A limit is passed, or a key is no text: the tree is not to be looked at any further."""


class Places:
    """Where things stand: values, and the keys of mappings, by their path from the root. `written` has plain YAML
    scalars that are no texts as they were written; `blocks` texts of several lines: the number of the first, all as
    they were written, and whether lines are lines."""

    def __init__(self) -> None:
        self.values: dict[Path, Place] = {}
        self.keys: dict[Path, Place] = {}
        self.written: dict[Path, str] = {}
        self.blocks: dict[Path, tuple[int, Sequence[str], bool]] = {}

    def nearest(self, path: Path, *, key: bool = False) -> Place:
        """Of what is at the path, or else around it."""
        if key and path in self.keys:
            return self.keys[path]
        inner = (path[:length] for length in range(len(path), -1, -1))
        return next((self.values[one] for one in inner if one in self.values), (1, 1))


def judged(tree: Any, problems: list[Wrong], places: Callable[[], Places]) -> "Markup":
    """A tree that was not made under our eyes; `problems` are those that it had before."""
    found = list(islice(strange(tree), MAX_FOUND + 1))
    beyond = any(isinstance(one, Beyond) for one in found)
    return Markup(None if beyond else tree, [*problems, *found], places, sound=not found)


class Markup:
    """`tree` is None where the text could not be read to its end, and then there is a problem. It is `sound` where it
    holds nothing but what JSON can, within the limits."""

    def __init__(
        self, tree: Any, problems: list[Wrong], places: Callable[[], Places] = Places, *, sound: bool = True
    ) -> None:
        self.tree = tree
        self.sound = sound
        self.problems = problems
        self._find = places
        self._places: Places | None = None

    @property
    def places(self) -> Places:
        if self._places is None:
            self._places = self._find()
        return self._places


def checked(text: bytes | str) -> str:
    """The text, where it is UTF-8 and not too large. Raises `Wrong`."""
    if len(text) > MAX_BYTES or (isinstance(text, str) and len(text.encode(errors="replace")) > MAX_BYTES):
        raise Wrong(f"larger than {MAX_BYTES:,} bytes", place=(1, 1))
    if isinstance(text, str):
        decoded = text
    else:
        try:
            decoded = text.decode()
        except UnicodeDecodeError as error:
            before = text[: error.start].decode()
            hint = "save it as UTF-8"
            raise Wrong(f"not UTF-8: byte 0x{text[error.start]:02X}", hint, place=place_at(before)) from None
    if decoded.startswith("\ufeff") or not _sound(decoded):
        raise _unusual(decoded, _SURROGATE.search(decoded))
    return decoded


def printable(text: str) -> str:
    """The text, where YAML may have its characters (JSON may have more of them). Raises `Wrong`."""
    if found := _CONTROL.search(text):
        raise _unusual(text, found)
    return text


def _unusual(text: str, found: re.Match[str] | None) -> Wrong:
    at = found.start() if found else 0
    place, code = place_at(text[:at]), ord(text[at])
    if code == 0xFEFF:
        return Wrong("a byte order mark (U+FEFF)", "save it as UTF-8 without one", place=place)
    if 0xD800 <= code <= 0xDFFF:
        return Wrong(f"half of a surrogate pair (U+{code:04X})", place=place)
    return Wrong(
        f"a control character (U+{code:04X})", 'write it as an escape in a text in quotes: "\\u0000"', place=place
    )


def place_at(before: str) -> Place:
    """Of what follows this text."""
    return before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1


def number_problem(value: Any) -> str:
    """Why a number cannot be taken; empty where it can."""
    if isinstance(value, float):
        return "" if math.isfinite(value) else "a number that JSON cannot hold"
    return "" if _INT64[0] <= value <= _INT64[1] else "a whole number of more than 64 bits"


def shown(value: Any) -> str:
    """A value as found, short."""
    match value:
        case dict():
            return "a mapping"
        case list():
            return f"a list of {len(value)}"
        case str():
            return quote(value if len(value) <= _SHOWN else value[: _SHOWN - 1] + "…")
        case None | bool():
            return json.dumps(value)
        case int() if number_problem(value):
            return "a whole number of more than 64 bits"
        case _:
            return str(value)[:_SHOWN]


def strange(tree: Any) -> Iterator[Wrong]:
    """What JSON could not say, or says too much of, in a tree made in Python or read by a JSON parser. Ends with the
    first limit that is passed."""
    counted = 0
    pending: list[tuple[Path, Any]] = [((), tree)]
    while pending:
        path, value = pending.pop()
        counted += 1
        kind = value.__class__
        if kind is dict or kind is list:
            if len(path) >= MAX_NESTING:
                yield Beyond(f"nested more than {MAX_NESTING} deep", path=path)
                return
            if kind is dict:
                for key in value:
                    if key.__class__ is not str or not _sound(key):
                        yield Beyond(f"a key that is not a text: {shown(key)}", path=path)
            if counted + len(pending) + len(value) > MAX_NODES:
                yield Beyond(f"more than {MAX_NODES:,} values", place=(1, 1))
                return
            items = value.items() if kind is dict else enumerate(value)
            pending += [((*path, key), inner) for key, inner in items]
        elif problem := _strange(value):
            yield Wrong(problem, path=path)


def _strange(value: Any) -> str:
    kind = value.__class__
    if kind is str:
        return "" if _sound(value) else "a text with half of a surrogate pair"
    if kind is int or kind is float:
        return number_problem(value)
    return "" if value is None or kind is bool else f"a value of type {kind.__name__}, which JSON does not have"


def _sound(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
