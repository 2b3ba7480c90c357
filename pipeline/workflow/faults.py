"""Problems as faults: where they are, in words and in the text."""

from collections.abc import Iterable
from typing import Any, Protocol

from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import Fault
from pipeline.workflow.problems import Path, Problem


class Text(Protocol):
    """Where a path of a definition, or the key that leads to it, stands in its text: line and column from 1, 0 where
    that cannot be told. Of a text of several lines it is the first one's."""

    def place(self, path: Path, /, *, key: bool = False) -> tuple[int, int]: ...

    def line_in(self, path: Path, line: int, said: str) -> int:
        """Of a text of several lines: where its line number `line` (from 0) or these words stand; 0 for others."""
        ...


def faults_of(problems: Iterable[Problem], definition: Definition, text: Text | None = None) -> list[Fault]:
    """In the text's order where there is one, those about the whole last."""
    about_parts: list[Fault] = []
    about_all: list[Fault] = []
    for problem in problems:
        (about_parts if problem.path else about_all).append(_fault(problem, definition, text))
    return [*(in_order(about_parts) if text is not None else about_parts), *about_all]


def in_order(faults: Iterable[Fault]) -> list[Fault]:
    return sorted(faults, key=lambda fault: (fault.line, fault.column))


def _fault(problem: Problem, definition: Definition, text: Text | None) -> Fault:
    line, column = text.place(problem.path) if text is not None else (0, 0)
    if text is not None:
        inside = text.line_in(problem.path, problem.line, problem.said)
        line, column = (inside, 1) if inside > line else (line, column)
    return Fault(where_of(problem.path, definition), problem.message, line, column, problem.hint)


def where_of(path: Path, definition: Definition) -> str:
    """`steps.draft.messages[0].content`; a step by its index where its id is what is wrong."""
    here: Any = definition
    parts: list[str] = []
    for position, key in enumerate(path):
        here = _inside(here, key)
        name = getattr(here, "id", None) if isinstance(key, int) else None
        if isinstance(name, str) and path[position + 1 :] != ("id",):
            parts.append(f".{name}")
        else:
            parts.append(f"[{key}]" if isinstance(key, int) else f".{key}")
    return "".join(parts).removeprefix(".") or definition.name


def _inside(here: Any, key: str | int) -> Any:
    if isinstance(here, list) and isinstance(key, int):
        return here[key] if key < len(here) else None
    if isinstance(here, dict):
        return here.get(key)
    return getattr(here, key, None) if isinstance(key, str) else None
