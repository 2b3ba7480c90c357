"""What a run has come to: its entries, read in order.

`fold` makes a `History` of them. The engine goes on from it after a crash, and it is what people are shown of a run.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from pipeline.workflow import journal
from pipeline.workflow.journal import AnyEntry, Numbered
from pipeline.workflow.states import RunState, StepState

INTERRUPTED = "taken up again"  # why a run that was interrupted is running
DEPENDENCY_FAILED = "dependency failed"  # why a step was skipped; what needs it is then skipped as well

_IDLE = frozenset({RunState.PENDING, RunState.PAUSED, RunState.WAITING})


class StepRecord(msgspec.Struct):
    """A step of a run. `attempt` is the newest one's number, 0 where there was none; `failures` how many of them failed
    (an attempt that was cut off by a crash did not). `attempt_at` is when the newest began. `wake_at` and `event` are
    those of a wait, `again_at` is when the next attempt begins. `error` has `kind` and `message`. `tolerated`: it
    failed, and the run went on without it. Times are seconds since the epoch; `ended_at` is None until it has ended."""

    path: str
    state: StepState = StepState.PENDING
    attempt: int = 0
    failures: int = 0
    value: Any = None
    fields: dict[str, Any] = {}
    error: dict[str, Any] | None = None
    fallback: bool = False
    tolerated: bool = False
    because: str = ""
    started_at: float | None = None
    attempt_at: float | None = None
    ended_at: float | None = None
    again_at: float | None = None
    wake_at: float | None = None
    event: str | None = None

    @property
    def counts(self) -> bool:
        """Whether it has ended in a way that those who need it can go on from."""
        if self.state is StepState.FAILED:
            return self.tolerated
        return self.state is StepState.COMPLETED or (
            self.state is StepState.SKIPPED and self.because != DEPENDENCY_FAILED
        )


class History(msgspec.Struct):
    """`steps` by path, in the order in which they were first heard of. `signals`: those that no wait has taken yet, the
    oldest first, as (event, payload). `last` is the newest entry's number, `last_at` when that was.

    `started_at` is when it began, `ended_at` when it came to a final state. `used` are the seconds in which it was
    running, up to the newest entry and without those in which no process had it, `waited` those in which it waited; a
    retry begins them anew. `interrupted` tells that somebody had begun it and has not ended, paused or laid it down;
    `interruptions` how often that was so since a step last ended.
    """

    state: RunState = RunState.PENDING
    because: str = ""
    outputs: Any = None
    error: dict[str, Any] | None = None
    wake_at: float | None = None
    created_at: float = 0.0
    started_at: float | None = None
    ended_at: float | None = None
    used: float = 0.0
    waited: float = 0.0
    interruptions: int = 0
    last: int = 0
    last_at: float = 0.0
    steps: dict[str, StepRecord] = {}
    signals: list[tuple[str, Any]] = []

    @property
    def interrupted(self) -> bool:
        return self.state is RunState.RUNNING

    @property
    def underway(self) -> bool:
        """Whether its first step has been completed."""
        return any(step.state is StepState.COMPLETED for step in self.steps.values())


def parent(path: str) -> str | None:
    """The path of the step that this one is inside of: `a` for `a[3]/b` and for `a/b`; None at the top."""
    head, slash, _ = path.rpartition("/")
    if not slash:
        return None
    return head[: head.rindex("[")] if head.endswith("]") else head


def open_ones(steps: Mapping[str, StepRecord]) -> dict[str, StepRecord]:
    """Without those that are inside of one that is over: what it came to is all that counts of them."""
    over: dict[str, bool] = {}

    def inside_of_one(path: str) -> bool:
        around = parent(path)
        if around is None:
            return False
        known = over.get(around)
        if known is None:
            step = steps.get(around)
            known = over[around] = (step is not None and step.counts) or inside_of_one(around)
        return known

    return {path: step for path, step in steps.items() if not inside_of_one(path)}


def blemishes(steps: Mapping[str, StepRecord]) -> set[str]:
    """The paths of steps that were completed although one inside of them failed."""
    found: set[str] = set()
    for path, step in steps.items():
        around = parent(path) if step.state is StepState.FAILED else path if _partial(step) else None
        while around is not None and around not in found:
            owner = steps.get(around)
            if owner is None or owner.state is not StepState.COMPLETED or owner.fallback:
                break
            found.add(around)
            around = parent(around)
    return found


def _partial(step: StepRecord) -> bool:
    """A workflow that was called, and could not make all of its outputs."""
    metadata = step.fields.get("metadata")
    return isinstance(metadata, dict) and metadata.get("partial") is True


def fold(entries: Iterable[Numbered]) -> History:
    """`entries`: all of a run, from the first one on."""
    folding = _Folding()
    for numbered in entries:
        folding.history.last = numbered.number
        folding.add(numbered.entry)
    return folding.history


class _Folding:
    """`_inside`: the paths of the steps in each step that has any, also of those that no longer count."""

    def __init__(self) -> None:
        self.history = History(steps={}, signals=[])
        self._inside: dict[str, dict[str, None]] = {}
        self._at: float | None = None  # of the newest entry
        self._turns = {
            journal.StateChanged: self._state,
            journal.StepStarted: self._started,
            journal.StepWaiting: self._waiting,
            journal.StepRetrying: self._retrying,
            journal.StepCompleted: self._completed,
            journal.StepSkipped: self._skipped,
            journal.StepFailedFinally: self._failed,
            journal.Signalled: self._signalled,
            journal.Rewound: self._rewound,
        }

    def add(self, entry: AnyEntry) -> None:
        self._spend(entry)
        self._turns[type(entry)](entry)  # type: ignore[operator]

    def _spend(self, entry: AnyEntry) -> None:
        """Counts the time since the entry before. Running after running: the time between is one of nobody's."""
        history, before = self.history, self._at
        self._at = history.last_at = entry.at
        if before is None or entry.at <= before:
            return
        again = isinstance(entry, journal.StateChanged) and entry.state is RunState.RUNNING
        if history.state is RunState.RUNNING and not again:
            history.used += entry.at - before
        elif history.state is RunState.WAITING:
            history.waited += entry.at - before

    def _state(self, entry: journal.StateChanged) -> None:
        history = self.history
        if not history.created_at:
            history.created_at = entry.at
        if history.state.final and not entry.state.final:
            self._reopen_run()
        history.state, history.because = entry.state, entry.because
        history.outputs, history.error, history.wake_at = entry.outputs, entry.error, entry.wake_at
        history.interruptions += entry.state is RunState.RUNNING and entry.because == INTERRUPTED
        if history.started_at is None and entry.state is RunState.RUNNING:
            history.started_at = entry.at
        if entry.state.final:
            history.ended_at = entry.at
            self._abandon(history.steps, entry.at)

    def _reopen_run(self) -> None:
        """A retry: what was under way when it ended is as if it had not begun; what is inside of it stays."""
        history = self.history
        history.ended_at = history.started_at = None
        history.used = history.waited = 0.0
        history.interruptions = 0
        for path in [path for path, step in history.steps.items() if step.state is StepState.ABANDONED]:
            del history.steps[path]

    def _started(self, entry: journal.StepStarted) -> None:
        step = self._step(entry.path)
        step.state, step.attempt = StepState.RUNNING, entry.attempt
        step.again_at = step.ended_at = None
        step.attempt_at = entry.at
        if step.started_at is None:
            step.started_at = entry.at

    def _waiting(self, entry: journal.StepWaiting) -> None:
        step = self._step(entry.path)
        step.state, step.wake_at, step.event = StepState.WAITING, entry.wake_at, entry.event

    def _retrying(self, entry: journal.StepRetrying) -> None:
        step = self._step(entry.path)
        step.state, step.attempt = StepState.RETRYING, entry.attempt
        step.failures += 1
        step.error, step.again_at = entry.error, entry.again_at
        self._undo(entry.path)

    def _undo(self, path: str) -> None:
        """A step is tried again: what is inside of it and has not come to anything is done again."""
        for inner in self._inside.get(path, ()):
            self._undo(inner)
            step = self.history.steps.get(inner)
            if step is not None and not step.counts:
                del self.history.steps[inner]

    def _completed(self, entry: journal.StepCompleted) -> None:
        step = self._step(entry.path)
        if step.event is not None and not entry.fallback:
            self._take(step.event)
        step.state, step.value, step.fields = StepState.COMPLETED, entry.value, entry.fields
        step.fallback, step.error = entry.fallback, entry.error
        self.history.interruptions = 0
        self._end(step, entry.attempt, entry.at)

    def _take(self, event: str) -> None:
        for index, (name, _) in enumerate(self.history.signals):
            if name == event:
                del self.history.signals[index]
                return

    def _skipped(self, entry: journal.StepSkipped) -> None:
        step = self._step(entry.path)
        step.state, step.because = StepState.SKIPPED, entry.because
        step.ended_at = entry.at
        self.history.interruptions = 0

    def _failed(self, entry: journal.StepFailedFinally) -> None:
        step = self._step(entry.path)
        step.state, step.error, step.tolerated = StepState.FAILED, entry.error, entry.tolerated
        step.failures += 1
        self.history.interruptions = 0
        self._end(step, entry.attempt, entry.at)

    def _end(self, step: StepRecord, attempt: int, at: float) -> None:
        step.attempt, step.ended_at = attempt, at
        step.again_at = step.wake_at = None
        self._abandon(self._inside.get(step.path, ()), at)

    def _abandon(self, paths: Iterable[str], at: float) -> None:
        for path in paths:
            step = self.history.steps.get(path)
            if step is not None and not step.state.final:
                step.state, step.ended_at = StepState.ABANDONED, at
                self._abandon(self._inside.get(path, ()), at)

    def _signalled(self, entry: journal.Signalled) -> None:
        self.history.signals.append((entry.event, entry.payload))

    def _rewound(self, entry: journal.Rewound) -> None:
        """With each path goes what is inside of it, and the end of what it is inside of."""
        for path in entry.paths:
            self._forget_all(path)
            around = parent(path)
            while around is not None:
                self.history.steps.pop(around, None)
                around = parent(around)

    def _forget_all(self, path: str) -> None:
        for inner in self._inside.pop(path, ()):
            self._forget_all(inner)
        self.history.steps.pop(path, None)

    def _step(self, path: str) -> StepRecord:
        step = self.history.steps.get(path)
        if step is None:
            step = self.history.steps[path] = StepRecord(path)
            around = parent(path)
            if around is not None:
                self._inside.setdefault(around, {})[path] = None
        return step
