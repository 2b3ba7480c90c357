"""The time limits of one backend call and of the answer it feeds, on one timer."""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from pipeline.core.errors import BackendFailed, DeadlineExceeded, HeadgateError
from pipeline.core.ticket import Ticket


class CallLimits(NamedTuple):
    """Seconds: until the first delta, between deltas, and for the whole call."""

    first_delta: float
    gap: float
    total: float


class Watchdog:
    """Watches one request from the start of its backend call to its end.

    Calls `expire(error)` when the first delta, the next one, the whole call or the request's deadline is overdue;
    after the call has ended (`call_done`) only the deadline is left. Deltas do not touch the timer: it looks at the
    time of the last one when it fires. The timer hangs on the ticket and is cancelled with it.
    """

    def __init__(
        self,
        ticket: Ticket,
        limits: CallLimits,
        deadline: float,
        clock: Callable[[], float],
        expire: Callable[[HeadgateError], None],
    ) -> None:
        now = clock()
        self.last: float | None = None  # when the last delta came
        self.waiting = True  # for the backend; false while the client keeps us from reading it
        self._ticket = ticket
        self._limits = limits
        self._began = now
        self._deadline = deadline
        self._clock = clock
        self._expire = expire
        self._done = False
        self._arm(now)

    def call_done(self) -> None:
        self._done = True

    def _due(self) -> tuple[float, HeadgateError]:
        """The next time at which something is overdue, and what that is."""
        due: tuple[float, HeadgateError] = (
            self._deadline,
            DeadlineExceeded("The deadline passed before the answer was complete"),
        )
        if self._done:
            return due
        limits = self._limits
        total = (self._began + limits.total, _stalled(f"did not finish within {limits.total:g} s"))
        due = min(due, total, key=_when)
        if not self.waiting:
            return due
        if self.last is None:
            wait = (self._began + limits.first_delta, _stalled(f"sent no first delta within {limits.first_delta:g} s"))
        else:
            wait = (self.last + limits.gap, _stalled(f"sent nothing for {limits.gap:g} s"))
        return min(due, wait, key=_when)

    def _arm(self, now: float) -> None:
        # A client that holds the reading back stops the gap's clock, so look again within a gap's time.
        delay = max(min(self._due()[0] - now, self._limits.gap), 0.001)
        self._ticket.timer = asyncio.get_running_loop().call_later(delay, self._fire)

    def _fire(self) -> None:
        if self._ticket.ending is not None:
            return
        now = self._clock()
        when, error = self._due()
        if now < when:
            self._arm(now)
            return
        if isinstance(error, BackendFailed):
            self._done = True
            self._arm(now)
        self._expire(error)


def _when(due: tuple[float, HeadgateError]) -> float:
    return due[0]


def _stalled(what: str) -> BackendFailed:
    return BackendFailed(f"The backend {what}", reason="backend_stalled")
