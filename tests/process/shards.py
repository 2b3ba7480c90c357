"""Several shards with leased limits in virtual time: lanes, tellers, the bank, and messages that take their time.

A message is on its way for up to `delay` seconds; those between two ends arrive in order. A process may die at any
time, and what it had written and nobody has read yet is lost or not, as chance will have it.
"""

import heapq
import itertools
from collections.abc import Callable
from random import Random

import msgspec

from config.schema import Config
from pipeline.core.outcomes import Reason
from pipeline.policy.lane import Asker, Lane, Rules, Verdict
from pipeline.policy.leases import Leases
from pipeline.process.bank import INTERVAL as INTERVAL_OF_BANK
from pipeline.process.bank import Bank
from pipeline.process.link import Grant, Report
from pipeline.process.teller import INTERVAL, Teller
from tests.policy.lane_simulation import Arrival

TICK = 0.1


def config(concurrency: int | str = 8, *, keys: list[dict[str, object]] | None = None, **worker: object) -> Config:
    whole = {
        "workers": [{"name": "w", "kind": "echo", "concurrency": concurrency, **worker}],
        "routes": [{"name": "m", "worker": "w"}],
        "keys": [{"hash": "sha256:" + "0" * 64, **key} for key in keys or ()],
    }
    return msgspec.convert(whole, Config)


class Shard:
    """One process: what it holds, and a lane that serves what comes to it."""

    def __init__(self, world: "World", seat: int, config: Config) -> None:
        self.world = world
        self.seat = seat
        self.alive = True
        self.leases = Leases()
        self.last = {"up": 0.0, "down": 0.0}  # when the last message arrives
        self.teller = Teller(self.leases, self._send, on_grant=self.take, clock=lambda: world.now)
        section = config.workers[0]
        limit = None if section.concurrency == "adaptive" else section.concurrency
        limiter = self.leases.concurrency("w", limit, 256)
        requests = section.requests_per_minute
        self.lane: Lane[Arrival] = Lane(
            "w",
            limiter,
            world.rules,
            requests=None if requests is None else self.leases.bucket("worker:w:requests", requests, world.now),
        )
        self.running: dict[Arrival, float] = {}
        world.every(INTERVAL, self._tick, world.random.uniform(0.0, INTERVAL))
        world.every(TICK, self._lane_tick, world.random.uniform(0.0, TICK))

    def _send(self, report: Report) -> None:
        copy = msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report)
        self.world.deliver(self, "up", lambda: self.world.bank.report(self.seat, copy, self.world.now))

    def granted(self, grant: Grant) -> None:
        self.teller.granted(grant, self.world.now)

    def _tick(self) -> bool:
        if self.alive:
            self.teller.tick(self.world.now)
        return self.alive

    def arrive(self, a: Arrival) -> None:
        now, lane = self.world.now, self.lane
        asker = Asker(a.priority, a.caller, a.weight, a.session)
        decision = lane.decide(asker, None, a.deadline, None, now)
        if decision.verdict is Verdict.REFUSE:
            a.refused, a.left = decision.reason, now
            lane.refused(now)
            return
        if decision.victim is not None:
            assert lane.queue.remove(decision.victim.flow, decision.victim)
            self._drop(decision.victim, Reason.DISPLACED)
        a.asked, a.flow = asker, lane.admit(asker)
        lane.queue.push(a.flow, (now, a))
        self.take()

    def _drop(self, a: Arrival, reason: Reason) -> None:
        a.dropped, a.left = reason, self.world.now
        self.lane.leave(a.flow, a.asked.priority, self.world.now, started=False)

    def take(self) -> None:
        lane, now = self.lane, self.world.now
        while self.alive and lane.room(now) > 0 and (entry := lane.queue.pop()) is not None:
            entered, a = entry
            reason = lane.drops(a.asked.priority, now - entered, None, now)
            if reason is not None:
                self._drop(a, reason)
                continue
            a.started = now
            lane.start(a.asked.priority, 0, now)
            a.inflight = lane.inflight
            self.running[a] = now
            self.world.begin(self, a)

    def end(self, a: Arrival) -> None:
        if not self.alive:
            return
        now, lane = self.world.now, self.lane
        del self.running[a]
        a.ended = now
        lane.answered(now - a.started, 10, a.inflight, now)
        lane.finish(0, 0, now, answered=True)
        lane.ended(now - a.started, now - a.started, 1, now, a.inflight, 10)
        lane.leave(a.flow, a.asked.priority, now, started=True)
        self.take()

    def _lane_tick(self) -> bool:
        now = self.world.now
        if self.alive:
            for entered, a in self.lane.waits_since():
                if now - entered > self.lane.patience(None, a.asked.priority):
                    assert self.lane.queue.remove(a.flow, a)
                    self._drop(a, Reason.OVERDUE)
            ages = [now - began for began in self.running.values()]
            self.lane.tick(ages, max(ages, default=0.0), now)
            self.take()
        return self.alive


class World:
    """`slots` is what the worker can do at once; what is beyond waits there."""

    def __init__(
        self,
        shards: int,
        config: Config,
        *,
        slots: int = 8,
        delay: float = 0.002,
        seed: int = 1,
        rules: Rules | None = None,
    ) -> None:
        self.now = 0.0
        self.random = Random(seed)
        self.rules = Rules()
        self.config = config
        self.delay = delay
        self.slots = slots
        self.working = 0
        self.backlog: list[tuple[Shard, Arrival]] = []
        self.most = 0  # calls under way in all shards together
        self.messages = 0
        self.checks: list[Callable[[], None]] = []
        self._events: list[tuple[float, int, Callable[[], object]]] = []
        self._count = itertools.count()
        self.shards: dict[int, Shard] = {}
        self.bank = Bank(config, 0.0, self._grant)
        self.every(INTERVAL_OF_BANK, self._bank_tick, 0.0)
        for seat in range(shards):
            self.join(seat)

    def join(self, seat: int) -> Shard:
        shard = self.shards[seat] = Shard(self, seat, self.config)
        self.bank.joined(seat, seat, self.now)
        return shard

    def kill(self, seat: int) -> None:
        shard = self.shards.pop(seat)
        shard.alive = False
        ended = [each for each in self.backlog if each[0] is shard]
        self.backlog = [each for each in self.backlog if each[0] is not shard]
        self.working -= len(shard.running) - len(ended)
        self.bank.gone(seat, self.now)
        self._work()

    def at(self, at: float, action: Callable[[], object]) -> None:
        heapq.heappush(self._events, (at, next(self._count), action))

    def every(self, interval: float, action: Callable[[], object], first: float) -> None:
        def again() -> None:
            if action() is not False:
                self.at(self.now + interval, again)

        self.at(self.now + first, again)

    def deliver(self, shard: Shard, way: str, action: Callable[[], object]) -> None:
        self.messages += 1
        shard.last[way] = max(shard.last[way], self.now + self.random.uniform(0.0, self.delay))
        self.at(shard.last[way], lambda: action() if shard.alive else None)

    def offer(self, arrivals: list[Arrival], seat: Callable[[Arrival], int]) -> list[Arrival]:
        for a in arrivals:
            self.at(a.at, lambda a=a: self.shards[seat(a)].arrive(a) if seat(a) in self.shards else None)
        return arrivals

    def run(self, until: float) -> None:
        while self._events and self._events[0][0] <= until:
            self.now, _, action = heapq.heappop(self._events)
            action()
            self.most = max(self.most, self.inflight)
            for check in self.checks:
                check()
        self.now = until

    @property
    def inflight(self) -> int:
        return sum(shard.lane.inflight for shard in self.shards.values())

    @property
    def granted(self) -> int:
        """Calls that may be under way, with those whose place has been taken away."""
        return sum(shard.leases.limits["w"].held for shard in self.shards.values())

    def begin(self, shard: Shard, a: Arrival) -> None:
        self.backlog.append((shard, a))
        self._work()

    def _work(self) -> None:
        while self.backlog and self.working < self.slots:
            shard, a = self.backlog.pop(0)
            self.working += 1
            self.at(self.now + a.service, lambda shard=shard, a=a: self._end(shard, a))

    def _end(self, shard: Shard, a: Arrival) -> None:
        if shard.alive:
            self.working -= 1
            shard.end(a)
            self._work()

    def _bank_tick(self) -> None:
        self.bank.tick(self.now)

    def _grant(self, seat: int, grant: Grant) -> None:
        shard = self.shards[seat]
        copy = msgspec.msgpack.decode(msgspec.msgpack.encode(grant), type=Grant)
        self.deliver(shard, "down", lambda: shard.granted(copy))


def served(arrivals: list[Arrival], since: float, until: float) -> int:
    return sum(a.ended is not None and since <= a.ended < until for a in arrivals)


def by_shard(shards: int) -> Callable[[Arrival], int]:
    """Sessions stay home."""
    return lambda a: int(a.session or 0) % shards
