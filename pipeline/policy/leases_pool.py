"""A worker's concurrency, seen from where it is leased to shards: who may have how many calls under way.

A lease that shrinks takes nothing from anybody at once: what is taken away is given to another only when the shard has
confirmed that it will not use it, and running calls are waited for. So the calls of all shards together never exceed
the limit, whatever is on its way between them and here.
"""

from collections import deque
from collections.abc import Mapping, Sequence
from math import floor, inf
from typing import NamedTuple

from pipeline.core.outcomes import Priority
from pipeline.policy.concurrency import AdaptiveLimit, ConcurrencyLimit
from pipeline.policy.leases_division import Demand, divide
from pipeline.policy.leases_limit import LoadSeen, PushBack, Sample

_CLASSES = len(Priority)
_REMEMBERED = 0.02  # seconds after which half of a demand that has gone is forgotten: it comes and goes between reports
_FORGOTTEN = 0.05  # of a call
_TURN = 0.05  # seconds that the place which does not divide stays where it is, at least
_BEHIND = 10.0  # place-seconds, the most that is remembered of it
_FORGIVEN = 0.5  # seconds in which half of that is forgotten while nothing is asked for
_TICK = 0.1  # seconds between two looks of the limit at its calls
_SHARE_CHANGE = 0.1  # of a share, below which a shard is not told
_UNSEEN = 64  # grants
_ROUNDING = 1e-9


class Lease(NamedTuple):
    limit: int
    total: int
    shares: list[float]
    wanted: bool


class _Seat:
    """One process. `held` is what it has confirmed to keep to, `unseen` the leases that it may not know of yet."""

    __slots__ = (
        "asked",
        "behind",
        "calls",
        "held",
        "lease",
        "load",
        "oldest",
        "shares",
        "target",
        "told",
        "turn",
        "unseen",
        "weights",
    )

    def __init__(self) -> None:
        self.load = LoadSeen([0] * _CLASSES, [0.0] * _CLASSES, [0.0] * _CLASSES)
        self.calls = [0.0] * _CLASSES  # the load, with what it was just before
        self.weights = [0.0] * _CLASSES
        self.held = 0
        self.lease = 0
        self.unseen: deque[tuple[int, int]] = deque()  # numbers of grants, and their limits
        self.oldest = 0.0
        self.target = 0  # the lease that it is to have
        self.shares = [0.0] * _CLASSES
        self.asked = [0.0] * _CLASSES
        self.behind = 0.0
        self.turn = inf  # since when it has a place of those that do not divide
        self.told: Lease | None = None

    @property
    def most(self) -> int:
        """Calls that it may have under way, for all that is known here."""
        return max([self.held, *[limit for _, limit in self.unseen]])

    @property
    def running(self) -> float:
        return sum(self.load.running)

    def fade(self, factor: float) -> bool:
        """Forgets something of the demand that has gone. Whether any of that is left."""
        more = False
        for now, kept in ((self.demand, self.calls), (self.load.flows, self.weights)):
            for priority, is_now in enumerate(now):
                faded = kept[priority] * factor
                kept[priority] = faded if faded > is_now + _FORGOTTEN else is_now
                more = more or kept[priority] > is_now
        return more

    @property
    def asks(self) -> float:
        """Calls that it has or could begin now."""
        return sum(self.load.waiting) + sum(self.load.running)

    def see(self, load: LoadSeen) -> None:
        self.load = load
        self.calls = [max(kept, now) for kept, now in zip(self.calls, self.demand, strict=True)]
        self.weights = [max(kept, now) for kept, now in zip(self.weights, load.flows, strict=True)]

    @property
    def demand(self) -> list[float]:
        return [waiting + running for waiting, running in zip(self.load.waiting, self.load.running, strict=True)]

    def unmet(self) -> int:
        """The highest class that has not got its part yet."""
        return next((priority for priority, asked in enumerate(self.asked) if asked > self.most), _CLASSES)


class Pool:
    """`limiter` is the one limit of them all. Seats are numbers of processes; times are seconds of one clock."""

    def __init__(self, limiter: ConcurrencyLimit, now: float) -> None:
        self.limiter = limiter
        self._seats: dict[int, _Seat] = {}
        self._dirty = True
        self._contended = False
        self._at = now
        self._ticked = now

    @property
    def most(self) -> int:
        """Calls that may be under way in all shards together."""
        return sum([seat.most for seat in self._seats.values()])

    def join(self, number: int) -> None:
        self._seats[number] = _Seat()
        self._dirty = True

    def leave(self, number: int) -> None:
        """The process is dead, and its calls with it."""
        self._dirty = self._seats.pop(number, None) is not None or self._dirty

    def renew(self, limiter: ConcurrencyLimit) -> None:
        self.limiter = limiter
        self._dirty = True

    def report(self, number: int, load: LoadSeen, held: int, oldest: float, seen: int) -> None:
        """`seen` is the number of the last grant that the process knew when it wrote this."""
        seat = self._seats.get(number)
        if seat is None:
            return
        seat.see(load)
        seat.held = held
        seat.oldest = oldest
        while seat.unseen and seat.unseen[0][0] <= seen:
            seat.unseen.popleft()
        if held < seat.lease and not seat.unseen:  # it gave up what it had no use for
            seat.lease = held
            seat.told = None
        self._dirty = True

    def heard(self, number: int, samples: Sequence[Sample], pushed_back: Sequence[PushBack], now: float) -> None:
        """What the worker showed one of the processes."""
        elsewhere = round(sum([seat.running for other, seat in self._seats.items() if other != number]))
        limiter = self.limiter
        if isinstance(limiter, AdaptiveLimit):
            for seconds, prompt, inflight, limit in samples:
                stale = limit != limiter.limit
                limiter.first_delta(seconds, prompt, inflight + elsewhere, now, stale=stale)
        for retry_after, inflight in pushed_back:
            limiter.pushed_back(retry_after, inflight + elsewhere, now)
        self._dirty = True

    @property
    def awake(self) -> bool:
        """Whether time alone can change anything."""
        return self._dirty or self._contended or any(seat.running for seat in self._seats.values())

    def tick(self, now: float) -> bool:
        """Every 10 to 20 milliseconds, while `awake`. Whether there may be something to grant."""
        if now - self._ticked >= _TICK or now < self._ticked:
            self._ticked = now
            limit = self.limiter.limit
            running = sum([seat.running for seat in self._seats.values()])
            self.limiter.tick(round(running), max([seat.oldest for seat in self._seats.values()], default=0.0), now)
            self._dirty = self._dirty or limit != self.limiter.limit
        divides = self._dirty or self._contended
        if divides:
            self.divide(now)
        return divides

    def grants(self, numbers: Mapping[int, int]) -> dict[int, Lease]:
        """The leases that have changed, by seat; `numbers` are those of the grants that will carry them. First what is
        taken away, then what is free goes to those who have too little, highest class first."""
        free = self.limiter.limit - self.most
        for seat in self._seats.values():
            seat.lease = min(seat.lease, seat.target)
        lacking = [(number, seat) for number, seat in self._seats.items() if seat.lease < seat.target]
        for _, seat in sorted(lacking, key=lambda each: (each[1].unmet(), -each[1].behind, each[0])):
            most = seat.most
            reach = min(seat.target, most + max(free, 0))
            free -= max(reach - most, 0)
            seat.lease = max(reach, seat.lease)
        news = {number: self._news(seat, numbers[number]) for number, seat in self._seats.items()}
        return {number: lease for number, lease in news.items() if lease is not None}

    @property
    def owes(self) -> bool:
        """Whether somebody has less than it should, so that every place that becomes free is waited for."""
        return any(seat.lease < seat.target for seat in self._seats.values())

    @property
    def idles(self) -> bool:
        """Whether somebody has places that it does not use while another lacks some."""
        seats = self._seats.values()
        return any(seat.asks > seat.lease for seat in seats) and self.limiter.limit > sum(
            [min(seat.lease, seat.asks) for seat in seats]
        )

    def divide(self, now: float) -> None:
        """Who is to have how much; `grants` then says what changes."""
        passed = min(max(now - self._at, 0.0), 1.0)
        self._at = now
        seats = list(self._seats.values())
        fading = [seat.fade(0.5 ** (passed / _REMEMBERED)) for seat in seats]
        limit = self.limiter.limit
        wanted = any(seat.asks > seat.lease for seat in seats)
        division = divide(limit, [Demand(seat.demand if wanted else seat.calls, seat.weights) for seat in seats])
        for seat, part, asked, shares in zip(seats, *division, strict=True):
            seat.asked, seat.shares = asked, shares
            lacks = sum(seat.calls) > part
            if lacks:
                seat.behind = _within(seat.behind + (part - seat.most) * passed, _BEHIND)
            else:
                seat.behind *= 0.5 ** (passed / _FORGIVEN)
        self._contended = sum([sum(seat.calls) for seat in seats]) > limit
        self._dirty = any(fading)
        _whole(limit, seats, division.parts, now)

    def _news(self, seat: _Seat, number: int) -> Lease | None:
        lease, told = Lease(seat.lease, self.limiter.limit, seat.shares, self._contended), seat.told
        same = told is not None and (told.limit, told.total, told.wanted) == (lease.limit, lease.total, lease.wanted)
        if same and told is not None and not _differ(told.shares, lease.shares):
            return None
        seat.told = lease
        seat.unseen.append((number, lease.limit))
        if len(seat.unseen) > _UNSEEN:  # it does not read: what it may do is not forgotten
            _, limit = seat.unseen.popleft()
            later, other = seat.unseen.popleft()
            seat.unseen.appendleft((later, max(limit, other)))
        return lease


def _whole(limit: int, seats: Sequence[_Seat], parts: Sequence[float], now: float) -> None:
    """Whole places. Those that do not divide go in turn to whoever is most behind, and stay for a while where they
    are: to move one costs the time that it is empty on its way."""
    rests: list[tuple[bool, float, float, int]] = []
    for index, (seat, part) in enumerate(zip(seats, parts, strict=True)):
        seat.target = floor(part + _ROUNDING)
        rest = part - seat.target
        if rest > _ROUNDING:
            stays = seat.turn <= now < seat.turn + _TURN
            rests.append((not stays, -seat.behind, -rest, index))
    over = max(limit - sum([seat.target for seat in seats]), 0)
    rests.sort()
    turns = {index for *_, index in rests[:over]}
    for index, seat in enumerate(seats):
        if index not in turns:
            seat.turn = inf
        else:
            seat.target += 1
            seat.turn = min(seat.turn, now)


def _differ(before: Sequence[float], after: Sequence[float]) -> bool:
    return any(abs(new - old) > _SHARE_CHANGE * old for old, new in zip(before, after, strict=True))


def _within(value: float, most: float) -> float:
    return min(max(value, -most), most)
