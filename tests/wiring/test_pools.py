"""A worker's replicas and the rules of its pool change while calls run."""

import asyncio

import pytest

from pipeline.core.errors import BackendFailed
from pipeline.policy.breaker import BreakerState
from pipeline.wiring import Pipeline
from tests.flows import config, prompt, submit
from tests.stages.pooled import Pools, Replica, assert_nothing_booked, failure, pooled, sections, until, worker
from workers.errors import WorkerErrorKind


@pytest.fixture
def pools(monkeypatch: pytest.MonkeyPatch) -> Pools:
    return Pools(monkeypatch)


def renew(pipeline: Pipeline, *workers: dict[str, object], **route: object) -> None:
    pipeline.apply(pipeline.prepare(config(**sections(*workers, **route))))


def inflight(pipeline: Pipeline) -> list[int]:
    return [replica.inflight for replica in pipeline.flow.inference.backends["a"].pool.replicas]


async def closed(*replicas: Replica) -> None:
    await until(lambda: all(replica.closed for replica in replicas))


async def test_a_replica_that_is_added_gets_calls_and_those_under_way_go_on(pools: Pools):
    async with pooled(worker("a", 1, affinity=False)) as (pipeline, _):
        (old,) = pools["a"]
        free = asyncio.Event()
        old.usual = [free]
        held = [submit(pipeline)[1] for _ in range(3)]
        await until(lambda: old.running == 3)
        renew(pipeline, worker("a", 2, affinity=False))
        assert inflight(pipeline) == [3, 0]
        for _ in range(2):
            _, sink = submit(pipeline)
            assert await sink.done() == "a1"
        assert not old.closed
        free.set()
        assert [await sink.done() for sink in held] == ["a0"] * 3
        await closed(old)
        assert inflight(pipeline) == [0, 0]


async def test_a_replica_that_is_taken_away_finishes_what_it_has(pools: Pools):
    async with pooled(worker("a", 3, affinity=False)) as (pipeline, _):
        free = asyncio.Event()
        for replica in pools["a"]:
            replica.usual = [free]
        held = [submit(pipeline)[1] for _ in range(3)]
        old = pools["a"]
        await until(lambda: [replica.running for replica in old] == [1, 1, 1])
        renew(pipeline, worker("a", 1, affinity=False))
        assert inflight(pipeline) == [1]
        free.set()
        assert sorted([await sink.done() for sink in held]) == ["a0", "a1", "a2"]
        await closed(*old)


async def test_a_call_that_fails_after_a_reload_is_made_again_at_the_replicas_of_now(pools: Pools):
    async with pooled(worker("a", 1)) as (pipeline, _):
        fail = asyncio.Event()
        (old,) = pools["a"]
        old.usual = [fail, failure(WorkerErrorKind.RESET)]
        asked = [submit(pipeline) for _ in range(8)]
        await until(lambda: old.running == 8)
        renew(pipeline, worker("a", 4))
        fail.set()
        answers = [await sink.done() for _, sink in asked]
        assert set(answers) <= {"a1", "a2", "a3"}
        assert {ticket.retries for ticket, _ in asked} == {1}
        await closed(old)
        await until(lambda: not pipeline.flow.inference.backends["a"].calls)
        assert_nothing_booked(pipeline)


async def test_a_call_that_waits_for_a_replica_gets_one_that_is_added(pools: Pools):
    async with pooled(worker("a", 2, replica_concurrency=1, affinity=False, retry_max_ms=60_000)) as (pipeline, _):
        free = asyncio.Event()
        first, second = pools["a"]
        first.usual = second.usual = [free]
        held = [submit(pipeline)[1] for _ in range(2)]
        await until(lambda: first.running + second.running == 2)
        renew(pipeline, worker("a", 1, replica_concurrency=1, affinity=False))  # one place less than calls
        waits, sink = submit(pipeline)
        await asyncio.sleep(0.03)
        assert not waits.started
        renew(pipeline, worker("a", 3, replica_concurrency=1, affinity=False))
        assert await sink.done() in {"a1", "a2"}
        free.set()
        for each in held:
            await each.done()


async def test_what_is_known_of_a_replica_stays_and_another_model_is_another_pool(pools: Pools):
    async with pooled(worker("a", 1, breaker_failures=1, breaker_open_ms=30_000)) as (pipeline, _):
        pools["a"][0].usual = [failure(WorkerErrorKind.RESET, retryable=False)]
        _, sink = submit(pipeline)
        await sink.ended()
        renew(pipeline, worker("a", 2, breaker_failures=1, breaker_open_ms=30_000))
        replicas = pipeline.flow.inference.backends["a"].pool.replicas
        assert [replica.breaker.state for replica in replicas] == [BreakerState.OPEN, BreakerState.CLOSED]
        for _ in range(3):
            _, sink = submit(pipeline)
            assert await sink.done() == "a1"
        renew(pipeline, worker("a", 2, model="another"))
        replicas = pipeline.flow.inference.backends["a"].pool.replicas
        assert [replica.breaker.state for replica in replicas] == [BreakerState.CLOSED, BreakerState.CLOSED]


async def test_a_call_that_fails_after_its_model_was_changed_stays_with_its_own(pools: Pools):
    async with pooled(worker("a", 2, affinity=False)) as (pipeline, _):
        fail = asyncio.Event()
        old = pools["a"]
        for replica in old:
            replica.script.append([fail, failure()])
        _, sink = submit(pipeline)
        await until(lambda: old[0].running + old[1].running)
        for replica in old:
            replica.script.clear()
        renew(pipeline, worker("a", 1, model="another"))
        fail.set()
        await sink.done()
        assert sum(len(replica.came) for replica in old) == 2
        assert not pools["a"][0].came
        await closed(*old)


async def test_rules_of_retries_and_circuits_are_in_force_at_once(pools: Pools):
    async with pooled(worker("a", 1, retries=0)) as (pipeline, _):
        (replica,) = pools["a"]
        replica.usual = [failure()]
        for retries in (0, 2, 5):
            replica.came.clear()
            renew(pipeline, worker("a", 1, retries=retries))
            assert pools["a"] == [replica]  # the same one
            _, sink = submit(pipeline)
            with pytest.raises(BackendFailed):
                await sink.done()
            assert len(replica.came) == retries + 1
        renew(pipeline, worker("a", 1, retries=2, retry_budget=0.0))
        _, sink = submit(pipeline)
        await sink.ended()
        assert len(replica.came) == 7
        renew(pipeline, worker("a", 1, retries=0, breaker_failures=1))
        for _ in range(3):
            _, sink = submit(pipeline)
            await sink.ended()
        assert len(replica.came) == 8


async def test_a_reload_gives_no_new_budget(pools: Pools):
    async with pooled(worker("a", 1, retries=1)) as (pipeline, _):
        for number in range(60):
            for replica in pools["a"]:
                replica.usual = [failure()]
            _, sink = submit(pipeline)
            await sink.ended()
            renew(pipeline, worker("a", 1 + number % 2, retries=1))
        assert pipeline.flow.inference.backends["a"].pool.retries <= 25 + 6


async def test_a_route_s_fallbacks_and_static_answer_are_those_that_it_came_in_with(pools: Pools):
    async with pooled(worker("a"), worker("b"), fallback=["b"], static_answer="old") as (pipeline, _):
        go = asyncio.Event()
        down = failure(WorkerErrorKind.AUTH, retryable=False)
        pools["a"][0].usual, pools["b"][0].usual = [go, down], [down]
        _, before = submit(pipeline)
        await until(lambda: pools["a"][0].running)
        renew(pipeline, worker("a"), worker("b"), static_answer="new")
        _, after = submit(pipeline, prompt())
        go.set()
        assert (await before.done(), await after.done()) == ("old", "new")
        assert len(pools["b"][0].came) == 1


async def test_new_replicas_are_looked_at_and_old_ones_no_more(pools: Pools, monkeypatch: pytest.MonkeyPatch):
    looked: list[Replica] = []
    health = Replica.health

    async def noted(replica: Replica):
        assert not replica.closed
        looked.append(replica)
        return await health(replica)

    monkeypatch.setattr(Replica, "health", noted)
    async with pooled(worker("a", 1, health_interval_ms=10)) as (pipeline, _):
        (old,) = pools["a"]
        await until(lambda: old in looked)
        renew(pipeline, worker("a", 2, health_interval_ms=10))
        await until(lambda: {*pools["a"]} <= {*looked})
        await closed(old)
        looked.clear()
        await until(lambda: len(looked) > 4)
        assert old not in looked
