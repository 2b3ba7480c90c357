"""Definitions as they are written: from YAML, JSON or a tree to a `Definition`, or to all that is wrong with them.

    text → tree (`markup`) → flat tree (`flat`) → definition (`structure`)

A text is UTF-8 of at most `MAX_BYTES`. What YAML is taken is said in `markup_yaml`.
"""

from collections.abc import Collection, Mapping
from typing import Any, Literal

from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import DefinitionRefused, Fault
from pipeline.workflow.flat import Flat
from pipeline.workflow.gaps import Gaps
from pipeline.workflow.markup import MAX_FOUND, Markup, Path, Places, Wrong, checked, judged, shown
from pipeline.workflow.markup_json import NotJson, parse_json
from pipeline.workflow.markup_yaml import parse_yaml
from pipeline.workflow.structure import defined

Media = Literal["yaml", "json"]

_ROOT = "definition"  # what faults call the whole
_STEPS = "steps"
_DEEPEST = 40  # parts of a path that are told


class Source:
    """A definition that was read.

    `definition` is None where it could not be made. It may be there beside faults: then without what they are about,
    so that checks can go on and tell the rest as well, which `gaps` keep from telling what comes of that only; it is to
    be run only where there are none (`raise_if_any`).
    `tree` is what the text says. `faults` are in the text's order.
    """

    def __init__(self, markup: Markup, kinds: Collection[str] | None = None, *, placed: bool = True) -> None:
        self.tree: Any = markup.tree
        self.definition: Definition | None = None
        self.gaps = Gaps()
        self._markup = markup
        self._placed = placed
        self._flat: Flat | None = None
        faults = [self._read(problem) for problem in markup.problems]
        problems: list[Wrong] = []
        if isinstance(markup.tree, dict):
            self._flat = Flat(markup.tree)
            written = _Written(markup) if placed else {}
            self.definition, problems, self.gaps = defined(self._flat, kinds, written)
            self.definition = self.definition if markup.sound else None
        elif not faults:
            problems.append(Wrong(f"found {shown(markup.tree)}, expected a mapping with name and steps"))
        said = {_at(fault) for fault in faults}
        others = [(problem, self._fault(problem)) for problem in problems]
        faults += [fault for problem, fault in others if problem.key or _at(fault) not in said]
        self.faults: list[Fault] = _told(faults)

    def place(self, where: Path, /, *, key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of what a path of the definition leads to (steps by index or by id), or else of
        what is around it; of a block text the first line's. (0, 0) where there is no text."""
        if not self._placed:
            return 0, 0
        path = self._indexed(where)
        return self._markup.places.nearest(self._flat.written(path) if self._flat else path, key=key)

    def line_in(self, path: Path, line: int, said: str) -> int:
        """See `pipeline.workflow.faults.Text`."""
        if not self._placed:
            return 0
        found = self._flat.written(self._indexed(path)) if self._flat else path
        begin, lines, literal = self._markup.places.blocks.get(found, (0, (), False))
        if literal and line < len(lines):
            return begin + line
        return begin + next((number for number, one in enumerate(lines) if said and said in one), 0)

    def where(self, path: Path) -> str:
        """The path as faults have it: `steps.draft.messages[0].content`."""
        return _spelt(path, self._flat.tree if self._flat else None)

    def raise_if_any(self) -> None:
        """Raises `DefinitionRefused` with the faults."""
        if self.faults:
            raise DefinitionRefused(self.faults)

    def _read(self, problem: Wrong) -> Fault:
        """Of the text: its path leads through what is written."""
        place = problem.place or (self._markup.places.nearest(problem.path) if self._placed else (0, 0))
        line, column = place if self._placed else (0, 0)
        return Fault(_spelt(problem.path, self.tree), problem.message, line, column, problem.hint)

    def _fault(self, problem: Wrong) -> Fault:
        line, column = self.place(problem.path, key=problem.key)
        return Fault(self.where(problem.path), problem.message, line, column, problem.hint)

    def _indexed(self, where: Path) -> Path:
        """Ids of steps as indices."""
        here: Any = self._flat.tree if self._flat else None
        path: Path = ()
        for part in where:
            if isinstance(part, str) and isinstance(here, list):
                ids = (index for index, one in enumerate(here) if isinstance(one, dict) and one.get("id") == part)
                part = next(ids, part)  # noqa: PLW2901
            here = _inside(here, part)
            path = (*path, part)
        return path


class _Written(Mapping[Path, str]):
    """Looks into the text only when it is asked."""

    def __init__(self, markup: Markup) -> None:
        self._markup = markup

    def __getitem__(self, path: Path) -> str:
        return self._markup.places.written[path]

    def __iter__(self) -> Any:
        return iter(self._markup.places.written)

    def __len__(self) -> int:
        return len(self._markup.places.written)


def read(
    text: bytes | str, media: str | None = None, *, name: str = "", kinds: Collection[str] | None = None
) -> Source:
    """`media` is `yaml` or `json`; else the suffix of `name` (a file's) tells, else the text itself. `kinds` are the
    known custom types; None: any that a step with `options` may have, planning looks whether it is known. Raises
    nothing: what is wrong is among the faults."""
    try:
        markup = _parsed(checked(text), media, name)
    except Wrong as wrong:
        markup = Markup(None, [wrong])
    return Source(markup, kinds)


def read_tree(tree: Any, kinds: Collection[str] | None = None) -> Source:
    """The same for a tree of JSON's types: faults have no line."""
    return Source(judged(tree, [], Places), kinds, placed=False)


def _parsed(text: str, media: str | None, name: str) -> Markup:
    if media is None and name.endswith(".json"):
        media = "json"
    if media == "json":
        return parse_json(text)
    if media is None and not name and text.lstrip()[:1] == "{":
        try:
            return parse_json(text)
        except NotJson:
            pass  # YAML has braces too
    return parse_yaml(text)


def _at(fault: Fault) -> tuple[int, int] | str:
    return (fault.line, fault.column) if fault.line else fault.where


def _told(faults: list[Fault]) -> list[Fault]:
    """In the text's order, each once."""
    told = sorted(dict.fromkeys(faults), key=lambda fault: (fault.line, fault.column))
    if len(told) > MAX_FOUND:
        last = told[MAX_FOUND - 1]
        told[MAX_FOUND:] = [Fault(_ROOT, f"there are more problems than these {MAX_FOUND}", last.line, last.column)]
    return told


def _spelt(path: Path, tree: Any) -> str:
    here, text, steps = tree, "", False
    for position, part in enumerate(path[:_DEEPEST]):
        here = _inside(here, part)
        name = here.get("id") if steps and isinstance(here, dict) else None
        if isinstance(part, str):
            text += f".{part[:100]}"
        elif isinstance(name, str) and name and path[position + 1 :] != ("id",):
            text += f".{name[:128]}"
        else:
            text += f"[{part}]"
        steps = part == _STEPS
    return (text.removeprefix(".") or _ROOT) + ("…" if len(path) > _DEEPEST else "")


def _inside(here: Any, part: str | int) -> Any:
    if isinstance(here, list):
        return here[part] if isinstance(part, int) and part < len(here) else None
    return here.get(part) if isinstance(here, dict) and isinstance(part, str) else None
