"""Which steps a retry does again.

Those that failed, were skipped for such a one, or were cut off; the one that was asked for; and of what had ended all
that depends on any of these. A path that ends with `/` reopens a step: what is inside of it stays.
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from pipeline.workflow.errors import Conflict
from pipeline.workflow.history import DEPENDENCY_FAILED, History, StepRecord
from pipeline.workflow.plan import Graph, Node, Plan
from pipeline.workflow.scope import type_of
from pipeline.workflow.states import StepState

_IN_ORDER = frozenset({"loop", "reduce"})  # each turn goes on from the one before


class Turn(NamedTuple):
    """A frame that there is something of: its number (None: there is only one), and what stands before its paths."""

    number: int | None
    prefix: str


def rewound(plan: Plan, history: History, step: str | None) -> list[str]:
    """For `Rewound`. Raises `Conflict` where the run has no step with that path."""
    if step is not None and step not in history.steps:
        raise Conflict(f"The run has come to no step {step[:200]!r}", param="step")
    return list(dict.fromkeys(_Rewinding(history, step).graph(plan.graph, "")))


class _Rewinding:
    def __init__(self, history: History, step: str | None) -> None:
        self._steps = history.steps
        self._asked = step
        self._turns: dict[str, dict[str, Turn]] = {}
        for path in history.steps:
            self._note(path)

    def _note(self, path: str) -> None:
        """Every frame that the step is in, from the innermost outwards."""
        while "/" in path:
            head = path.rpartition("/")[0]
            owner, number = head, None
            if head.endswith("]"):
                owner, _, digits = head[:-1].rpartition("[")
                number = int(digits)
            turns = self._turns.setdefault(owner, {})
            if head in turns:
                return
            turns[head] = Turn(number, head + "/")
            path = owner

    def graph(self, graph: Graph, prefix: str) -> Iterator[str]:
        """Of one frame."""
        changed = []
        for node in graph.nodes:
            path = prefix + node.step.id
            again = list(self._step(node, path))
            yield from again
            if again or self._open(path):
                changed.append(node.index)
        for index in _after(graph, changed):
            path = prefix + graph.nodes[index].step.id
            if path in self._steps:
                yield path

    def _open(self, path: str) -> bool:
        record = self._steps.get(path)
        return record is not None and not record.state.final

    def _step(self, node: Node, path: str) -> Iterator[str]:
        record = self._steps.get(path)
        if path == self._asked:
            yield path
            return
        inside = list(self._inside(node, path))
        if inside:
            yield from inside
        elif record is not None and _again(record):
            cut_off = record.state is StepState.ABANDONED and path in self._turns
            yield f"{path}/" if cut_off else path

    def _inside(self, node: Node, path: str) -> Iterator[str]:
        graph = node.body if node.other is None else node.other.graph
        if graph is None:
            return
        turns = sorted(self._turns.get(path, {}).values(), key=lambda turn: turn.number or 0)
        in_order, begun = type_of(node.step) in _IN_ORDER, False
        for turn in turns:
            if begun and in_order:
                yield from self._all(graph, turn.prefix)
                continue
            for one in self.graph(graph, turn.prefix):
                begun = True
                yield one

    def _all(self, graph: Graph, prefix: str) -> Iterator[str]:
        return (path for node in graph.nodes if (path := prefix + node.step.id) in self._steps)


def _again(record: StepRecord) -> bool:
    if record.state is StepState.SKIPPED:
        return record.because == DEPENDENCY_FAILED
    return record.state in {StepState.FAILED, StepState.ABANDONED}


def _after(graph: Graph, changed: Iterable[int]) -> Iterator[int]:
    """The nodes that need one of these, or one that does."""
    seen: set[int] = set()
    stack = list(changed)
    while stack:
        for feed in graph.nodes[stack.pop()].feeds:
            if feed not in seen:
                seen.add(feed)
                stack.append(feed)
                yield feed
