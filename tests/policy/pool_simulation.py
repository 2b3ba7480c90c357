"""Sessions that call a pool again and again, on a fake clock: each waits, calls, and waits once more."""

import random
from collections import Counter
from collections.abc import Callable
from heapq import heappop, heappush
from itertools import count

from pipeline.policy.breaker import BreakerRules
from pipeline.policy.pool import Attempt, Pool, PoolRules, Result

RULES = PoolRules(affinity=True, concurrency=64, slow_start=10.0, breaker=BreakerRules())
NAMES = [f"10.0.0.{number}:8000" for number in range(1, 9)]


class Sessions:
    """`busy` of them have a call under way on average where each takes a second. Calls that find no room begin again a
    moment later. `fails` says whether a call to a replica fails at a time, which is known at once."""

    def __init__(
        self,
        pool: Pool,
        number: int,
        busy: float,
        *,
        seed: int = 1,
        fails: Callable[[int, float], bool] = lambda _index, _now: False,
    ) -> None:
        self.pool = pool
        self.draw = random.Random(seed)
        self.think = number / busy - 1.0
        self.fails = fails
        self.now = 0.0
        self.homes: dict[int, Counter[int]] = {session: Counter() for session in range(number)}  # calls by replica
        self.begun: Counter[int] = Counter()  # by replica
        self.failed: Counter[int] = Counter()
        self.loads: list[list[int]] = []  # calls under way by replica, at each call that begins
        self.lost = 0  # calls that failed on each replica they tried, of two
        self.full = 0
        self._order = count()
        self._events: list[tuple[float, int, int, Attempt | None]] = []
        for session in range(number):
            self._later(self.draw.expovariate(1.0) * self.think, session, None)

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while self._events[0][0] < until:
            self.now, _, session, attempt = heappop(self._events)
            if attempt is None:
                self._call(session)
            else:
                self.pool.ended(attempt, self.now, Result.OK)
                self._later(self.draw.expovariate(1.0) * self.think, session, None)
        self.now = until

    def _call(self, session: int) -> None:
        tried: list[int] = []
        while len(tried) < 2:
            attempt = self.pool.choose(f"conversation-{session}", self.now, tried)
            if attempt is None:
                self.full += 1
                break
            self.homes[session][attempt.index] += 1
            self.begun[attempt.index] += 1
            self.loads.append([replica.inflight for replica in self.pool.replicas])
            if not self.fails(attempt.index, self.now):
                self.pool.answered(attempt, self.now)
                self._later(self.draw.expovariate(1.0), session, attempt)
                return
            self.pool.ended(attempt, self.now, Result.FAULT)
            self.failed[attempt.index] += 1
            tried.append(attempt.index)
        self.lost += len(tried) == 2
        self._later(0.01 if not tried else self.think, session, None)

    def _later(self, seconds: float, session: int, attempt: Attempt | None) -> None:
        heappush(self._events, (self.now + seconds, next(self._order), session, attempt))
