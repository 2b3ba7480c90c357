"""Expressions that differ in nothing but the names that they read are compiled once.

`{{ steps.a.text | upper }}` and `{{ steps.b.text | upper }}` have one shape, `{{ v0 | upper }}`: what the names stand
for is looked up first, and jinja2 sees the shape alone. So it is for texts whose only templates are `{{ expressions }}`
of names with constant keys, constants, operators, filters, tests and methods. Anything else (statements, lists,
computed keys) is left to jinja2 as it stands, and so is what it refuses.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.stages.sandbox import TemplateFailed
from pipeline.stages.sandbox_meter import Missing
from pipeline.stages.sandbox_parts import METHODS, Absent, follow, reference_of
from pipeline.workflow.ports import Names
from pipeline.workflow.template_forms import SANDBOX, Compiled, Jinja, failure, looked_up, whole_of
from pipeline.workflow.template_paths import NOT_VARIABLES, PATH, WORDS, Key, Path, keys_of
from pipeline.workflow.template_sandbox import ValueMeter

_TOKEN = re.compile(
    PATH + r"|[ \t\n]+|\"[^\"\\\n]*\"|'[^'\\\n]*'|(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?![\w.])|[-+](?!\}\})"
    r"|[=!<>]=|[<>|~*/%,()]|(\}\})"
)
VARIABLE = re.compile(r"v[0-9]+")  # of a shape
_OPEN = re.compile(r"\{[{%#]")
_NAMES_ARGUMENT = re.compile(r"[ \t\n]*=(?!=)")
_IS_CALLED = re.compile(r"[ \t\n]*\(")
_LONGEST = 400  # characters of a shape
_MOST_PARTS = 200  # of a text
_MOST_KEYS = 16  # of a name
_SIGNS = frozenset("== != <= >= < > = | ~ * / % , ( + -".split())

ShapeOf = Callable[[str], Jinja | None]


class Piece:
    """One expression: its shape, and what the shape's variables stand for."""

    __slots__ = ("paths", "shape")

    def __init__(self, shape: Jinja, paths: Sequence[Path]) -> None:
        self.shape = shape
        self.paths = tuple(paths)

    def value(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        """May be undefined."""
        variables: dict[str, Any] = {"_meter": meter}
        for number, (root, keys) in enumerate(self.paths):
            variables[f"v{number}"] = _found(names, local, root, keys)
        return self.shape.result(variables)

    def stand_for(self, variables: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
        found = (self.paths[int(variable[0][1:])] for variable in variables)
        return [(root, *map(str, keys)) for root, keys in found]


def _found(names: Names, local: Mapping[str, Any] | None, root: str, keys: tuple[Key, ...]) -> Any:
    """What is not there is an error only where it is used."""
    try:
        value = looked_up(names, local, root)
    except KeyError:
        return Missing(f"`{root}` is not known here", name=reference_of(root, keys))
    try:
        return follow(value, root, keys, methods=True)
    except Absent as absent:
        return Missing(str(absent), name=absent.reference)


class Shaped(Compiled):
    """A text with expressions in it."""

    __slots__ = ("_parts",)

    def __init__(self, parts: Sequence[str | Piece]) -> None:
        pieces = [one for one in parts if isinstance(one, Piece)]
        needed = dict.fromkeys(path for one in pieces for path in one.stand_for(one.shape.references))
        optional = dict.fromkeys(path for one in pieces for path in one.stand_for(one.shape.optional))
        super().__init__(tuple(needed), tuple(path for path in optional if path not in needed))
        self._parts = tuple(parts)

    def prepare(self) -> bool:
        return any(part.shape.prepare() for part in self._parts if isinstance(part, Piece))

    def fill(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        try:
            return self._filled(names, local, meter)
        except (TemplateFailed, Absent):
            raise
        except Exception as error:
            raise failure(error) from error

    def _filled(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        texts: list[str] = []
        size = 0
        for part in self._parts:
            text = part if isinstance(part, str) else SANDBOX.text_of(meter, part.value(names, local, meter))
            meter.tick()
            size += len(text)
            meter.fits(size)
            texts.append(text)
        return "".join(texts)


class Whole(Shaped):
    """One expression is all there is, besides space: its value."""

    __slots__ = ()

    def _filled(self, names: Names, local: Mapping[str, Any] | None, meter: ValueMeter) -> Any:
        (piece,) = self._parts
        assert isinstance(piece, Piece)  # noqa: S101 - `shaped` gives no other
        return whole_of(piece.value(names, local, meter), meter)


def shaped(text: str, shape_of: ShapeOf, *, expression: bool) -> Shaped | None:
    """None where it takes jinja2 to read it. `shape_of` compiles a shape, None where that cannot be."""
    if "\r" in text:  # jinja2 makes one newline of all kinds
        return None
    parts: list[str | Piece] = []
    at = 0
    while (opened := _OPEN.search(text, at)) is not None:
        if opened.start() > at:
            parts.append(text[at : opened.start()])
        found = _expression(text, opened.end()) if text.startswith("{{", opened.start()) else None
        shape = None if found is None else shape_of(found.text)
        if found is None or shape is None or len(parts) > _MOST_PARTS:
            return None
        parts.append(Piece(shape, found.paths))
        at = found.end
    if at < len(text):
        parts.append(text[at:])
    pieces = [one for one in parts if not (isinstance(one, str) and not one.strip())]
    if len(pieces) == 1:
        return Whole(pieces)
    return None if expression else Shaped(parts)


class _Expression:
    """Reads one, from behind its `{{` to behind its `}}`. `text` is its shape."""

    __slots__ = ("_before", "_shape", "_size", "_text", "_variables", "end")

    def __init__(self, text: str, at: int) -> None:
        self._text = text
        self._shape: list[str] = []
        self._size = 0
        self._variables: dict[Path, str] = {}
        self._before = ""  # the token before, where it decides what the next one is
        self.end = at

    @property
    def text(self) -> str:
        return "{{ " + "".join(self._shape) + " }}"

    @property
    def paths(self) -> list[Path]:
        return list(self._variables)

    def read(self) -> bool:
        """Whether it is of the kind that has a shape."""
        if self._text.startswith(("-", "+"), self.end):  # takes the space before it away
            return False
        while self._size <= _LONGEST and (token := _TOKEN.match(self._text, self.end)) is not None:
            self.end = token.end()
            if token[3] is not None:
                return True
            if not (self._sign(token[0]) if token[1] is None else self._name(token[1], token[2])):
                return False
        return False

    def _sign(self, sign: str) -> bool:
        """Or a constant, or space."""
        if not sign.isspace():
            self._before = sign
        self._say(sign)
        return sign in _SIGNS or _IS_CALLED.match(self._text, self.end) is None

    def _say(self, text: str) -> None:
        self._shape.append(text)
        self._size += len(text)

    def _name(self, name: str, keys: str) -> bool:
        """False where it is more than the name of something."""
        before, self._before = self._before, name
        if before in ("|", "is") or name in WORDS:  # a filter, a test, a word of the language
            self._before = "is" if before != "|" and (name == "is" or (before == "is" and name == "not")) else ""
            self._say(name)
            return not keys
        self._before = ""
        if not keys and _NAMES_ARGUMENT.match(self._text, self.end) is not None:
            self._say(name + "=")
            self.end = self._text.index("=", self.end) + 1
            return True
        if name in NOT_VARIABLES:
            return False
        method = ""
        if _IS_CALLED.match(self._text, self.end) is not None:
            keys, method = keys.rpartition(".")[::2]
            if method not in METHODS or keys.endswith(("['", '["')):
                return False
        path = (name, keys_of(keys))
        self._say(self._variables.setdefault(path, f"v{len(self._variables)}"))
        if method:
            self._say(f".{method}")
        return len(path[1]) <= _MOST_KEYS


def _expression(text: str, at: int) -> _Expression | None:
    found = _Expression(text, at)
    return found if found.read() else None
