"""A step without steps inside: its handler in a task, with a place, a time limit, and attempts."""

import asyncio
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Any

import structlog

from pipeline.workflow import backoff, values
from pipeline.workflow.doing import Doing, Leaving, described, timed_out
from pipeline.workflow.errors import Postponed, StepFailed
from pipeline.workflow.history import StepRecord
from pipeline.workflow.journal import StepStarted
from pipeline.workflow.places import Ticket
from pipeline.workflow.plan import Node
from pipeline.workflow.ports import Catalog, Handler, Result, Services
from pipeline.workflow.scope import type_of
from pipeline.workflow.states import StepState

if TYPE_CHECKING:
    from pipeline.workflow.frame import Frame

_STOPPING = 8  # times that a handler is cancelled, with growing pauses: about 13 s
_PAUSE = 0.1
_LONGEST_PAUSE = 5.0

log = structlog.get_logger("headgate.workflow")


class Context:
    """`StepContext` of an attempt."""

    __slots__ = ("_doing", "attempt")

    def __init__(self, doing: "Leaf") -> None:
        self._doing = doing
        self.attempt = doing.attempt

    @property
    def run_id(self) -> str:
        return self._doing.run.id

    @property
    def path(self) -> str:
        path: str = self._doing.path
        return path

    @property
    def caller(self) -> str:
        return self._doing.run.record.caller

    @property
    def priority(self) -> int:
        return self._doing.run.record.priority

    @property
    def underway(self) -> bool:
        return self._doing.run.underway

    @property
    def services(self) -> Services:
        return self._doing.run.shared.services

    @property
    def catalog(self) -> Catalog:
        return self._doing.run.shared.catalog

    @property
    def idempotency_key(self) -> str:
        return hashlib.sha256(f"{self.run_id}/{self.path}".encode()).hexdigest()

    @property
    def remaining(self) -> float | None:
        loop = self._doing.run.loop
        ends = [end for end in (self._doing.deadline, self._doing.run.deadline) if end is not None]
        return max(min(ends) - loop.time(), 0.0) if ends else None

    def value(self, field: str, **local: Any) -> Any:
        return self._doing.value(field, **local)

    async def turn(self) -> None:
        run = self._doing.run
        await run.shared.turns.turn(run)

    def emit(self, text: str) -> None:
        doing = self._doing
        if not doing.dropped:
            doing.run.shared.watcher.text(doing.run.id, doing.path, self.attempt, text)


class Leaf(Doing):
    """`deadline` (of the loop's clock) ends the attempt, and with it the times that it is postponed."""

    __slots__ = ("_busy", "_late", "_leaving", "_postponed", "_task", "_ticket", "deadline", "resume_at")

    def __init__(self, frame: "Frame", node: Node, record: StepRecord | None) -> None:
        super().__init__(frame, node, record)
        self.deadline: float | None = None
        self._task: asyncio.Task[Result] | None = None
        self._ticket: Ticket | None = None
        self._leaving: Leaving | None = None
        self._postponed = 0
        self._late = False
        self._busy = False
        self.resume_at = None if record is None or record.state is not StepState.RETRYING else record.again_at

    def begin(self) -> None:
        self.disarm()
        if self.dropped:
            return
        if self.run.hold(self.begin):
            self._rest()
            return
        if not self._busy:
            self._busy = True
            self.run.busy += 1
        if self.resume_at is not None:
            seconds, self.resume_at = self.resume_at - self.run.now(), None
            self.again(seconds)
            return
        if self.deadline is not None:
            self._arm()
        run = self.run
        self._ticket = Ticket(run.share, type_of(self.node.step), self._start)
        run.shared.places.ask(self._ticket)

    def _rest(self) -> None:
        if self._busy:
            self._busy = False
            self.run.busy -= 1

    def _arm(self) -> None:
        if self.deadline is not None:
            self.timer = self.run.loop.call_at(self.deadline, self._expire)

    def _start(self) -> None:
        """It has a place."""
        run = self.run
        if self.dropped or run.hold(self.begin):
            self._give_back()
            self._rest()
            return
        if not self._postponed:
            self.attempt += 1
            seconds = self._seconds()
            self.deadline = None if seconds is None else run.loop.time() + seconds
            self._arm()
        try:
            handler = run.shared.handlers[type_of(self.node.step)]
            self._task = run.loop.create_task(self._handled(handler))
        except Exception as error:  # noqa: BLE001 - whatever a handler does must end as a failure
            self._give_back()
            self._broke(error)
            return
        run.tasks += 1
        self._task.add_done_callback(self._done)
        if not self._postponed:
            run.queue(StepStarted(run.now(), self.path, self.attempt))

    async def _handled(self, handler: Handler) -> Result:
        shared = self.run.shared
        await shared.turns.turn(self.run)
        result = await handler(self.node.step, Context(self))  # type: ignore[arg-type]
        await shared.turns.turn(self.run)
        return values.checked(result, shared.section.max_value_bytes)

    def _seconds(self) -> float | None:
        declared: float | None = self.node.step.timeout_seconds
        return declared if declared is not None else self.run.shared.step_timeout

    def _give_back(self) -> None:
        if self._ticket is not None:
            ticket, self._ticket = self._ticket, None
            self.run.shared.places.release(ticket)

    # The attempt's end.

    def _done(self, task: "asyncio.Task[Result]") -> None:
        run = self.run
        self._task = None
        run.tasks -= 1
        self.disarm()
        cancelled, error = task.cancelled(), None if task.cancelled() else task.exception()
        if self._leaving is not None:
            self._gone()
        elif self._late:
            self._late = False
            self._time_out()
        elif cancelled:
            self._broke(asyncio.CancelledError("the step was cancelled from inside"))
        elif error is None:
            self._ended()
            self.completed(task.result())
        elif isinstance(error, Postponed):
            self._postpone(error)
        elif isinstance(error, StepFailed):
            self._ended()
            self.failed(described(error, self.path))
        else:
            self._broke(error)
        self._give_back()
        if not run.tasks:
            run.quiet()

    def _postpone(self, postponed: Postponed) -> None:
        self._postponed += 1
        self.run.count("steps_postponed")
        seconds = backoff.postponed(postponed.retry_after, self._postponed)
        if self.deadline is not None and self.run.loop.time() + seconds >= self.deadline:
            self._arm()
        else:
            self.again(seconds)

    def _broke(self, error: BaseException) -> None:
        log.error("step_broke", run=self.run.id, step=self.path, exc_info=error)
        self._ended()
        message = f"the step's handler broke: {type(error).__name__}: {error}"
        self.failed(described(StepFailed("internal", message), self.path))

    def _ended(self) -> None:
        """This attempt has. What follows is another one, or nothing."""
        self._postponed = 0
        self.deadline = None

    def _time_out(self) -> None:
        note = f"; there was no place for it ({self._postponed} times)" if self._postponed else ""
        seconds = self._seconds() or 0.0
        self._ended()
        self.failed(timed_out(seconds, self.path, note))

    def _expire(self) -> None:
        self.timer = None
        if self._task is not None:
            self._late = True
            self._stop()
        else:
            self._give_back()
            self._time_out()

    def _stop(self, times: int = 0) -> None:
        """Cancels the task, and again: there are handlers that swallow it."""
        if self._task is None:
            return
        if times == _STOPPING:
            self._forsake(self._task)
            return
        self._task.cancel()
        pause = min(_PAUSE * 2**times, _LONGEST_PAUSE)
        self.timer = self.run.loop.call_later(pause, partial(self._stop, times + 1))

    def _forsake(self, task: "asyncio.Task[Result]") -> None:
        """It will not go. The run goes on without it; what it still does no longer counts."""
        log.error("step_does_not_stop", run=self.run.id, step=self.path)
        task.remove_done_callback(self._done)
        task.add_done_callback(_retrieved)
        gone: asyncio.Task[Result] = task
        self._task = None
        self.run.tasks -= 1
        self.run.shared.forsaken.add(gone)
        gone.add_done_callback(self.run.shared.forsaken.discard)
        if self._leaving is not None:
            self._gone()
        else:
            self._late = False
            self._time_out()
        self._give_back()

    # Nobody wants it any more.

    def drop(self, leaving: Leaving) -> None:
        if self.dropped:
            return
        super().drop(leaving)
        if self._task is None:
            self._give_back()
            self._rest()
            return
        self._leaving = leaving
        leaving.wait()
        self._stop()

    def _gone(self) -> None:
        leaving, self._leaving = self._leaving, None
        self._rest()
        if leaving is not None:
            leaving.gone()

    def completed(self, result: Result) -> None:
        self._rest()
        super().completed(result)

    def _fail(self, error: dict[str, Any], *, tolerated: bool) -> None:
        self._rest()
        super()._fail(error, tolerated=tolerated)

    def _fall_back(self, error: dict[str, Any]) -> None:
        self._rest()
        super()._fall_back(error)


def _retrieved(task: "asyncio.Task[Result]") -> None:
    """Takes note of its error, so that nobody complains that none did."""
    if not task.cancelled():
        task.exception()
