"""A step of a run that is being executed: what its attempts, failures and ends have in common, whatever its type."""

import asyncio
import random
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from pipeline.workflow import backoff
from pipeline.workflow.definition import FIELDS
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.filling import fill
from pipeline.workflow.history import StepRecord
from pipeline.workflow.journal import StepCompleted, StepFailedFinally, StepRetrying
from pipeline.workflow.plan import Node
from pipeline.workflow.ports import Result
from pipeline.workflow.scope import Outcome, type_of
from pipeline.workflow.states import StepState

if TYPE_CHECKING:
    from pipeline.workflow.frame import Frame
    from pipeline.workflow.run import Run

Error = dict[str, Any]
_SCALAR = frozenset({str, int, float, bool, type(None)})


def described(failure: StepFailed, path: str) -> Error:
    """A failure as it is journalled. `step` is where it happened."""
    error: Error = {"kind": failure.kind, "message": failure.message, "step": path}
    if failure.retryable:
        error["retryable"] = True
    if failure.retry_after is not None:
        error["retry_after"] = failure.retry_after
    if failure.details:
        error["details"] = failure.details
    return error


def timed_out(seconds: float, path: str, note: str = "") -> Error:
    message = f"it took longer than {seconds:g} s{note}"
    return described(StepFailed("timeout", message, retryable=True), path)


class Leaving:
    """Calls `then` once everything that was dropped has gone: tasks need turns of the loop to end."""

    __slots__ = ("_count", "_then")

    def __init__(self, then: Callable[[], None]) -> None:
        self._then = then
        self._count = 1

    def wait(self) -> None:
        self._count += 1

    def gone(self) -> None:
        self._count -= 1
        if not self._count:
            self._then()


class Doing:
    """`record` is what is known of the step from before a restart. `attempt` is the number of the newest attempt, 0
    before the first one; `failures` how many failed. `dropped`: it no longer matters what becomes of it."""

    __slots__ = ("_spent", "_turn", "attempt", "dropped", "failures", "frame", "node", "path", "run", "timer")

    def __init__(self, frame: "Frame", node: Node, record: StepRecord | None) -> None:
        self.frame = frame
        self.run: Run = frame.run
        self.node = node
        self.path = frame.prefix + node.step.id
        self.attempt = 0 if record is None else record.attempt
        self.failures = 0 if record is None else record.failures
        self.dropped = False
        self.timer: asyncio.TimerHandle | None = None
        self._turn = -1
        self._spent = 0.0  # seconds of that turn, for values

    def begin(self) -> None:
        """Starts it, or the next attempt, or goes on with what was interrupted."""
        raise NotImplementedError

    def drop(self, leaving: Leaving) -> None:  # noqa: ARG002 - subclasses need it
        """Ends it without a trace. `leaving` is told of everything that takes a while to go."""
        self.dropped = True
        self.disarm()

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def value(self, field: str, **local: Any) -> Any:
        """See `StepContext.value`. In one turn of the event loop all of its values together have the time that one
        may take."""
        node = self.node
        if field not in node.values and "." not in field:  # a constant, as most are, or not given
            constant = getattr(node.step, field)
            if constant.__class__ in _SCALAR:
                return constant
        shared = self.run.shared
        if self._turn != shared.turns.number:
            self._turn, self._spent = shared.turns.number, 0.0
        since = time.thread_time()
        try:
            return fill(self.node, field, self.frame, local, shared.limits.less(self._spent))
        finally:
            self._spent += time.thread_time() - since

    # Ends.

    def completed(self, result: Result) -> None:
        self.disarm()
        run = self.run
        run.count("steps_completed")
        entry = StepCompleted(run.now(), self.path, result.value, dict(result.fields), self.attempt)
        run.queue(entry, partial(self._completed, Outcome(StepState.COMPLETED, result.value, result.fields)))

    def _completed(self, outcome: Outcome) -> None:
        self.run.underway = True
        self.frame.ended(self.node.index, outcome)

    def failed(self, error: Error) -> None:
        """An attempt has failed."""
        self.disarm()
        self.failures += 1
        retry = self.node.step.retry
        if retry is not None and error.get("retryable") and self.failures < retry.max_attempts:
            self._retry(error)
            return
        self.run.count("steps_failed")
        match self.node.step.on_failure:
            case "fallback":
                self._fall_back(error)
            case "continue":
                self._fail(error, tolerated=True)
            case _:
                self._fail(error, tolerated=False)

    def _retry(self, error: Error) -> None:
        run = self.run
        run.count("steps_retried")
        seconds = backoff.delay(
            self.node.step.retry,
            self.failures,
            retry_after=error.get("retry_after"),
            chance=random.random(),  # noqa: S311 - spreads load, guards nothing
        )
        run.queue(StepRetrying(run.now(), self.path, self.attempt, error, run.now() + seconds))
        self.again(seconds)

    def again(self, seconds: float) -> None:
        """The next attempt, then."""
        self.timer = self.run.loop.call_later(max(seconds, 0.0), self.begin)

    def _fall_back(self, error: Error) -> None:
        if self.dropped or self.run.later(self._fall_back, error):
            return
        try:
            value = self.value("fallback")
        except StepFailed as failure:
            self._fail(described(failure, self.path), tolerated=False)
            return
        value = None if value is UNSET else value
        names = FIELDS.get(type_of(self.node.step), ())
        fields = {names[0]: value} if names else {}
        run = self.run
        entry = StepCompleted(run.now(), self.path, value, fields, self.attempt, fallback=True, error=error)
        run.queue(entry, partial(self._completed, Outcome(StepState.COMPLETED, value, fields, error)))

    def _fail(self, error: Error, *, tolerated: bool) -> None:
        run, index = self.run, self.node.index
        entry = StepFailedFinally(run.now(), self.path, error, self.attempt, tolerated)
        run.queue(entry, partial(self.frame.failed, index, error, tolerated=tolerated))
