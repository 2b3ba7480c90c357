"""One graph of a run being executed: which steps have ended, and which can begin."""

from collections import deque
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.workflow.doing import Doing, Error, Leaving, described
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.filling import render
from pipeline.workflow.history import DEPENDENCY_FAILED, StepRecord
from pipeline.workflow.journal import StepSkipped
from pipeline.workflow.plan import Gate, Graph, Node
from pipeline.workflow.scope import Outcome, Place
from pipeline.workflow.states import StepState
from pipeline.workflow.templates import compile_expression

if TYPE_CHECKING:
    from pipeline.workflow.run import Run

_NOTHING: Mapping[str, Any] = {}


class Owner(Protocol):
    """What a frame is executed for: the run, or a step with steps inside."""

    def closed(self, frame: "Frame") -> None:
        """All of its steps have ended."""
        ...

    def failed_inside(self, frame: "Frame", error: Error) -> None:
        """One failed, and nothing tolerates that: the rest no longer matters."""
        ...


def _chose(value: Any, gate: Gate) -> bool:
    """A branch that failed may have any value for its fallback."""
    return isinstance(value, int | str) and value in gate.cases


class Frame:
    """`prefix` stands before the ids of its steps in their paths. `tolerant`: a step that fails takes only those with
    it that need it. `blemished`: one failed, in it or in what a step of it came to, and it went on. `limit`: at most so
    many of its steps are under way at once. `kept`: where the steps that ended are noted for the case that one around
    them is tried again."""

    __slots__ = (
        "_left",
        "_limit",
        "_line",
        "_open",
        "_under_way",
        "blemished",
        "doings",
        "dropped",
        "graph",
        "inputs",
        "kept",
        "local",
        "outcomes",
        "outer",
        "owner",
        "prefix",
        "run",
        "tolerant",
    )

    def __init__(
        self,
        run: "Run",
        owner: Owner,
        graph: Graph,
        prefix: str,
        *,
        inputs: Mapping[str, Any],
        outer: Place | None = None,
        local: Mapping[str, Any] = _NOTHING,
        tolerant: bool = False,
        limit: int | None = None,
        kept: dict[str, StepRecord] | None = None,
    ) -> None:
        self.run = run
        self.owner = owner
        self.graph = graph
        self.prefix = prefix
        self.inputs = inputs
        self.outer = outer
        self.local = local
        self.tolerant = tolerant
        self.kept = kept
        self.dropped = False
        self.blemished = False
        self.outcomes: list[Outcome | None] = [None] * len(graph.nodes)
        self.doings: dict[int, Doing] = {}
        self._left = [len(node.needs) for node in graph.nodes]
        self._open = len(graph.nodes)
        self._limit = limit
        self._line: deque[Doing] | None = None
        self._under_way = 0

    def begin(self) -> None:
        """Starts the steps that need none; or, where there are records of them, goes on."""
        if self.run.records:
            self._restore()
            return
        for index in self.graph.first:
            self._ready(index)
        if not self._open:
            self.owner.closed(self)

    def ended(self, index: int, outcome: Outcome) -> None:
        """A step has ended, and that is written."""
        if self.dropped:
            return
        if self.doings.pop(index, None) is not None and self._limit is not None:
            self._under_way -= 1
            self._next()
        self._keep(index, outcome)
        self._open -= 1
        for feed in self.graph.nodes[index].feeds:
            self._left[feed] -= 1
            if not self._left[feed]:
                self._ready(feed)
        if not self._open:
            self.owner.closed(self)

    def failed(self, index: int, error: Error, *, tolerated: bool) -> None:
        """A step has failed for good, and that is written."""
        if self.dropped:
            return
        if tolerated or self.tolerant:
            self.blemished = True
            self.ended(index, Outcome(StepState.FAILED, error=error, failed=not tolerated))
        else:
            self.owner.failed_inside(self, error)

    def _keep(self, index: int, outcome: Outcome) -> None:
        self.outcomes[index] = outcome
        if self.kept is not None and not outcome.failed:
            path = self.prefix + self.graph.nodes[index].step.id
            self.kept[path] = StepRecord(
                path,
                outcome.state,
                value=outcome.value,
                fields=dict(outcome.fields),
                error=None if outcome.error is None else dict(outcome.error),
                tolerated=True,
            )

    def drop(self, leaving: Leaving) -> None:
        """Ends all that is under way in it without a trace."""
        self.dropped = True
        self._line = None
        for doing in self.doings.values():
            doing.drop(leaving)

    # Steps whose dependencies have all ended.

    def _ready(self, index: int) -> None:
        if self.dropped or self.run.hold(partial(self._ready, index)):
            return
        if self.run.later(self._ready, index):
            return
        node = self.graph.nodes[index]
        for compiled in node.values.values():
            while compiled.prepare():
                if self.run.later(self._ready, index):
                    return
        because = self._why_not(node)
        if because:
            self._skip(node, because)
            return
        doing = self.run.doing(self, node, self.run.records.pop(self.prefix + node.step.id, None))
        if node.step.condition is not None:
            try:
                wanted = self._wanted(node)
            except StepFailed as failure:
                doing.failed(described(failure, doing.path))
                return
            if not wanted:
                self._skip(node, "its condition is false")
                return
        self._admit(index, doing)

    def _why_not(self, node: Node) -> str:
        """Why a step is skipped whatever its condition says; empty where it is not."""
        if not node.needs:
            return ""
        outcomes = self.outcomes
        needed = [outcomes[index] for index in node.needs]
        if any(outcome is not None and outcome.failed for outcome in needed):
            return DEPENDENCY_FAILED
        if node.gates:
            for gate in node.gates:
                taken = outcomes[gate.branch]
                if taken is None or taken.state is not StepState.COMPLETED or not _chose(taken.value, gate):
                    return f"{self.graph.nodes[gate.branch].step.id} did not choose it"
            gates = {gate.branch for gate in node.gates}
            needed = [outcomes[index] for index in node.needs if index not in gates]
        if needed and all(outcome is not None and outcome.state is StepState.SKIPPED for outcome in needed):
            return "all that it needs was skipped"
        return ""

    def _wanted(self, node: Node) -> bool:
        """Raises `StepFailed`."""
        condition = node.step.condition
        compiled = node.values.get("condition")
        if compiled is None and isinstance(condition, str):
            compiled = compile_expression(condition)
        if compiled is None:
            return bool(condition)
        return bool(render(compiled, self, limits=self.run.shared.limits))

    def _skip(self, node: Node, because: str) -> None:
        run = self.run
        run.count("steps_skipped")
        outcome = Outcome(StepState.SKIPPED, failed=because == DEPENDENCY_FAILED)
        entry = StepSkipped(run.now(), self.prefix + node.step.id, because)
        run.queue(entry, partial(self.ended, node.index, outcome))

    def _admit(self, index: int, doing: Doing) -> None:
        if self._limit is None:
            self.doings[index] = doing
            doing.begin()
            return
        if self._line is None:
            self._line = deque()
        self._line.append(doing)
        self._next()

    def _next(self) -> None:
        while self._line and self._limit is not None and self._under_way < self._limit:
            doing = self._line.popleft()
            self.doings[doing.node.index] = doing
            self._under_way += 1
            doing.begin()

    def replace(self, doing: Doing, record: StepRecord | None) -> Doing:
        """Another one in the place of one that is dropped, with what is known of it."""
        following = self.run.doing(self, doing.node, record)
        self.doings[doing.node.index] = following
        return following

    # Going on.

    def _restore(self) -> None:
        """Steps that have ended are not done again; the others begin when they can."""
        records, failed = self.run.records, None
        for index, node in enumerate(self.graph.nodes):
            record = records.get(self.prefix + node.step.id)
            if record is None:
                continue
            outcome = self._outcome(record)
            if outcome is not None:
                self._keep(index, outcome)
            elif record.state is StepState.FAILED:
                failed = failed or record.error
        if failed is not None:
            self.owner.failed_inside(self, failed)
            return
        ready = self._recount()
        for index in ready:
            self._ready(index)
        if not self._open:
            self.owner.closed(self)

    def _outcome(self, record: StepRecord) -> Outcome | None:
        """None: it has not ended, or failed so that this frame fails with it."""
        match record.state:
            case StepState.COMPLETED:
                self.blemished = self.blemished or record.path in self.run.blemishes
                outcome = Outcome(StepState.COMPLETED, record.value, record.fields, record.error)
            case StepState.SKIPPED:
                outcome = Outcome(StepState.SKIPPED, failed=record.because == DEPENDENCY_FAILED)
            case StepState.FAILED if record.tolerated or self.tolerant:
                self.blemished = True
                outcome = Outcome(StepState.FAILED, error=record.error, failed=not record.tolerated)
            case _:
                return None
        del self.run.records[record.path]
        return outcome

    def _recount(self) -> list[int]:
        """Counts what is left to wait for; returns the steps that can begin."""
        outcomes, ready = self.outcomes, []
        for index, node in enumerate(self.graph.nodes):
            if outcomes[index] is not None:
                self._open -= 1
                continue
            self._left[index] = sum(outcomes[need] is None for need in node.needs)
            if not self._left[index]:
                ready.append(index)
        return ready
