"""While no replica of a worker may be called, its requests are answered at once."""

import asyncio

import pytest

from pipeline.adapters.sinks.memory import MemorySink
from pipeline.core.access import ANONYMOUS
from pipeline.core.errors import BackendFailed, Overloaded
from pipeline.core.outcomes import Priority, Reason
from pipeline.policy.pool import Result
from pipeline.wiring import Pipeline
from tests.flows import prompt, submit
from tests.stages.pooled import Pools, failure, pooled, reason, until, worker
from workers.errors import WorkerErrorKind

DOWN = failure(WorkerErrorKind.UNREACHABLE, retryable=False)


def breaking(name: str = "a", replicas: int = 1, **keys: object) -> dict[str, object]:
    return worker(name, replicas, **{"breaker_failures": 1, "breaker_open_ms": 30_000, **keys})


async def opened(pipeline: Pipeline, pools: Pools, name: str = "a") -> None:
    """Its replicas fail until none may be called."""
    for replica in pools[name]:
        replica.usual = [DOWN]
    for _ in pools[name]:
        _, sink = submit(pipeline)
        await sink.ended()
    assert pipeline.flow.lanes[name].reopens(asyncio.get_running_loop().time()) > 29.0


async def refused(sink: MemorySink) -> Overloaded:
    with pytest.raises(Overloaded) as told:
        await sink.done()
    return told.value


async def test_an_open_circuit_is_told_at_once_with_the_time_of_the_probe(pools: Pools):
    async with pooled(breaking(replicas=2)) as (pipeline, _):
        await opened(pipeline, pools)
        ticket, sink = submit(pipeline)
        error = await refused(sink)
        assert (error.status, error.reason, error.place) == (503, Reason.CIRCUIT_OPEN, "ingress")
        assert error.retry_after is not None
        assert 29.0 < error.retry_after < 38.0
        assert reason(ticket) is Reason.CIRCUIT_OPEN
        assert sum(len(replica.came) for replica in pools["a"]) == 2


async def test_the_head_gate_says_the_same_before_a_body_is_read(pools: Pools):
    async with pooled(breaking()) as (pipeline, _):

        def gate(route: str | None) -> Overloaded | None:
            return pipeline.ingress.gate(route, Priority.NORMAL, None, ANONYMOUS)

        assert gate("echo") is None
        await opened(pipeline, pools)
        for route in ("echo", None):
            error = gate(route)
            assert error is not None
            assert error.reason is Reason.CIRCUIT_OPEN
            assert error.retry_after is not None
            assert error.retry_after > 29.0
        assert gate("unknown") is None


@pytest.mark.parametrize("more", [{"fallback": ["b"]}, {"static_answer": "Try later."}])
async def test_the_gate_lets_in_who_can_be_answered_otherwise(pools: Pools, more: dict[str, object]):
    async with pooled(breaking(), worker("b"), **more) as (pipeline, _):
        await opened(pipeline, pools)
        before = len(pools["a"][0].came)
        assert pipeline.ingress.gate("echo", Priority.NORMAL, None, ANONYMOUS) is None
        ticket, sink = submit(pipeline)
        assert await sink.done() == ("b0" if "fallback" in more else "Try later.")
        assert len(pools["a"][0].came) == before
        if "fallback" in more:
            assert ticket.worker == "b"
            assert pipeline.flow.inference.backends["b"].pool.fallbacks == 2  # the one that opened it, too


async def test_where_all_fallbacks_are_open_too_the_first_probe_is_told(pools: Pools):
    async with pooled(breaking(), breaking("b", breaker_open_ms=10_000), fallback=["b"]) as (pipeline, _):
        pools["a"][0].usual = pools["b"][0].usual = [DOWN]
        _, sink = submit(pipeline)
        with pytest.raises(BackendFailed):
            await sink.done()
        _, sink = submit(pipeline)
        error = await refused(sink)
        assert error.retry_after is not None
        assert 9.0 < error.retry_after < 12.6


async def test_what_waits_is_told_when_the_circuit_opens(pools: Pools):
    async with pooled(breaking(concurrency=1)) as (pipeline, _):
        break_down = asyncio.Event()
        pools["a"][0].usual = [break_down, DOWN]
        asked = [submit(pipeline) for _ in range(6)]
        await until(lambda: sum(pipeline.flow.lanes["a"].waiting) == 5)
        break_down.set()
        await asyncio.wait_for(asyncio.wait([asyncio.ensure_future(sink.ended()) for _, sink in asked]), 1)
        assert [reason(ticket) for ticket, _ in asked] == [Reason.BACKEND_UNREACHABLE] + [Reason.CIRCUIT_OPEN] * 5
        assert len(pools["a"][0].came) == 1


async def test_what_waits_goes_to_the_fallback_when_the_circuit_opens(pools: Pools):
    async with pooled(breaking(concurrency=1), worker("b"), fallback=["b"]) as (pipeline, _):
        break_down = asyncio.Event()
        pools["a"][0].usual = [break_down, DOWN]
        asked = [submit(pipeline) for _ in range(6)]
        await until(lambda: sum(pipeline.flow.lanes["a"].waiting) == 5)
        break_down.set()
        assert [await sink.done() for _, sink in asked] == ["b0"] * 6
        assert len(pools["a"][0].came) == 1


async def test_one_call_probes_and_closes_it(pools: Pools):
    async with pooled(breaking(breaker_open_ms=50)) as (pipeline, _):
        pools["a"][0].usual = [DOWN]
        _, sink = submit(pipeline)
        await sink.ended()
        pool = pipeline.flow.inference.backends["a"].pool
        await until(lambda: pool.wait(asyncio.get_running_loop().time()) == 0.0)
        answer = asyncio.Event()
        pools["a"][0].usual = [answer]
        _, probe = submit(pipeline)
        others = [submit(pipeline)[1] for _ in range(5)]
        assert {(await refused(sink)).reason for sink in others} == {Reason.CIRCUIT_OPEN}
        assert len(pools["a"][0].came) == 2
        answer.set()
        assert await probe.done() == "a0"
        _, sink = submit(pipeline)
        assert await sink.done() == "a0"


async def test_a_probe_whose_caller_leaves_is_made_by_the_next(pools: Pools):
    async with pooled(breaking(breaker_open_ms=50)) as (pipeline, _):
        pools["a"][0].usual = [DOWN]
        _, sink = submit(pipeline)
        await sink.ended()
        pool = pipeline.flow.inference.backends["a"].pool
        await until(lambda: pool.wait(asyncio.get_running_loop().time()) == 0.0)
        pools["a"][0].usual = []
        pools["a"][0].script.append([asyncio.Event()])
        probe, _ = submit(pipeline, prompt())
        await until(lambda: pools["a"][0].running)
        pipeline.ingress.cancel(probe, Reason.CLIENT_GONE)
        await until(lambda: not pools["a"][0].running)
        _, sink = submit(pipeline)
        assert await sink.done() == "a0"


async def test_fifty_requests_to_a_backend_that_fails_from_the_eighth_on(pools: Pools):
    """It opens with the fifth failure in a row; not one more call until the probe."""
    async with pooled(breaking(breaker_failures=5, retries=0)) as (pipeline, _):
        replica = pools["a"][0]
        replica.script += [[] for _ in range(7)] + [[DOWN] for _ in range(19)]
        reasons = []
        for _ in range(50):
            ticket, sink = submit(pipeline)
            await sink.ended()
            reasons.append(reason(ticket))
        assert reasons == [Reason.DONE] * 7 + [Reason.BACKEND_UNREACHABLE] * 5 + [Reason.CIRCUIT_OPEN] * 38
        assert len(replica.came) == 12


async def test_who_waits_for_a_full_replica_gets_the_one_that_time_brings_back(pools: Pools):
    clock = asyncio.get_running_loop().time
    async with pooled(breaking(replicas=2, replica_concurrency=1, breaker_open_ms=60)) as (pipeline, _):
        backend = pipeline.flow.inference.backends["a"]
        one, other = [await backend.place(None, (), clock) for _ in range(2)]
        waits = asyncio.create_task(backend.place(None, (), clock))
        await until(lambda: backend.waiting)
        backend.ended(one, clock(), Result.FAULT)
        await until(lambda: backend.waiting)  # again: the circuit of that one is open, and the other one full
        probe = await asyncio.wait_for(waits, 2)
        assert probe.replica is one.replica
        for attempt in (other, probe):
            backend.ended(attempt, clock(), Result.OK)
