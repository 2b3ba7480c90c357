"""`wait`: until a moment, or for a signal. It holds no place and no task; a run of which only waits are left leaves the
memory."""

import math
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from pipeline.workflow.doing import Doing, Leaving, described, timed_out
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.history import StepRecord
from pipeline.workflow.journal import StepStarted, StepWaiting
from pipeline.workflow.plan import Node
from pipeline.workflow.ports import Result
from pipeline.workflow.states import StepState

if TYPE_CHECKING:
    from pipeline.workflow.frame import Frame

LONGEST = 10 * 31_536_000.0  # seconds
_TURN = 86_400.0  # a timer of a loop is set for no longer


class Wait(Doing):
    """`wake_at` (wall clock) ends it, None: only a signal does. `_gives_up`: that end is a time-out."""

    __slots__ = ("_gives_up", "_resting", "_resume", "event", "wake_at")

    def __init__(self, frame: "Frame", node: Node, record: StepRecord | None) -> None:
        super().__init__(frame, node, record)
        self.wake_at: float | None = None
        self.event: str | None = None
        self._gives_up = False
        self._resting = False  # between attempts
        self._resume = record

    def begin(self) -> None:
        self.disarm()
        self._rested()
        if self.dropped or self.run.hold(self.begin):
            return
        record, self._resume = self._resume, None
        run = self.run
        if record is not None and record.state is StepState.RETRYING and record.again_at is not None:
            self.again(record.again_at - run.now())
            return
        try:
            moment = self._read(run.now())
        except StepFailed as failure:
            self.attempt += 1
            run.queue(StepStarted(run.now(), self.path, self.attempt))
            self.failed(described(failure, self.path))
            return
        if record is not None and record.state is StepState.WAITING:
            self.wake_at, self.event = record.wake_at, record.event
            self._arm()
            return
        self.wake_at = moment
        self.attempt += 1
        run.queue(StepStarted(run.now(), self.path, self.attempt))
        run.queue(StepWaiting(run.now(), self.path, self.wake_at, self.event), self._arm)

    def again(self, seconds: float) -> None:
        """Between attempts the run has something to do."""
        super().again(seconds)
        self._resting = True
        self.run.busy += 1

    def _rested(self) -> None:
        if self._resting:
            self._resting = False
            self.run.busy -= 1

    def _read(self, now: float) -> float | None:
        """When it ends by itself. Raises `StepFailed`."""
        step = self.node.step
        limit: float | None = step.timeout_seconds
        natural = None
        if step.event is not None:
            self.event = _text("event", self.value("event"))
        elif step.until is not None:
            natural = moment_of(self.value("until"))
        else:
            natural = now + _seconds(self.value("seconds"))
        if limit is None:
            return natural
        self._gives_up = natural is None or natural > now + limit
        return now + limit if self._gives_up else natural

    def _arm(self) -> None:
        if self.dropped:
            return
        self.run.waits[self.path] = self
        self.look()

    def look(self) -> None:
        """Takes a signal that is there, or waits on. It may be asked more often than once while nothing may begin."""
        if self.dropped or self.run.waits.get(self.path) is not self or self.run.hold(self.look):
            return
        if self.event is not None:
            taken = self.run.take(self.event)
            if taken is not None:
                self._over()
                self.completed(Result(taken[0]))
                return
        self.disarm()
        if self.wake_at is not None:
            left = self.wake_at - self.run.now()
            if left <= 0.0:
                self._wake()
            else:
                self.timer = self.run.loop.call_later(min(left, _TURN), self.look)

    def _wake(self) -> None:
        self._over()
        if self._gives_up:
            self.failed(timed_out(self.node.step.timeout_seconds or 0.0, self.path))
        else:
            self.completed(Result())

    def _over(self) -> None:
        self.run.waits.pop(self.path, None)
        self.run.rouse()

    def drop(self, leaving: Leaving) -> None:
        super().drop(leaving)
        self._rested()
        self.run.waits.pop(self.path, None)


def _seconds(value: Any) -> float:
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            value = None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise StepFailed("invalid_value", "seconds: it must be a number")
    if not 0 <= value <= LONGEST:
        raise StepFailed("invalid_value", f"seconds: {value:g} is not between 0 and {LONGEST:g}")
    return float(value)


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise StepFailed("invalid_value", f"{name}: it must be a text that is not empty")
    return value


def moment_of(value: Any) -> float:
    """Seconds since the epoch of a time as in RFC 3339, section 5.6: with an offset, or `Z`. Raises `StepFailed`."""
    text = _text("until", value)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise StepFailed("invalid_value", f"until: {text[:80]!r} is not a time as in RFC 3339") from error
    if moment.tzinfo is None:
        raise StepFailed("invalid_value", f"until: {text[:80]!r} has no offset (Z, or one like +02:00)")
    return moment.astimezone(UTC).timestamp()
