"""Workflows that call workflows: which, in what order they are planned, and which call themselves."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pipeline.workflow.definition import MAX_DEPTH, Definition, WorkflowStep
from pipeline.workflow.problems import listed


class Others(dict[str, Definition]):
    """Definitions by the text that calls them; `problems` has those that could not be had, and why."""

    def __init__(self, found: Mapping[str, Definition] = {}, problems: Mapping[str, str] = {}) -> None:
        super().__init__(found)
        self.problems = dict(problems)


def calls(definition: Definition) -> list[str]:
    """The texts of all `workflow` steps, each once, in order."""
    found: dict[str, None] = {}
    lists: list[Iterator[Any]] = [iter(definition.steps)]
    while lists:
        for step in lists[-1]:
            if isinstance(step, WorkflowStep):
                found[step.workflow] = None
            elif inner := getattr(step, "steps", None):
                lists.append(iter(inner))
                break
        else:
            lists.pop()
    return list(found)


class Callees:
    """Goes through all that a workflow calls, and what those call, the innermost first. `broken` says of those that
    cannot be called why."""

    def __init__(self, definition: Definition, others: Mapping[str, Definition]) -> None:
        self._main = definition
        self._others = others
        self._mains = {definition.name: True, f"{definition.name}@{definition.version}": True}
        self._depth: dict[str, int] = {}
        self.broken: dict[str, list[str]] = {
            text: [f"workflow {text}: {message}"] for text, message in getattr(others, "problems", {}).items()
        }

    def each(self, take: Callable[[str, Definition], None]) -> None:
        """`take` is called with each, once it has been called with all that this one calls."""
        way: list[str] = []
        open_calls = [iter(calls(self._main))]
        while open_calls:
            text = next(open_calls[-1], None)
            if text is not None:
                if self._enters(text, way):
                    way.append(text)
                    open_calls.append(iter(calls(self._others[text])))
                continue
            open_calls.pop()
            if way:
                self._leave(way.pop(), take)

    def _enters(self, text: str, way: list[str]) -> bool:
        if self._is_main(text):
            self._circle([self._main.name, *way], text)
        elif text in way:
            self._circle(way[way.index(text) :], text)
        elif text not in self._depth and text not in self.broken and text in self._others:
            return True
        return False

    def _is_main(self, text: str) -> bool:
        if text not in self._mains:
            self._mains[text] = self._others.get(text) == self._main
        return self._mains[text]

    def _circle(self, way: list[str], text: str) -> None:
        names = [*way, way[0]]
        shown = " → ".join(names) if len(names) <= MAX_DEPTH else listed(names)
        for one in {*way, text}:
            self.broken.setdefault(one, [f"workflow {one} calls itself: {shown}"])

    def _leave(self, text: str, take: Callable[[str, Definition], None]) -> None:
        definition = self._others[text]
        depth = self._depth[text] = 1 + max((self._depth.get(one, 0) for one in calls(definition)), default=0)
        if depth >= MAX_DEPTH:
            self.broken.setdefault(text, [f"workflow {text}: workflows call workflows more than {MAX_DEPTH} deep"])
        elif text not in self.broken:
            take(text, definition)
