"""The time limits of backend calls and of the answers they feed."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import NamedTuple

from pipeline.core.errors import BackendStalled, DeadlineExceeded, HeadgateError
from pipeline.core.ticket import Ticket

SWEEP_SECONDS = 0.02  # how late a limit may be noticed, while there are few calls
_SWEEP_MOST = 0.1  # and at most, for each of many adds
_SWEEP_EACH = 0.001


class CallLimits(NamedTuple):
    """Seconds: until the first delta, between deltas, and for the whole call. A call that is made again has them
    anew."""

    first_delta: float
    gap: float
    total: float


class WatchedCall:
    """One request from the start of its backend call to its end; whoever makes the call keeps `last` and `waiting`
    right and implements `expire`.

    After the call has ended (`done`) only the request's deadline is left. A call may be made again: `since` is when it
    was begun the last time, infinite while it has not been (again), as it waits for a replica or for its time.
    """

    __slots__ = ("_limits", "began", "deadline", "done", "last", "since", "ticket", "waiting")

    def __init__(self, ticket: Ticket, limits: CallLimits, began: float, deadline: float) -> None:
        self.ticket = ticket
        self.last: float | None = None  # when the last delta came
        self.waiting = True  # for the backend; false while the client keeps us from reading it
        self.done = False
        self._limits = limits
        self.began = began
        self.since = inf
        self.deadline = deadline

    def expire(self, error: HeadgateError) -> None:
        raise NotImplementedError

    def check(self, now: float) -> None:
        """Calls `expire` when something is overdue; that sets `done`, unless the call goes on."""
        error = self._overdue(now)
        if error is not None:
            self.expire(error)

    def _overdue(self, now: float) -> HeadgateError | None:
        if now >= self.deadline:
            return DeadlineExceeded("The deadline passed before the answer was complete")
        if self.done:
            return None
        limits = self._limits
        if now >= self.since + limits.total:
            return _stalled(f"did not finish within {limits.total:g} s")
        if not self.waiting:
            return None
        if self.last is None:
            overdue = now >= self.since + limits.first_delta
            return _stalled(f"sent no first delta within {limits.first_delta:g} s") if overdue else None
        return _stalled(f"sent nothing for {limits.gap:g} s") if now >= self.last + limits.gap else None


class Watch:
    """Looks at all calls under way every `SWEEP_SECONDS`, less often where there are many, not at all where none is.

    A timer per call would cost more than most of what else is done for a request; most calls end before they are looked
    at once.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.calls: set[WatchedCall] = set()  # to be looked at only; some may have ended since
        self._timer: asyncio.TimerHandle | None = None

    def add(self, call: WatchedCall) -> None:
        """Watches a call until its request ends."""
        self.calls.add(call)
        if self._timer is None:
            self._arm()

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sweep(self) -> None:
        now = self._clock()
        self.calls = {call for call in self.calls if call.ticket.ending is None}
        for call in tuple(self.calls):
            call.check(now)
        self._timer = None
        if self.calls:
            self._arm()

    def _arm(self) -> None:
        seconds = min(max(SWEEP_SECONDS, _SWEEP_EACH * len(self.calls)), _SWEEP_MOST)
        self._timer = asyncio.get_running_loop().call_later(seconds, self._sweep)


def _stalled(what: str) -> BackendStalled:
    return BackendStalled(what)
