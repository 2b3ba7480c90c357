"""When a backend that fails is left alone, and when it is tried again: the circuit breaker of Michael Nygard's "Release
It!" (2nd edition, 2018, chapter 5).

Closed: calls go through, and how they end is counted. It opens with the last of `failures` failures in a row, or with a
failure that makes `rate` of the last `window` finished calls failed ones. Open: no call until the wait is over; the
first call after it is a probe, and the circuit half-open while that is under way. The probe's first delta closes the
circuit; its failure opens it again for twice as long, up to `max_open_s`. What opens again soon after it was closed
waits twice as long as well: only when it has stayed closed for ten times its last wait (or for `max_open_s`, where that
is less) does it begin with `open_s` anew.

How calls end that began before the circuit last opened says nothing of the backend as it is now, and is not counted.
"""

import enum
from math import inf
from typing import NamedTuple

_STEADY = 10.0  # times the last wait: closed for so long, a circuit is as good as one that never opened
_PROBE_AT_LEAST = 0.1  # seconds, the estimate of what a probe takes to answer that has only begun


class BreakerRules(NamedTuple):
    """Times in seconds. `failures` in a row open it, or `rate` of the last `window` calls; with 0 the one never does,
    with 0.0 the other."""

    failures: int = 5
    rate: float = 0.4
    window: int = 20
    open_s: float = 1.0
    max_open_s: float = 60.0


class BreakerState(enum.IntEnum):
    """Numbers as metrics show them: the larger, the worse."""

    CLOSED = 0
    HALF_OPEN = 1
    OPEN = 2


_CLOSED = BreakerState.CLOSED  # looked up for every call


class Breaker:
    """The circuit to one backend. `state` is open until the probe begins, also when its time has come.

    Every call gets a token from `begin` and tells its end once, by `succeeded`, `failed` or `abandoned`.
    """

    __slots__ = (
        "_began",
        "_closed_at",
        "_era",
        "_finished",
        "_pause",
        "_probing",
        "_recent",
        "_row",
        "_until",
        "rules",
        "state",
    )

    def __init__(self, rules: BreakerRules) -> None:
        self.rules = rules
        self.state = _CLOSED
        self._era = 0  # the token of the calls whose ends count
        self._row = 0  # failures in a row
        self._recent = 0  # how the last calls ended, a bit each: 1 a failure
        self._finished = 0  # of the window, how many have ended
        self._pause = 0.0  # seconds, how long it was kept open the last time; 0.0: it need not be remembered
        self._until = 0.0  # open: when a probe may begin
        self._closed_at = -inf
        self._probing = False
        self._began = 0.0  # when the probe did

    def wait(self, now: float) -> float:
        """Seconds until a call may begin; 0.0: now. While the probe is under way, an estimate of what it still
        takes: as long as it has taken."""
        if self.state is _CLOSED:
            return 0.0
        if self.state is BreakerState.OPEN:
            return max(self._until - now, 0.0)
        return max(now - self._began, _PROBE_AT_LEAST) if self._probing else 0.0

    def begin(self, now: float) -> int:
        """A call begins, for which `wait` was 0.0. Returns its token."""
        if self.state is not _CLOSED:
            self.state = BreakerState.HALF_OPEN
            self._era += 1
            self._probing = True
            self._began = now
        return self._era

    def answered(self, token: int, now: float) -> None:
        """The call's first delta is there."""
        if self.state is BreakerState.HALF_OPEN and token == self._era:
            self._close(now)

    def succeeded(self, token: int, now: float) -> None:
        if token != self._era:
            return
        if self.state is not _CLOSED:
            self._close(now)
        self._row = 0
        window = self.rules.window
        if self._finished < window:
            self._finished += 1
        self._recent = self._recent << 1 & ~(-1 << window)

    def failed(self, token: int, now: float) -> bool:
        """Whether that opened it."""
        if token != self._era:
            return False
        self._row += 1
        window = self.rules.window
        if self._finished < window:
            self._finished += 1
        self._recent = (self._recent << 1 | 1) & ~(-1 << window)
        if self.state is not BreakerState.HALF_OPEN and not self._too_many():
            return False
        self._open(now)
        return True

    def condemned(self, token: int, now: float) -> bool:
        """Several calls, of which this is one, say together that nothing comes from there. Whether that opened it."""
        if token != self._era:
            return False
        self._open(now)
        return True

    def abandoned(self, token: int) -> None:
        """The caller left, which says nothing of the backend. When it was the probe, the next call is one, at once."""
        if token == self._era:
            self._probing = False

    def _too_many(self) -> bool:
        rules = self.rules
        if rules.failures and self._row >= rules.failures:
            return True
        full = self._finished >= rules.window > 0
        return rules.rate > 0.0 and full and self._recent.bit_count() >= rules.rate * rules.window

    def _open(self, now: float) -> None:
        rules = self.rules
        steady = min(_STEADY * self._pause, rules.max_open_s)
        again = self.state is BreakerState.HALF_OPEN or now - self._closed_at < steady
        self._pause = min(2.0 * self._pause if again else rules.open_s, rules.max_open_s)
        self._until = now + self._pause
        self._probing = False
        self._era += 1
        self.state = BreakerState.OPEN

    def _close(self, now: float) -> None:
        """The token stays: how the probe ends counts as any other call."""
        self.state = _CLOSED
        self._probing = False
        self._closed_at = now
        self._row = self._recent = self._finished = 0
