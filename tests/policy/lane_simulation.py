"""A worker behind its lane, in virtual time: arrivals go through the door, wait, are served or refused."""

import heapq
from dataclasses import dataclass, field
from math import inf

from pipeline.core.outcomes import Priority, Reason
from pipeline.policy.concurrency import ConcurrencyLimit, FixedLimit
from pipeline.policy.lane import Asker, Lane, Rules, Verdict

TICK = 0.1


@dataclass(eq=False)
class Arrival:
    at: float
    service: float = 0.1
    priority: Priority = Priority.NORMAL
    session: str = ""
    caller: str = "-"
    weight: float = 1.0
    deadline: float = inf  # seconds after arrival

    # what became of it
    refused: Reason | None = None
    dropped: Reason | None = None
    started: float | None = None
    ended: float | None = None
    left: float | None = None  # when it was told no
    flow: object = None

    @property
    def latency(self) -> float:
        assert self.ended is not None
        return self.ended - self.at


@dataclass
class Outcome:
    arrivals: list[Arrival]
    most_running: int = 0
    trace: list[tuple[float, str, int]] = field(default_factory=list)

    def served(self, **wanted) -> list[Arrival]:
        return [a for a in self.arrivals if a.ended is not None and all(getattr(a, k) == v for k, v in wanted.items())]

    def share(self, **wanted) -> float:
        """Of those offered, how many were served."""
        offered = [a for a in self.arrivals if all(getattr(a, k) == v for k, v in wanted.items())]
        return len(self.served(**wanted)) / len(offered)


class Simulation:
    """`slots` is what the worker can do at once; its lane may let more in, which then wait at the worker."""

    def __init__(
        self, *, limit: ConcurrencyLimit | int = 8, slots: int | None = None, rules: Rules | None = None, budget=None
    ) -> None:
        self.lane: Lane[Arrival] = Lane("w", FixedLimit(limit) if isinstance(limit, int) else limit, rules or Rules())
        self.slots = slots if slots is not None else self.lane.limit
        self.budget = budget
        self.running = 0
        self.backlog: list[Arrival] = []  # at the worker

    def run(self, arrivals: list[Arrival]) -> Outcome:
        out = Outcome(arrivals)
        events: list[tuple[float, int, str, Arrival | None]] = [(a.at, i, "arrive", a) for i, a in enumerate(arrivals)]
        end = max((a.at for a in arrivals), default=0.0)
        events += [(TICK * n, -1, "tick", None) for n in range(1, int(end / TICK) + 30)]
        heapq.heapify(events)
        number = len(events)
        self.out, self.events, self.number = out, events, number
        while events:
            now, _, what, arrival = heapq.heappop(events)
            if what == "arrive":
                self._arrive(arrival, now)
            elif what == "end":
                self._end(arrival, now)
            else:
                self._tick(now)
            self._take(now)
            out.most_running = max(out.most_running, self.lane.inflight)
            assert sum(self.lane.waiting) == len(self.lane.queue)
        assert not len(self.lane.queue)
        assert self.lane.inflight == 0
        assert self.lane.waiting == [0, 0, 0, 0]
        return out

    def _arrive(self, a: Arrival, now: float) -> None:
        fair = self.lane.rules.fair
        asker = Asker(a.priority, a.caller, a.weight, a.session) if fair else Asker(Priority.NORMAL, "-", 1.0, "")
        decision = self.lane.decide(asker, self.budget, a.deadline, None, now)
        self.out.trace.append((now, decision.verdict.name, self.lane.inflight))
        if decision.verdict is Verdict.REFUSE:
            a.refused, a.left = decision.reason, now
            self.lane.refused(now)
            return
        if decision.victim is not None:
            assert self.lane.queue.remove(decision.victim.flow, decision.victim)
            self._drop(decision.victim, Reason.DISPLACED, now)
        a.asked = asker
        a.flow = self.lane.admit(asker)
        self.lane.queue.push(a.flow, (now, a))

    def _drop(self, a: Arrival, reason: Reason, now: float) -> None:
        a.dropped, a.left = reason, now
        self.lane.leave(a.flow, a.asked.priority, now, started=False)

    def _take(self, now: float) -> None:
        while self.lane.room(now) > 0 and (entry := self.lane.queue.pop()) is not None:
            entered, a = entry
            reason = self.lane.drops(a.asked.priority, now - entered, self.budget, now)
            if reason is None and now - a.at + self.lane.typical.answer(None) > a.deadline:
                reason = Reason.TOO_LATE
            if reason is not None:
                self._drop(a, reason, now)
                continue
            a.started = now
            a.inflight = self.lane.inflight + 1
            self.lane.start(a.asked.priority, 0, now)
            self.backlog.append(a)
        self._work(now)

    def _work(self, now: float) -> None:
        while self.backlog and self.running < self.slots:
            a = self.backlog.pop(0)
            self.running += 1
            self.number += 1
            heapq.heappush(self.events, (now + a.service, self.number, "end", a))

    def _end(self, a: Arrival, now: float) -> None:
        self.running -= 1
        a.ended = now
        self.lane.unanswered -= 1
        self.lane.finish(0, 0, now, answered=True)
        self.lane.limiter.first_delta(now - a.started, 10, a.inflight, now)
        self.lane.typical.ended(now - a.started, now - a.started, 1, now, a.inflight)
        self.lane.leave(a.flow, a.asked.priority, now, started=True)

    def _tick(self, now: float) -> None:
        for entered, a in self.lane.waits_since():
            if now - entered > self.lane.patience(self.budget):
                assert self.lane.queue.remove(a.flow, a)
                self._drop(a, Reason.OVERDUE, now)
        running = [a for a in self.out.arrivals if a.started is not None and a.ended is None]
        ages = [now - a.started for a in running]
        self.lane.tick(ages, max(ages, default=0.0), now)


def poisson(random, rate: float, seconds: float, **fields) -> list[Arrival]:
    at, arrivals = 0.0, []
    while (at := at + random.expovariate(rate)) < seconds:
        arrivals.append(Arrival(at, **fields))
    return arrivals


def merged(*groups: list[Arrival]) -> list[Arrival]:
    return sorted((a for group in groups for a in group), key=lambda a: a.at)
