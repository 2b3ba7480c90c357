"""What was possible: the same arrivals, in virtual time, before the same capacity, with an admission that costs nothing
and knows everything.

It knows how long each request will take, which ones will fail, and when the backend's settings will change. So every
slot second that it spends ends in an answer that somebody still waits for. Requests are served in order of arrival, and
no slot is idle while an admitted request waits.

How strict the bound is. Where all requests take equally long and their clients wait equally long, no order and no
choice completes more requests within the same limits, also when slots come and go. More than the oracle's number then
only means that more was allowed (a longer wait than `wait_budget`), or luck in counting (answers around the end of the
time that is counted, a backend whose clock differs by a millisecond). Where times differ from request to request
(`spread`, stalls, sizes, times that change on the way) or clients differ in patience, the bound is not strict: who
prefers short requests, or those that cannot wait, over earlier ones can complete more. The oracle does not, because a
server has to be fair to the order of arrival, and an order by size would starve the long ones.
"""

from collections.abc import Iterable, Iterator, Sequence
from heapq import heappop, heappush
from itertools import pairwise
from typing import NamedTuple

from benchmarks.histogram import Histogram
from benchmarks.service import Service, duration, fails


class Arrival(NamedTuple):
    """`at` in seconds since the phase began; `patience` is how long its client waits, None for ever."""

    at: float
    number: int
    words: int
    max_tokens: int | None
    patience: float | None


class Possible(NamedTuple):
    """What the oracle served: `ends` are the seconds at which it completed a request, in order, and `latencies` after
    how long."""

    completed: int
    refused: int
    latency: Histogram
    ends: list[float]
    latencies: list[float]


class Planned(NamedTuple):
    """One request: the seconds at which it gets its slot and gives it back, None for both where it is refused."""

    arrival: Arrival
    start: float | None
    end: float | None


def possible(
    arrivals: Iterable[Arrival],
    service: Service,
    *,
    wait_budget: float,
    changes: Sequence[tuple[float, Service]] = (),
) -> Possible:
    """Serve in order of arrival what can start within `wait_budget` seconds and end within its client's patience.

    `changes`: from these seconds on, the backend is another (in order of time). Requests under way keep their slot.
    Raises ValueError when arrivals or changes are not in order.
    """
    latency = Histogram()
    done: list[tuple[float, float]] = []
    refused = 0
    for planned in plan(arrivals, service, wait_budget=wait_budget, changes=changes):
        if planned.end is None:
            refused += 1
        else:
            done.append((planned.end, planned.end - planned.arrival.at))
            latency.add(done[-1][1])
    done.sort()
    return Possible(len(done), refused, latency, [end for end, _ in done], [taken for _, taken in done])


def plan(
    arrivals: Iterable[Arrival],
    service: Service,
    *,
    wait_budget: float,
    changes: Sequence[tuple[float, Service]] = (),
) -> Iterator[Planned]:
    """The same, request by request in order of arrival. A request that will fail is refused: it takes no time."""
    slots = _Slots(service, changes)
    last = -float("inf")
    for arrival in arrivals:
        if arrival.at < last:
            raise ValueError(f"arrivals are not in order: {arrival.at} s comes after {last} s")
        last = arrival.at
        yield _decide(arrival, slots, wait_budget)


def _decide(arrival: Arrival, slots: "_Slots", wait_budget: float) -> Planned:
    start = slots.next_start(arrival.at)
    refused = Planned(arrival, None, None)
    if start is None or start - arrival.at > wait_budget or fails(slots.service, arrival.number):
        return refused
    end = start + duration(slots.service, arrival.number, arrival.words, arrival.max_tokens)
    if arrival.patience is not None and end - arrival.at > arrival.patience:
        return refused
    slots.take(end)
    return Planned(arrival, start, end)


class _Slots:
    """The backend from the moment on at which the newest request could start. That moment never goes back: whoever
    comes later starts later, whether the one before was served or refused.

    `service` is the backend at that moment.
    """

    def __init__(self, service: Service, changes: Sequence[tuple[float, Service]]) -> None:
        if any(later[0] < earlier[0] for earlier, later in pairwise(changes)):
            raise ValueError(f"changes are not in order: {[at for at, _ in changes]}")
        self.service = service
        self._changes = list(reversed(changes))
        self._now = -float("inf")
        self._ends: list[float] = []  # a heap, of the requests that hold a slot now

    def next_start(self, at: float) -> float | None:
        """When a request that arrives at `at` can start; None: never, because there will be no slots."""
        self._advance(max(at, self._now))
        while len(self._ends) >= self.service.slots:
            events = self._ends[:1] + [change[0] for change in self._changes[-1:]]
            if not events:
                return None
            self._advance(min(events))
        return self._now

    def take(self, end: float) -> None:
        heappush(self._ends, end)

    def _advance(self, now: float) -> None:
        self._now = now
        while self._ends and self._ends[0] <= now:
            heappop(self._ends)
        while self._changes and self._changes[-1][0] <= now:
            self.service = self._changes.pop()[1]
