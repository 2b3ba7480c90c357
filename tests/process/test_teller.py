"""A key's limits in several shards: what is borrowed and given back, in virtual time, and once between processes."""

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from random import Random

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.errors import RateLimited
from pipeline.policy.leases import Leases
from pipeline.policy.leases_account import Count, Lending
from pipeline.policy.limits import KeyQuota, OwnPlaces, TokenBucket, per_minute
from pipeline.process.bank import INTERVAL as BANK_INTERVAL
from pipeline.process.bank import Bank
from pipeline.process.link import Grant, Link, Report
from pipeline.process.teller import INTERVAL, QUIET_TICKS, Teller
from tests.process.shards import config


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time jumps to the next timer as soon as nothing is left to be done."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:
            self.now = max(self.now, self._scheduled[0]._when)
        super()._run_once()


class Shard:
    def __init__(self, house: "House", seat: int) -> None:
        self.house, self.seat, self.alive = house, seat, True
        self.leases = Leases()
        self.teller = Teller(self.leases, self._send, on_grant=lambda: None, clock=house.loop.time)
        self.quota = house.quota(self.leases)
        self._tick()

    def _send(self, report: Report) -> None:
        copy = msgspec.msgpack.decode(msgspec.msgpack.encode(report), type=Report)
        self.house.deliver(self, "up", lambda: self.house.bank.report(self.seat, copy, self.house.loop.time()))

    def _tick(self) -> None:
        if self.alive:
            self.teller.tick(self.house.loop.time())
            self.house.loop.call_later(INTERVAL, self._tick)

    async def ask(self, tokens: int = 1) -> bool:
        loop = self.house.loop
        if self.quota.short(tokens, loop.time()):
            await self.quota.borrow(tokens)
        try:
            self.quota.admit(tokens, loop.time())
        except RateLimited:
            return False
        return True


class House:
    """Shards and the bank, and messages between them that take up to `delay` seconds."""

    def __init__(self, shards: int, *, delay: float = 0.002, seed: int = 1, **limits: int) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = Random(seed)
        self.delay = delay
        self.limits = limits
        self.last: dict[tuple[int, str], float] = {}
        self.messages = 0
        self.bank = Bank(self.config(), self.loop.time(), self._grant)
        self.shards: list[Shard] = []
        for _ in range(shards):
            self.join()
        self._tick()

    def config(self):
        return config(8, keys=[{"name": "k", **self.limits}])

    def join(self) -> Shard:
        shard = Shard(self, len(self.shards))
        self.shards.append(shard)
        self.bank.joined(shard.seat, shard.seat, self.loop.time())
        return shard

    def kill(self, shard: Shard) -> None:
        shard.alive = False
        self.bank.gone(shard.seat, self.loop.time())

    def configure(self, **limits: int) -> None:
        self.limits = limits
        self.bank.configure(self.config(), self.loop.time())
        for shard in self.shards:
            self.quota(shard.leases)

    def quota(self, leases: Leases) -> KeyQuota:
        def bucket(unit: str):
            number = self.limits.get(f"{unit}_per_minute")
            return None if number is None else leases.bucket(f"key:k:{unit}", number, self.loop.time())

        number = self.limits.get("concurrency")
        places = None if number is None else leases.places("key:k:places", number)
        return KeyQuota(bucket("requests"), bucket("tokens"), places)

    def deliver(self, shard: Shard, way: str, action: Callable[[], object]) -> None:
        self.messages += 1
        at = max(self.last.get((shard.seat, way), 0.0), self.loop.time() + self.random.uniform(0.0, self.delay))
        self.last[shard.seat, way] = at
        self.loop.call_at(at, lambda: action() if shard.alive else None)

    def _grant(self, seat: int, grant: Grant) -> None:
        shard = self.shards[seat]
        copy = msgspec.msgpack.decode(msgspec.msgpack.encode(grant), type=Grant)
        self.deliver(shard, "down", lambda: shard.teller.granted(copy, self.loop.time()))

    def _tick(self) -> None:
        self.bank.tick(self.loop.time())
        self.loop.call_later(BANK_INTERVAL, self._tick)


def virtually(story: Callable[[], Awaitable[None]]) -> None:
    loop = VirtualLoop()
    try:
        loop.run_until_complete(story())
    finally:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.close()


def lines(quota: KeyQuota, now: float) -> dict[str, str]:
    return dict(line.split(": ") for line in quota.fields(now).split("\r\n") if line)


def test_a_small_limit_is_one_limit_for_all_shards():
    """Six a minute with nothing saved up, in random shards: what one process would admit is admitted, and no more."""

    async def story() -> None:
        house = House(4, requests_per_minute=6)
        alone = TokenBucket(*per_minute(6), house.loop.time())
        random = Random(3)
        admitted = expected = 0
        begin = house.loop.time()
        for _ in range(150):
            await asyncio.sleep(random.expovariate(0.25))
            now = house.loop.time()
            if not alone.wait(1, now):
                alone.take(1, now)
                expected += 1
            admitted += await random.choice(house.shards).ask()
        assert admitted <= 1 + 0.1 * (house.loop.time() - begin)
        assert abs(admitted - expected) <= 0.02 * expected

    virtually(story)


def test_what_comes_at_once_finds_all_there_is_wherever_it_comes():
    async def story() -> None:
        house = House(3, requests_per_minute=60)  # ten are saved up
        got = await asyncio.gather(*(house.shards[n % 3].ask() for n in range(30)))
        assert sum(got) == 10
        assert not any(await asyncio.gather(*(shard.ask() for shard in house.shards)))
        await asyncio.sleep(2.0)
        assert sum(await asyncio.gather(*(shard.ask() for shard in house.shards))) == 2

    virtually(story)


def test_an_answer_takes_a_tenth_of_a_second_at_most():
    async def story() -> None:
        house = House(2, requests_per_minute=60)
        house.delay = 10.0  # the supervisor is out of reach
        begin = house.loop.time()
        assert not await house.shards[0].ask()
        assert house.loop.time() - begin <= 0.11
        assert not house.shards[0].teller.waiting

    virtually(story)


def test_unused_credit_goes_back_within_100_ms_and_is_forgotten():
    async def story() -> None:
        house = House(2, requests_per_minute=6000)
        for _ in range(60):
            assert await house.shards[0].ask()
            await asyncio.sleep(0.005)
        assert house.bank.lent("key:k:requests") > 0
        await asyncio.sleep(0.1)
        assert house.bank.lent("key:k:requests") == 0
        await asyncio.sleep(5)
        assert house.bank.accounts == 0
        before = house.messages
        await asyncio.sleep(5)
        assert house.messages == before

    virtually(story)


def test_a_busy_shard_need_not_ask_for_every_request():
    async def story() -> None:
        house = House(2, requests_per_minute=60_000)
        borrowed = 0
        for number in range(2000):
            borrowed += house.shards[0].quota.short(1, house.loop.time())
            assert await house.shards[0].ask(), number
            await asyncio.sleep(0.002)
        assert borrowed <= 40

    virtually(story)


def test_a_key_over_its_limit_costs_the_supervisor_little():
    async def story() -> None:
        house = House(2, requests_per_minute=6)
        for _ in range(1000):
            await house.shards[0].ask()
            await asyncio.sleep(0.001)
        assert house.messages <= 200

    virtually(story)


def test_what_was_used_beyond_the_estimate_is_owed_by_all():
    async def story() -> None:
        house = House(2, tokens_per_minute=6000)  # 100 a second, 1,000 saved up
        one, two = house.shards
        assert await one.ask(300)
        one.quota.settle(300, 1500, house.loop.time())
        await asyncio.sleep(0.15)
        assert not await two.ask(100)
        assert house.loop.time() < 1000 + 1
        await asyncio.sleep(6.0)
        assert await two.ask(100)

    virtually(story)


def test_a_request_with_more_than_is_saved_up_waits_for_all_of_it():
    async def story() -> None:
        house = House(2, tokens_per_minute=6000)
        one, two = house.shards
        assert await two.ask(10)
        assert not await one.ask(3000)
        await asyncio.sleep(0.3)
        assert await one.ask(3000)
        assert not await two.ask(10)

    virtually(story)


def test_the_fields_tell_what_is_left_for_all():
    async def story() -> None:
        house = House(2, requests_per_minute=60)
        one, two = house.shards
        assert lines(two.quota, house.loop.time())["x-ratelimit-remaining-requests"] == "10"
        for _ in range(4):
            assert await one.ask()
        await asyncio.sleep(0.03)
        assert await two.ask()
        for shard in house.shards[1:]:
            assert lines(shard.quota, house.loop.time())["x-ratelimit-remaining-requests"] == "5"

    virtually(story)


def test_so_many_at_once_in_all_shards():
    async def story() -> None:
        house = House(3, concurrency=4)
        got = [await house.shards[n % 3].ask() for n in range(9)]
        assert sum(got) == 4
        house.shards[1].quota.settle(1, 1, house.loop.time())
        await asyncio.sleep(0.06)
        assert await house.shards[2].ask()
        assert not await house.shards[0].ask()

    virtually(story)


def test_a_dead_shard_s_places_are_free_at_once():
    async def story() -> None:
        house = House(2, concurrency=2)
        assert await house.shards[0].ask()
        assert await house.shards[0].ask()
        assert not await house.shards[1].ask()
        house.kill(house.shards[0])
        await asyncio.sleep(0.06)
        assert await house.shards[1].ask()
        assert await house.shards[1].ask()
        assert not await house.shards[1].ask()

    virtually(story)


def test_what_a_dead_shard_may_have_used_is_used():
    async def story() -> None:
        house = House(2, requests_per_minute=6)
        assert await house.shards[0].ask()
        house.kill(house.shards[0])  # it has not told
        await asyncio.sleep(0.06)
        assert not await house.shards[1].ask()
        await asyncio.sleep(10)
        assert await house.shards[1].ask()

    virtually(story)


def test_fewer_at_once_from_now_on():
    async def story() -> None:
        house = House(2, concurrency=6)
        for shard in house.shards:
            assert [await shard.ask() for _ in range(3)] == [True] * 3
        house.configure(concurrency=2)
        await asyncio.sleep(0.06)
        for number in range(4):
            shard = house.shards[number % 2]
            shard.quota.settle(1, 1, house.loop.time())
            assert not await shard.ask()
            await asyncio.sleep(0.06)
        house.shards[0].quota.settle(1, 1, house.loop.time())
        await asyncio.sleep(0.06)
        assert await house.shards[1].ask()

    virtually(story)


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    delay=st.sampled_from([0.001, 0.03, 0.09]),
    rate=st.sampled_from([6, 60, 600]),
    places=st.integers(1, 6),
    deaths=st.integers(0, 2),
)
def test_never_more_than_the_limits_whatever_happens(seed, delay, rate, places, deaths):
    async def story() -> None:
        house = House(3, delay=delay, seed=seed, requests_per_minute=rate, concurrency=places)
        random, begin = Random(seed), house.loop.time()
        counts = {"admitted": 0, "running": 0}

        async def client(shard: Shard) -> None:
            if not await shard.ask() or not shard.alive:
                return
            counts["admitted"] += 1
            counts["running"] += 1
            elapsed = house.loop.time() - begin
            assert counts["running"] <= places
            assert counts["admitted"] <= per_minute(rate)[1] + per_minute(rate)[0] * elapsed + 1e-6
            running.setdefault(shard, 0)
            running[shard] += 1
            await asyncio.sleep(random.expovariate(10))
            if shard.alive:
                counts["running"] -= 1
                running[shard] -= 1
                shard.quota.settle(1, 1, house.loop.time())

        running: dict[Shard, int] = {}
        clients = []
        for number in range(150):
            await asyncio.sleep(random.expovariate(40))
            clients.append(asyncio.create_task(client(random.choice([s for s in house.shards if s.alive]))))
            if number in (50, 100)[:deaths]:
                shard = random.choice([s for s in house.shards if s.alive])
                house.kill(shard)
                counts["running"] -= running.pop(shard, 0)
                house.join()
        await asyncio.gather(*clients)
        assert counts["running"] == 0
        await asyncio.sleep(1.0)
        assert house.bank.lent("key:k:requests") == 0
        assert house.bank.lent("key:k:places") == 0

    virtually(story)


@pytest.mark.slow
async def test_a_shard_in_a_process_of_its_own():
    """Over a real link: a child borrows from the bank of its parent, and dies with what it had."""
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if not pid:
        ours.close()
        os._exit(_child(theirs))
    theirs.close()
    loop = asyncio.get_running_loop()
    gone = asyncio.Event()
    reports: list[Report] = []
    bank = Bank(config(8, keys=[{"name": "k", "concurrency": 2}]), loop.time(), lambda _, grant: link.send(grant))

    def heard(report: Report) -> None:
        reports.append(report)
        bank.report(0, report, loop.time())

    link = await Link.open(ours, heard, gone.set)
    try:
        bank.joined(0, 0, loop.time())
        await asyncio.wait_for(gone.wait(), 10)
        assert bank.lent("key:k:places") == 2
        assert bank.most("w") == 8
        bank.gone(0, loop.time())
        assert (bank.lent("key:k:places"), bank.most("w")) == (0, 0)
    finally:
        link.close()
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def _child(sock: socket.socket) -> int:
    """Exit status 0: two requests were let in and a third one was not."""

    async def main() -> int:
        leases = Leases()
        loop = asyncio.get_running_loop()
        more = asyncio.Event()
        link = await Link.open(sock, lambda grant: teller.granted(grant, loop.time()), lambda: None)
        teller = Teller(leases, link.send, on_grant=more.set)
        quota = KeyQuota(None, None, leases.places("key:k:places", 2))
        await asyncio.wait_for(more.wait(), 5)
        let_in = 0
        for _ in range(3):
            if quota.short(1, loop.time()):
                await quota.borrow(1)
            try:
                quota.admit(1, loop.time())
                let_in += 1
            except RateLimited:
                break
        while link.unsent:
            await asyncio.sleep(0.01)
        return 0 if let_in == 2 and leases.limits["w"].limit == 8 else 1

    try:
        return asyncio.new_event_loop().run_until_complete(main())
    except BaseException:  # noqa: BLE001 - a child must not become a second pytest
        return 2


def test_places_of_our_own():
    places = OwnPlaces(1)
    assert places.left == 1
    places.take()
    assert places.left == 0
    places.free()
    assert places.left == 1


async def test_a_shard_without_work_says_nothing_until_it_has_some(monkeypatch):
    monkeypatch.setattr("pipeline.process.teller.INTERVAL", 0.001)
    ticks = 0
    woken: list = []

    class Work:
        def when_there_is(self, callback) -> None:
            woken.append(callback)

    class Counting(Teller):
        def tick(self, now: float) -> bool:
            nonlocal ticks
            ticks += 1
            return super().tick(now)

    teller = Counting(Leases(), lambda _: None, on_grant=lambda: None)
    running = asyncio.create_task(teller.run(Work()))
    async with asyncio.timeout(5):
        while not woken:
            await asyncio.sleep(0.001)
    assert ticks == QUIET_TICKS
    await asyncio.sleep(0.02)
    assert ticks == QUIET_TICKS
    woken.pop()()
    async with asyncio.timeout(5):
        while not woken:
            await asyncio.sleep(0.001)
    assert ticks == 2 * QUIET_TICKS
    running.cancel()


def test_a_new_process_on_a_dead_one_s_seat_is_called_upon_as_well():
    """Others ask all the time; who has answered them once is not called upon again, but that one is dead."""
    lending = Lending(Count(4), whole=True, standing=True)
    numbers = {0: 1, 1: 1}

    def wish(seat: int, amount: float) -> set[int]:
        lending.wish(seat, amount, 1)
        return {other for other, answer in lending.answers(numbers, 0.0, ticking=True).items() if answer.recall}

    assert wish(0, 4.0) == set()
    assert wish(1, 2.0) == {0}
    lending.answered(0, 1)  # all that it has is in use
    assert wish(1, 2.0) == set()
    lending.gone(0, 0.0)
    lending.wish(1, 0.0, 1)
    assert wish(0, 4.0) == set()
    assert lending.lent == 4
    assert wish(1, 2.0) == {0}
