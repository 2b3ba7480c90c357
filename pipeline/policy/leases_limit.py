"""A shard's part of a worker's concurrency: how many of the calls that all shards may have under way are its own."""

from collections.abc import Callable, Sequence
from math import inf
from typing import NamedTuple, Protocol

from pipeline.core.outcomes import Priority
from pipeline.policy.typical import Typical

SAMPLES_KEPT = 512  # first deltas until the next report
ASKED_LATELY = 1.0  # seconds
_ASKERS_KEPT = 10_000  # of each class
_LITTLE = 1e-6  # of a place: nothing has been granted yet
_AT_ONCE = 4  # reports between two ticks: of very quick calls, more would cost more than the places that they save
_SHARED_LATELY = 2.0  # seconds
_FEW = 2.0  # places
_OLDER = 0.25  # seconds by which the age of the oldest call has to change before it is told again


class Sample(NamedTuple):
    """A first delta that came `seconds` after its call had begun as one of `inflight` in its shard, with a prompt of so
    many tokens. `limit` was in force for all shards when it began, as far as was known here; 0: another one."""

    seconds: float
    prompt: int
    inflight: int
    limit: int


class PushBack(NamedTuple):
    """The worker said that it is too much, to a call that began as one of `inflight` in its shard."""

    retry_after: float | None
    inflight: int


class Flows(Protocol):
    @property
    def flows(self) -> list[float]: ...


class Load(Protocol):
    """What a lane has to do; lists are by class."""

    waiting: list[int]
    inflight: int

    @property
    def running(self) -> list[float]: ...

    @property
    def queue(self) -> Flows: ...

    @property
    def typical(self) -> Typical: ...


class LoadSeen(NamedTuple):
    """A lane's load at one moment."""

    waiting: list[int]
    running: list[float]
    flows: list[float]


class _Askers:
    """The sessions of a class that asked within the last second, each with its caller's weight. Also those that were
    refused: whoever counted only those that are in would give to the shard that has, and it would let in ever more."""

    __slots__ = ("_sessions", "_weight")

    def __init__(self) -> None:
        self._sessions: dict[tuple[str, str], tuple[float, float]] = {}  # when, with what weight; the oldest first
        self._weight = 0.0

    def add(self, key: tuple[str, str], weight: float, now: float) -> None:
        before = self._sessions.pop(key, None)
        if before is not None:
            self._weight -= before[1]
        elif len(self._sessions) >= _ASKERS_KEPT:
            return
        self._sessions[key] = (now, weight)
        self._weight += weight

    def weight(self, now: float) -> float:
        sessions = self._sessions
        while sessions:
            key = next(iter(sessions))
            at, weight = sessions[key]
            if abs(now - at) < ASKED_LATELY:
                return self._weight
            del sessions[key]
            self._weight -= weight
        self._weight = 0.0
        return 0.0


class LeasedLimit:
    """`ConcurrencyLimit` of one shard. `limit` of the `total` calls may be under way here; what the worker shows is
    gathered for whoever finds the total, where that is `adaptive`."""

    def __init__(self, *, adaptive: bool) -> None:
        self.adaptive = adaptive
        self.limit = 0
        self.shares: Sequence[float] = [_LITTLE] * len(Priority)
        self.total = 0
        self.lane: Load | None = None
        self.wanted = False  # somebody lacks places somewhere: one that lies idle is to be given up
        self.urgent: Callable[[], None] | None = None  # there is something to be told that does not wait for the tick
        self.changed = True  # since the last report
        self.oldest = 0.0
        self._total_at = 0.0
        self._samples: list[Sample] = []
        self._pushed_back: list[PushBack] = []
        self._oldest_told = 0.0
        self._told: LoadSeen | None = None
        self._held_told = 0
        self._now = -inf
        self._shared_at = [-inf] * len(Priority)
        self._at_once = _AT_ONCE
        self._askers = [_Askers() for _ in Priority]

    @property
    def held(self) -> int:
        """How many calls may be under way here from now on: running ones are never taken away."""
        return self.limit if self.lane is None else max(self.limit, self.lane.inflight)

    def shared(self, priority: Priority) -> bool:
        """Whether the shards take turns with places, now or lately: others have a part of what this class might have,
        and here are so few that one more or less at the moment makes a difference."""
        return self._turns(priority) or self._now < self._shared_at[priority] + _SHARED_LATELY

    def _turns(self, priority: Priority) -> bool:
        return self.shares[priority] < min(self.total, _FEW)

    def asked(self, priority: Priority, caller: str, session: str, weight: float, now: float) -> None:
        """Somebody wants in, whatever becomes of it."""
        self._askers[priority].add((caller, session), weight, now)

    def first_delta(self, seconds: float, prompt_tokens: int, inflight: int, now: float) -> None:
        if self.adaptive and len(self._samples) < SAMPLES_KEPT:
            limit = self.total if now - seconds >= self._total_at else 0
            self._samples.append(Sample(seconds, prompt_tokens, inflight, limit))

    def pushed_back(self, retry_after: float | None, inflight: int, now: float) -> None:  # noqa: ARG002 - the protocol's
        if self.adaptive and len(self._pushed_back) < SAMPLES_KEPT:
            self._pushed_back.append(PushBack(retry_after, inflight))

    def tick(self, inflight: int, oldest: float, now: float) -> None:  # noqa: ARG002 - the protocol's
        self.oldest = oldest
        self._now = now
        if self.adaptive and (abs(oldest - self._oldest_told) > _OLDER or (not oldest and self._oldest_told)):
            self.changed = True

    def freed(self, inflight: int) -> None:
        """A call has ended, `inflight` go on. If the place is another shard's, or another's who wants it while nobody
        here does, it is told at once."""
        if inflight >= self.limit:
            if self.urgent is not None:
                self.urgent()
        elif self.wanted and self._gave_up():
            self._hurry()

    def joined(self) -> None:
        """Somebody waits. The first who does so for want of a place makes that known at once."""
        lane, told = self.lane, self._told
        if lane is None or self.limit >= self.total or lane.inflight + sum(lane.waiting) <= self.limit:
            return
        if told is None or sum(told.waiting) + sum(told.running) <= self.limit:
            self._hurry()

    def ticked(self) -> None:
        self._at_once = _AT_ONCE

    def granted(self, limit: int, total: int, shares: Sequence[float], now: float, *, wanted: bool = False) -> bool:
        """Another lease. Whether more calls may start than before."""
        before, newly = self.limit, wanted and not self.wanted
        self._shared_at = [
            now if self._turns(priority) else at for priority, at in zip(Priority, self._shared_at, strict=True)
        ]
        if total != self.total:
            self._total_at = now
        self.limit, self.total, self.wanted = limit, total, wanted
        self.shares = [max(share, _LITTLE) for share in shares]
        self.changed = True
        if newly:
            self._gave_up()
        return self.limit > before

    def news(self, now: float) -> LoadSeen | None:
        """The load, if there is anything to be told since the last time."""
        lane = self.lane
        if lane is None:
            return None
        flows = [max(flow, askers.weight(now)) for flow, askers in zip(lane.queue.flows, self._askers, strict=True)]
        load = LoadSeen(list(lane.waiting), lane.running, flows)
        known = load == self._told and self.held == self._held_told  # a call may be over and not yet its place free
        if not self.changed and not self._samples and not self._pushed_back and known:
            return None
        self.changed = False
        self._held_told = self.held
        self._told = load
        self._oldest_told = self.oldest
        return load

    def forget(self) -> None:
        """The worker is another one."""
        self._samples.clear()
        self._pushed_back.clear()

    def heard(self) -> tuple[list[Sample], list[PushBack]]:
        """What the worker has shown since the last time."""
        heard = (self._samples, self._pushed_back)
        self._samples, self._pushed_back = [], []
        return heard

    def _gave_up(self) -> bool:
        """Keeps no more places than there is work for. Whether that were too many."""
        lane = self.lane
        used = 0 if lane is None else lane.inflight + sum(lane.waiting)
        if used >= self.limit or not self._at_once:
            return False
        self.limit = used
        self.changed = True
        return True

    def _hurry(self) -> None:
        if self._at_once and self.urgent is not None:
            self._at_once -= 1
            self.urgent()
