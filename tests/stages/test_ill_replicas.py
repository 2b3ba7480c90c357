"""One replica that refuses, hangs or says nothing any more, among others that are well."""

import asyncio
import time
from collections import Counter

import pytest

from pipeline.core.errors import BackendFailed, BackendRefused
from pipeline.core.outcomes import Reason
from pipeline.policy.breaker import BreakerState
from pipeline.wiring import Pipeline
from tests.flows import prompt, submit
from tests.stages.pooled import Pools, Step, answered, failure, pooled, reason, until, worker
from workers.errors import WorkerError, WorkerErrorKind

BUSY = failure(WorkerErrorKind.OVERLOADED, status=503)
MISSING = failure(WorkerErrorKind.BAD_REQUEST, retryable=False, status=404)
WRONG = failure(WorkerErrorKind.BAD_REQUEST, retryable=False, status=400)


async def brief() -> None:
    await asyncio.sleep(0.005)


async def closed_loop(pipeline: Pipeline, requests: int, callers: int = 8) -> Counter[str]:
    """How their requests end."""
    ends: Counter[str] = Counter()

    async def caller() -> None:
        while ends.total() < requests:
            ticket, sink = submit(pipeline)
            await sink.ended()
            ends[reason(ticket)] += 1

    await asyncio.gather(*(caller() for _ in range(callers)))
    return ends


@pytest.mark.parametrize("error", [BUSY, MISSING], ids=["503", "404"])
async def test_a_replica_that_refuses_at_once_costs_no_request(pools: Pools, error: WorkerError):
    async with pooled(worker(replicas=3, concurrency="adaptive", affinity=False)) as (pipeline, _):
        pools["a"][2].usual = [error]
        for replica in pools["a"][:2]:
            replica.usual = [brief]
        ends = await closed_loop(pipeline, 300)
        assert set(ends) == {"done"}
        assert len(pools["a"][2].came) < 20
        assert pipeline.flow.lanes["a"].limit >= 8


async def test_a_push_back_of_all_replicas_or_of_the_only_one_is_the_worker_s(pools: Pools):
    async with pooled(worker("a", 2, concurrency="adaptive"), worker("b", concurrency="adaptive")) as (pipeline, _):
        lanes = pipeline.flow.lanes
        for name in "ab":
            for replica in pools[name]:
                replica.usual = [BUSY]
        before = lanes["a"].limit
        pools["a"][0].usual = []
        for _ in range(4):
            _, sink = submit(pipeline)
            await sink.ended()
        assert (lanes["a"].limit, lanes["a"].pushed_back >= 1) == (before, True)
        pools["a"][0].usual = [BUSY]
        _, sink = submit(pipeline)
        await sink.ended()
        assert lanes["a"].limit < before


async def test_what_one_replica_does_not_have_is_asked_once_elsewhere(pools: Pools):
    async with pooled(worker(replicas=3, affinity=False)) as (pipeline, _):
        for replica in pools["a"]:
            replica.usual = [MISSING]
        ticket, sink = submit(pipeline)
        with pytest.raises(BackendRefused):
            await sink.done()
        assert (ticket.retries, sum(len(replica.came) for replica in pools["a"])) == (1, 2)
        for replica in pools["a"]:
            replica.usual = [WRONG]
        ticket, _ = submit(pipeline)
        await until(lambda: ticket.ending)
        assert ticket.retries == 0


@pytest.mark.parametrize("keys", [{"retries": 0}, {"retry_budget": 0.0}, {"replicas": 1}])
async def test_it_is_not_where_nothing_may_be_made_again(pools: Pools, keys: dict[str, object]):
    async with pooled(worker(**{"replicas": 2, **keys})) as (pipeline, _):
        for replica in pools["a"]:
            replica.usual = [MISSING]
        ticket, sink = submit(pipeline)
        await sink.ended()
        assert (reason(ticket), ticket.retries) == (Reason.BACKEND_REFUSED, 0)


# Callers who leave.


async def leave(pipeline: Pipeline, pools: Pools, waited: float) -> None:
    ticket, _ = submit(pipeline, prompt(session_id="s"))
    await until(lambda: any(replica.running for replica in pools["a"]))
    await asyncio.sleep(waited)
    pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
    await until(lambda: not any(replica.running for replica in pools["a"]))


async def usual(pipeline: Pipeline, number: int = 20) -> None:
    for _ in range(number):
        _, sink = submit(pipeline)
        await sink.done()


@pytest.mark.slow
async def test_a_replica_that_hangs_is_noticed_though_nobody_waits_for_long(pools: Pools):
    breaker = {"breaker_failures": 2, "breaker_open_ms": 20_000}
    async with pooled(worker(replicas=1, **breaker)) as (pipeline, _):
        await usual(pipeline)
        pools["a"][0].usual = [asyncio.Event()]
        await leave(pipeline, pools, 0.55)
        replica = pipeline.flow.inference.backends["a"].pool.replicas[0]
        assert replica.breaker.state is BreakerState.CLOSED
        await leave(pipeline, pools, 0.55)
        assert replica.breaker.state is BreakerState.OPEN


async def test_hasty_callers_leave_a_replica_as_it_is(pools: Pools):
    async with pooled(worker(breaker_failures=2)) as (pipeline, _):
        await usual(pipeline)
        pools["a"][0].usual = [asyncio.Event()]
        for _ in range(10):
            await leave(pipeline, pools, 0.02)
        replica = pipeline.flow.inference.backends["a"].pool.replicas[0]
        assert (replica.breaker.state, replica.left) == (BreakerState.CLOSED, 0)


@pytest.mark.slow
async def test_a_slow_model_whose_callers_leave_is_as_slow_as_ever(pools: Pools):
    """A prefill of 0.6 s: whoever leaves before has seen nothing unusual, nor with a longer prompt a little after."""

    async def slow() -> None:
        await asyncio.sleep(0.6)

    async with pooled(worker(breaker_failures=2)) as (pipeline, _):
        pools["a"][0].usual = [slow]
        await usual(pipeline, 1)
        pools["a"][0].usual = [asyncio.Event()]
        for _ in range(3):
            await leave(pipeline, pools, 0.52)
        replica = pipeline.flow.inference.backends["a"].pool.replicas[0]
        assert (replica.breaker.state, replica.left) == (BreakerState.CLOSED, 0)


# Replicas that say nothing.


async def test_what_a_silent_replica_was_asked_is_asked_elsewhere(pools: Pools):
    async with pooled(worker(replicas=2, concurrency="adaptive", affinity=False)) as (pipeline, _):
        await usual(pipeline)
        backend = pipeline.flow.inference.backends["a"]
        free = asyncio.Event()
        pools["a"][0].usual, pools["a"][1].usual = [free], [asyncio.Event()]
        limit = pipeline.flow.lanes["a"].limit
        asked = [submit(pipeline) for _ in range(8)]
        await until(lambda: pools["a"][1].running + pools["a"][0].running == 8)
        hung = pools["a"][1].running
        backend.pool.looked(1, ok=True, now=time.monotonic())
        backend.pool.looked(1, ok=False, now=time.monotonic())
        free.set()
        await until(lambda: pools["a"][0].running == 0)
        assert pools["a"][1].running == hung > 0
        backend.pool.looked(1, ok=False, now=time.monotonic())
        assert [await sink.done() for _, sink in asked] == ["a0"] * 8
        assert sum(ticket.retries for ticket, _ in asked) == hung
        assert pipeline.flow.lanes["a"].limit >= limit
        await usual(pipeline, 5)


@pytest.mark.slow
@pytest.mark.parametrize("limit", [6, "adaptive"])
async def test_a_replica_that_hangs_does_not_keep_all_places_of_the_worker(pools: Pools, limit: int | str):
    """Nobody looks at it, and no caller leaves."""
    async with pooled(worker(replicas=2, concurrency=limit, affinity=False)) as (pipeline, _):
        pools["a"][0].usual = pools["a"][1].usual = [brief]
        await closed_loop(pipeline, 60, 4)
        pools["a"][1].usual = [asyncio.Event()]
        pool = pipeline.flow.inference.backends["a"].pool
        hung = pipeline.flow.lanes["a"].limit
        pool.replicas[0].held_until = time.monotonic() + 0.2  # so that the other one gets them all
        later = [submit(pipeline)[1] for _ in range(hung)]
        await until(lambda: pools["a"][1].running == hung)
        pool.replicas[0].answered_at = time.monotonic()
        async with asyncio.timeout(4):
            assert {await sink.done() for sink in later} == {"a0"}
        assert pipeline.flow.lanes["a"].limit >= hung / 2


async def test_only_what_can_be_made_again_is_broken_off(pools: Pools):
    async with pooled(worker("a", 2, affinity=False, retry_budget=0.02, concurrency=64)) as (pipeline, _):
        free = asyncio.Event()
        for replica in pools["a"]:
            replica.usual = [free]
        asked = [submit(pipeline)[1] for _ in range(60)]
        await until(lambda: pools["a"][1].running == 30)
        backend = pipeline.flow.inference.backends["a"]
        for _ in range(2):
            backend.pool.looked(1, ok=False, now=time.monotonic())
        await until(lambda: pools["a"][0].running > 54)
        assert pools["a"][1].running == 4  # 25, and one that the sixty requests have brought
        assert backend.budget.balance < 1.0
        free.set()
        for sink in asked:
            await sink.done()


async def test_calls_stay_where_they_are_while_there_is_no_other_replica(pools: Pools):
    async with pooled(worker("a", 1), worker("b", 2, retries=0)) as (pipeline, _):
        free = asyncio.Event()
        for name in "ab":
            for replica in pools[name]:
                replica.usual = [free]
        _, sink = submit(pipeline)
        await until(lambda: pools["a"][0].running)
        for _ in range(3):
            pipeline.flow.inference.backends["a"].pool.looked(0, ok=False, now=time.monotonic())
        await asyncio.sleep(0)
        assert pools["a"][0].running == 1
        free.set()
        assert await sink.done() == "a0"


# Workers that would not be stopped.


def stubborn(free: asyncio.Event) -> Step:
    async def waits() -> None:
        while not free.is_set():
            try:
                await free.wait()
            except asyncio.CancelledError:
                continue

    return waits


async def test_a_worker_that_catches_its_cancellation_keeps_its_place_and_not_its_request(pools: Pools):
    async with pooled(worker(concurrency=2, first_delta_timeout_ms=50)) as (pipeline, _):
        free = asyncio.Event()
        pools["a"][0].script.append([stubborn(free), answered("too late")])
        ticket, sink = submit(pipeline)
        async with asyncio.timeout(3):
            with pytest.raises(BackendFailed, match=r"no first delta within 0\.05 s"):
                await sink.done()
        assert reason(ticket) is Reason.BACKEND_TIMEOUT
        assert pipeline.flow.lanes["a"].inflight == 1
        _, other = submit(pipeline)
        assert await other.done() == "a0"
        free.set()
        await until(lambda: not pipeline.flow.lanes["a"].inflight)
        assert ticket.first_delta is None
