"""A backend in virtual time behind a gate: at most `limit` calls run, and in front of them a short queue waits.

The load is open-loop (Poisson): who comes does not wait for those who came before. No clock but the simulation's.
"""

import heapq
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from statistics import mean, median
from typing import NamedTuple

from pipeline.policy.concurrency import ConcurrencyLimit

TICK = 0.1


class Work(NamedTuple):
    """Seconds that a call takes once it has a slot: until its first delta, and until its end."""

    first: float
    whole: float


def whole(seconds: float) -> Callable[[random.Random, int], Work]:
    """An answer that comes in one piece."""
    return lambda _draws, _prompt: Work(seconds, seconds)


@dataclass(eq=False, slots=True)
class Call:
    began: float
    prompt: int
    inflight: int  # when it began, itself included


@dataclass
class Backend:
    """`slots` calls run, the others wait in order of arrival. More than `most` calls at once are answered 429."""

    slots: int
    work: Callable[[random.Random, int], Work]
    most: int | None = None
    retry_after: float | None = None
    frozen: bool = False


@dataclass
class Trace:
    """Times of ends, (time, seconds) of first deltas, (time, limit) ten times a second, times of 429s."""

    ends: list[float] = field(default_factory=list)
    firsts: list[tuple[float, float]] = field(default_factory=list)
    limits: list[tuple[float, int]] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    most: int = 0  # calls under way at once

    def rate(self, since: float, until: float) -> float:
        """Calls ended a second."""
        return sum(since <= at < until for at in self.ends) / (until - since)

    def first(self, since: float, until: float) -> float:
        """Median time to the first delta of those that came between."""
        return median(seconds for at, seconds in self.firsts if since <= at < until)

    def between(self, since: float, until: float) -> list[int]:
        return [limit for at, limit in self.limits if since <= at < until]

    def limit(self, since: float, until: float) -> float:
        """In the mean."""
        return mean(self.between(since, until))


class Simulation:
    """`load` is arrivals a second at a time; `changes` are things to do to the backend at a time; `queue` is how many
    wait at the gate, whoever comes then is turned away."""

    def __init__(
        self,
        limit: ConcurrencyLimit,
        backend: Backend,
        load: float | Callable[[float], float],
        *,
        prompts: Callable[[random.Random], int] = lambda _draws: 100,
        changes: Iterable[tuple[float, Callable[[Backend], None]]] = (),
        queue: int = 10,
        seed: int = 1,
    ) -> None:
        self.limit = limit
        self.backend = backend
        self.trace = Trace()
        self.now = 0.0
        self.inflight = 0
        self._load = load if callable(load) else lambda _now: load
        self._prompts = prompts
        self._draws = random.Random(seed)
        self._queue = queue
        self._waiting: deque[int] = deque()  # at the gate: their prompts
        self._backlog: deque[Call] = deque()  # at the backend
        self._running = 0
        self._silent: dict[Call, None] = {}  # without a first delta yet, oldest first
        self._thawing: list[tuple[Callable[..., None], tuple[object, ...]]] = []
        self._number = 0
        self._events: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        for at, change in changes:
            self._at(at, self._change, change)
        self._at(TICK, self._tick)
        self._next_arrival()

    def run(self, until: float) -> Trace:
        while self._events[0][0] <= until:
            self.now, _, action, given = heapq.heappop(self._events)
            action(*given)
        return self.trace

    def _at(self, at: float, action: Callable[..., None], *given: object) -> None:
        self._number += 1
        heapq.heappush(self._events, (at, self._number, action, given))

    def _next_arrival(self) -> None:
        load = self._load(self.now)
        if load > 0.0:
            self._at(self.now + self._draws.expovariate(load), self._arrive)
        else:
            self._at(self.now + TICK, self._next_arrival)

    def _arrive(self) -> None:
        if len(self._waiting) < self._queue:
            self._waiting.append(self._prompts(self._draws))
        self._start()
        self._next_arrival()

    def _start(self) -> None:
        while self._waiting and self.inflight < self.limit.limit:
            self.inflight += 1
            self.trace.most = max(self.trace.most, self.inflight)
            call = Call(self.now, self._waiting.popleft(), self.inflight)
            if self.backend.most is not None and self.inflight > self.backend.most:
                self._at(self.now + 0.002, self._push_back, call)
                continue
            self._silent[call] = None
            self._backlog.append(call)
        self._serve()

    def _serve(self) -> None:
        while self._backlog and self._running < self.backend.slots and not self.backend.frozen:
            call = self._backlog.popleft()
            self._running += 1
            work = self.backend.work(self._draws, call.prompt)  # as fast as the backend is now
            self._at(self.now + work.first, self._first, call)
            self._at(self.now + work.whole, self._end)

    def _push_back(self, call: Call) -> None:
        self.inflight -= 1
        self.trace.refused.append(self.now)
        self.limit.pushed_back(self.backend.retry_after, call.inflight, self.now)
        self._start()

    def _first(self, call: Call) -> None:
        if self.backend.frozen:
            self._thawing.append((self._first, (call,)))
            return
        del self._silent[call]
        seconds = self.now - call.began
        self.trace.firsts.append((self.now, seconds))
        self.limit.first_delta(seconds, call.prompt, call.inflight, self.now)
        self._start()

    def _end(self) -> None:
        if self.backend.frozen:
            self._thawing.append((self._end, ()))
            return
        self._running -= 1
        self.inflight -= 1
        self.trace.ends.append(self.now)
        self._start()

    def _change(self, change: Callable[[Backend], None]) -> None:
        change(self.backend)
        if not self.backend.frozen:
            thawing, self._thawing = self._thawing, []
            for action, given in thawing:
                action(*given)
        self._start()

    def _tick(self) -> None:
        oldest = self.now - next(iter(self._silent)).began if self._silent else 0.0
        self.limit.tick(self.inflight, oldest, self.now)
        self.trace.limits.append((self.now, self.limit.limit))
        self._start()
        self._at(self.now + TICK, self._tick)
