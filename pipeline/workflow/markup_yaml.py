"""YAML to a plain tree, from libyaml's events.

Taken is what JSON can say, with comments, block texts and anchors. Scalars follow the core schema of YAML 1.2
(https://yaml.org/spec/1.2.2/#103-core-schema): `true` and `false` are booleans, `yes`, `no`, `on` and `off` are texts,
and so are dates. A number with a leading zero (`010`: 8 to some readers, 10 to others) is refused. So are tags, merge
keys (`<<`), keys that are not texts, and more than one document.

Aliases repeat what their anchor holds; what they come to counts towards the limits, so that a small text cannot grow
large. Nothing here recurses deeper than `MAX_NESTING`: libyaml takes quadratic time for deep nesting, and is stopped
before.

The first pass keeps no places. If it meets a problem, a second one goes through the text again and gathers all of
them; it also serves whoever asks for places later.
"""

import re
from typing import Any

from yaml import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    StreamEndEvent,
    YAMLError,
)
from yaml._yaml import CParser

from config.paths import quote
from pipeline.workflow.definition import MAX_BYTES
from pipeline.workflow.markup import (
    MAX_FOUND,
    MAX_NESTING,
    MAX_NODES,
    Markup,
    Path,
    Place,
    Places,
    Wrong,
    number_problem,
    printable,
    shown,
)

_FIRST = frozenset("0123456789+-.~nNtTfF")  # of plain scalars that may be something else than texts
_WORDS = {
    **dict.fromkeys(("~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}
_WHOLE = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_OTHER_BASE = re.compile(r"0o[0-7]+|0x[0-9a-fA-F]+")
_FRACTION = re.compile(r"[-+]?(?:\.[0-9]+|(?:0|[1-9][0-9]*)(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?")
_ENDLESS = re.compile(r"[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)")
_LONGEST = 400  # digits

_HINTS = (
    ("tab character", "indent with spaces, not with tabs"),
    ("mapping values are not allowed", "put a text that holds `: ` in quotes"),
    ("cannot start any token", "put a text that begins with this character in quotes"),
    ("expected <block end>", "look at the indentation of this line and those above"),
    ("expected <document start>", "look at the indentation of this line and those above"),
    ("expected ',' or", "look for a bracket or a quote that is not closed"),
    ("unexpected end of stream", "look for a bracket or a quote that is not closed"),
    ("could not find expected ':'", "look at the indentation of this line and those above"),
)
_KEY = 'put a text that begins with { in quotes: "{{ … }}"'


class _Again(Exception):
    """The first pass met a problem."""


def parse_yaml(text: str) -> Markup:
    try:
        tree = _Loader(printable(text), None).load()
    except Wrong as wrong:
        return Markup(None, [wrong])
    except (_Again, YAMLError):
        loader = _Loader(text, places := Places())
        try:
            tree = loader.load()
        except YAMLError as error:
            tree = None
            loader.found.append(_syntax(error, text))
        except Wrong as wrong:
            tree = None
            loader.found.append(wrong)
        return Markup(tree, loader.found, lambda: places)
    return Markup(tree, [], lambda: _places(text))


def _places(text: str) -> Places:
    places = Places()
    _Loader(text, places).load()
    return places


class _Loader:
    """One pass. Without `places` it raises `_Again` at the first problem."""

    def __init__(self, text: str, places: Places | None) -> None:
        self.found: list[Wrong] = []
        self._places = places
        self._lines = text.split("\n") if places is not None else []
        self._next = CParser(text.encode()).get_event
        self._depth = self._nodes = self._size = 0
        self._anchors: dict[str, tuple[Any, int, int]] = {}  # with how many values and characters it comes to
        self._open: set[str] = set()

    def load(self) -> Any:
        """Raises YAMLError, and Wrong where it cannot go on."""
        self._next()  # the stream's start
        event = self._next()
        if event.__class__ is StreamEndEvent:
            raise Wrong("the text is empty", place=(1, 1))
        tree = self._node(self._next(), ())
        self._next()  # the document's end
        event = self._next()
        if event.__class__ is DocumentStartEvent:
            raise Wrong("a second document begins here", "one text holds one workflow", place=_place(event.start_mark))
        return tree

    def _node(self, event: Any, path: Path) -> Any:
        kind = event.__class__
        self._nodes += 1
        if self._nodes > MAX_NODES:
            raise Wrong(f"more than {MAX_NODES:,} values", place=_place(event.start_mark))
        if kind is AliasEvent:
            return self._alias(event, path)
        if self._places is not None:
            place = self._places.values.setdefault(path, self._begin(event))
            end = _place(event.end_mark)[0]
            if event.__class__ is ScalarEvent and end > _place(event.start_mark)[0]:
                lines = self._lines[place[0] - 1 : end]
                self._places.blocks.setdefault(path, (place[0], lines, event.style == "|"))
        if event.tag is not None:
            hint = "leave the tag away; a text that looks like something else stands in quotes"
            self._note(event, f"a tag: {event.tag[:100]}", hint, path)
        if event.anchor is not None:
            return self._anchored(event, path)
        return self._scalar(event, path) if kind is ScalarEvent else self._container(event, path)

    def _container(self, event: Any, path: Path) -> Any:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise Wrong(f"nested more than {MAX_NESTING} deep", place=_place(event.start_mark))
        value = self._mapping(path) if event.__class__ is MappingStartEvent else self._sequence(path)
        self._depth -= 1
        return value

    def _mapping(self, path: Path) -> dict[str, Any]:
        following, recording = self._next, self._places is not None
        mapping: dict[str, Any] = {}
        while (event := following()).__class__ is not MappingEndEvent:
            key = self._key(event, path, mapping)
            inner = (*path, key) if recording and key is not None else path
            value = self._node(following(), inner)
            if key is not None and key not in mapping:
                mapping[key] = value
        return mapping

    def _sequence(self, path: Path) -> list[Any]:
        following, recording = self._next, self._places is not None
        sequence: list[Any] = []
        while (event := following()).__class__ is not SequenceEndEvent:
            sequence.append(self._node(event, (*path, len(sequence)) if recording else path))
        return sequence

    def _key(self, event: Any, path: Path, mapping: dict[str, Any]) -> str | None:
        """None after a problem."""
        if event.__class__ is not ScalarEvent:
            self._odd_key(event, path)
            return None
        key: str = event.value
        self._nodes += 1
        self._size += len(key)
        if event.tag is not None or event.anchor is not None:
            self._note(event, "a key with a tag or an anchor", "leave it away", path)
        if event.implicit[0]:
            if key == "<<":
                self._note(event, "a merge key (<<)", "write the keys out, or give a whole value by its alias", path)
                return None
            if (not key or key[0] in _FIRST) and not isinstance(value := self._plain(event, path), str):
                self._note(event, f"a key that is not a text: {shown(value)}", quote(key), path)
                return None
        if key in mapping:
            self._again(event, path, key)
        elif self._places is not None:
            self._places.keys.setdefault((*path, key), _place(event.start_mark))
        return key

    def _odd_key(self, event: Any, path: Path) -> None:
        if event.__class__ is AliasEvent:
            self._note(event, "an alias as a key", "write the key out", path)
        else:
            flow = event.__class__ is MappingStartEvent and event.flow_style
            what = "a mapping" if event.__class__ is MappingStartEvent else "a list"
            self._note(event, f"{what} as a key", _KEY if flow else "keys are texts", path)
            self._container(event, path)

    def _again(self, event: Any, path: Path, key: str) -> None:
        first = self._places.keys.get((*path, key)) if self._places is not None else None
        hint = f"it is on line {first[0]} already" if first else ""
        self._note(event, f"the key {shown(key)} is there twice", hint, (*path, key))

    def _scalar(self, event: Any, path: Path) -> Any:
        text: str = event.value
        self._size += len(text)
        if self._size > MAX_BYTES:
            raise Wrong(f"more than {MAX_BYTES:,} characters", place=_place(event.start_mark))
        if event.implicit[0] and (not text or text[0] in _FIRST):
            value = self._plain(event, path)
            if self._places is not None and not isinstance(value, str):
                self._places.written.setdefault(path, text)
            return value
        return text

    def _plain(self, event: Any, path: Path) -> Any:
        """What a scalar without quotes says; its text after a problem."""
        text: str = event.value
        try:
            return plain(text)
        except ValueError as error:
            self._note(event, str(error), f"as a text: {quote(text[:100])}", path)
            return text

    def _anchored(self, event: Any, path: Path) -> Any:
        name = event.anchor
        nodes, size = self._nodes, self._size
        self._open.add(name)
        value = self._scalar(event, path) if event.__class__ is ScalarEvent else self._container(event, path)
        self._open.discard(name)
        self._anchors[name] = value, self._nodes - nodes, self._size - size
        return value

    def _alias(self, event: Any, path: Path) -> Any:
        name = event.anchor
        if self._places is not None:
            self._places.values.setdefault(path, _place(event.start_mark))
        if name in self._open:
            self._note(event, f"the alias *{name[:100]} is inside of what it stands for", "", path)
            return None
        if name not in self._anchors:
            self._note(event, f"no anchor &{name[:100]} stands before this alias", "", path)
            return None
        value, nodes, size = self._anchors[name]
        self._nodes += nodes
        self._size += size
        if self._nodes > MAX_NODES or self._size > MAX_BYTES:
            what = f"{MAX_NODES:,} values" if self._nodes > MAX_NODES else f"{MAX_BYTES:,} characters"
            raise Wrong(f"aliases make this more than {what}", path=path, place=_place(event.start_mark))
        return value

    def _note(self, event: Any, message: str, hint: str, path: Path) -> None:
        if self._places is None:
            raise _Again
        if len(self.found) <= MAX_FOUND:
            self.found.append(Wrong(message, hint, path, _place(event.start_mark)))

    def _begin(self, event: Any) -> Place:
        """Of a block text, where its first line stands: what is wrong inside of it is found by counting from there."""
        line, column = _place(event.start_mark)
        if event.__class__ is ScalarEvent and event.style in ("|", ">") and line < len(self._lines):
            first = self._lines[line]
            return line + 1, len(first) - len(first.lstrip(" ")) + 1
        return line, column


def plain(text: str) -> Any:
    """What a scalar without quotes says. Raises ValueError for what is refused."""
    if not text:
        return None
    if text in _WORDS:
        return _WORDS[text]
    if len(text) <= _LONGEST:
        if _WHOLE.fullmatch(text):
            return _number(int(text))
        if _OTHER_BASE.fullmatch(text):
            return _number(int(text, 0))
        if _FRACTION.fullmatch(text):
            return _number(float(text))
    elif text[:_LONGEST].isdigit():
        raise ValueError("a whole number of more than 64 bits")
    if _LEADING_ZERO.fullmatch(text[:_LONGEST]):
        raise ValueError("a number with a leading zero means one thing in YAML 1.1 and another in YAML 1.2")
    if _ENDLESS.fullmatch(text):
        raise ValueError("a number that JSON cannot hold")
    return text


def _number(value: float) -> float:
    if problem := number_problem(value):
        raise ValueError(problem)
    return value


def _place(mark: Any) -> Place:
    return mark.line + 1, mark.column + 1


def _syntax(error: YAMLError, text: str) -> Wrong:
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    context = getattr(error, "context", None)
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    hint = next((hint for words, hint in _HINTS if words in problem), "")
    if mark is not None and _at(text, mark) == "\t":
        hint = "indent with spaces, not with tabs"
    message = f"not YAML: {problem}" + (f", {context}" if context else "")
    return Wrong(message, hint, place=_place(mark) if mark is not None else (1, 1))


def _at(text: str, mark: Any) -> str:
    lines = text.split("\n")
    return lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""
