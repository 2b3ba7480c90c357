"""One replica of a worker: what is booked on it, how it does, and how much of its share it gets."""

import sys
from math import exp2, inf
from typing import NamedTuple

from pipeline.policy.breaker import Breaker, BreakerRules
from pipeline.policy.choice import replica_seed

UNBOUNDED = sys.maxsize
_FIRST_SHARE = 0.1  # of its calls, that a replica gets at once when it is back
_NEWEST = 0.1  # the weight of the newest call in the average of them
_HALF_LIFE = 10.0  # seconds in which what is known of a replica's pace loses half its weight
_HOLD, _HOLD_MAX = 0.25, 8.0  # seconds that one is left alone which refuses without saying for how long
_DOUBLED = 5  # times, until that is reached


class PoolRules(NamedTuple):
    """`affinity`: a session stays with its replica. `concurrency` bounds the calls to each replica from here, None: as
    many as it says itself. `slow_start` seconds pass until a replica that is back gets its whole share."""

    affinity: bool
    concurrency: int | None
    slow_start: float
    breaker: BreakerRules


class Replica:
    """`healthy` is what the last look at it said, `slots` how many calls it works on at once where it has told.
    `calls` and `failures` only grow."""

    __slots__ = (
        "_back_at",
        "_holds",
        "_time",
        "_time_at",
        "answered_at",
        "bound",
        "breaker",
        "calls",
        "failures",
        "fault",
        "healthy",
        "held_at",
        "held_until",
        "index",
        "inflight",
        "left",
        "left_at",
        "misses",
        "name",
        "refusals",
        "refused_at",
        "seed",
        "slots",
        "used",
        "well",
    )

    def __init__(self, index: int, name: str, rules: PoolRules) -> None:
        self.index = index
        self.name = name
        self.seed = replica_seed(name)
        self.breaker = Breaker(rules.breaker)
        self.inflight = 0
        self.healthy = True
        self.misses = 0  # looks in a row that failed, while no call had its first delta
        self.slots: int | None = None
        self.calls = 0
        self.failures = 0
        self.fault = ""  # what went wrong the last time, one of the kinds of errors
        self.well = False  # whether a call had its first delta since the last look
        self.answered_at = -inf  # when a call had its first delta last
        self.held_at = -inf  # when a call was last refused so that no more were to come,
        self.held_until = -inf  # and for how long
        self._holds = 0  # of them in a row
        self.refusals = 0  # requests in a row that were at fault, if it is to be believed
        self.refused_at = 0.0  # the first of them
        self.left = 0  # calls in a row whose callers left after they had waited for long
        self.left_at = -inf
        self.used = 0  # the number that its last call had among the pool's
        self._back_at: float | None = None  # since then it is starting slowly
        self._time = 0.0  # seconds of a call, an average; 0.0 while unknown
        self._time_at = 0.0
        self.renew(index, rules)

    def renew(self, index: int, rules: PoolRules) -> None:
        self.index = index
        self.breaker.rules = rules.breaker
        self.bound = rules.concurrency or self.slots or UNBOUNDED

    def back(self, now: float) -> None:
        """It serves again after it did not."""
        self._back_at = now

    def answered(self, now: float) -> None:
        """A call has its first delta."""
        self.well = True
        self.answered_at = now
        self.left = self.refusals = self._holds = 0

    def hold(self, seconds: float | None, began: float, now: float) -> None:
        """It gets no more calls for so long, as far as others take them; None: for twice as long as the last time,
        until it answers. What `began` before the last time says nothing new."""
        if seconds is None:
            self._holds += began >= self.held_at
            seconds = min(_HOLD * 2.0 ** min(self._holds - 1, _DOUBLED), _HOLD_MAX) if self._holds else _HOLD
        self.held_at = now
        self.held_until = max(self.held_until, now + seconds)

    def weight(self, now: float, slow_start: float) -> float:
        """Its share of what it would get: 1.0, less for a while after it came back."""
        if self._back_at is None:
            return 1.0
        passed = now - self._back_at
        if passed >= slow_start:
            self._back_at = None
            return 1.0
        return _FIRST_SHARE + (1.0 - _FIRST_SHARE) * max(passed, 0.0) / slow_start

    def took(self, seconds: float, typical: float, now: float) -> None:
        """A call that it answered. `typical` is what one takes in the whole pool."""
        known = self.pace(typical, now)
        self._time = known + _NEWEST * (seconds - known)
        self._time_at = now

    def pace(self, typical: float, now: float) -> float:
        """Seconds that a call takes here, as far as that is known still: a slow replica that is not chosen for that
        is given another chance in time."""
        if self._time == 0.0:
            return typical
        return typical + (self._time - typical) * exp2((self._time_at - now) / _HALF_LIFE)
