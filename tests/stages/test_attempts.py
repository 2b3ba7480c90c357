"""A call that failed before its first delta is made again, within bounds."""

import asyncio

import pytest

from pipeline.core.errors import BackendFailed, BackendStalled
from pipeline.core.outcomes import Reason
from pipeline.policy.breaker import BreakerRules
from pipeline.policy.pool import Pool, PoolRules, Result
from pipeline.policy.retry import RetryBudget
from pipeline.stages.backend import Backend, CircuitOpen, Retrying
from pipeline.stages.limits import CallLimits
from tests.flows import prompt, submit
from tests.stages.pooled import Pools, answered, failure, pooled, reason, until, worker
from workers.base import Delta, DeltaBatch, Usage
from workers.errors import WorkerErrorKind

LIMITS = CallLimits(1.0, 1.0, 1.0)
CLOSED_FOR_GOOD = BreakerRules(failures=0, rate=0.0)


async def test_a_failed_call_is_made_again_at_another_replica(pools: Pools):
    async with pooled(worker(replicas=2)) as (pipeline, _):
        for replica in pools["a"]:
            replica.script.append([failure()])
        first, sink = submit(pipeline)
        assert await sink.done() in {"a0", "a1"}
        assert [len(replica.came) for replica in pools["a"]] in ([2, 1], [1, 2])
        assert pipeline.flow.lanes["a"].pool is not None
        assert first.retries == pipeline.flow.lanes["a"].pool.retries == 2


@pytest.mark.parametrize("kind", list(WorkerErrorKind))
async def test_only_what_may_succeed_later_is_made_again(pools: Pools, kind: WorkerErrorKind):
    async with pooled(worker(replicas=2)) as (pipeline, _):
        for retryable in (False, True):
            for replica in pools["a"]:
                replica.came.clear()
                replica.usual = [failure(kind, retryable=retryable)]
            ticket, sink = submit(pipeline)
            await sink.ended()
            calls = 3 if retryable and not kind.of_request else 1
            assert sum(len(replica.came) for replica in pools["a"]) == calls
            assert ticket.retries == calls - 1


async def test_nothing_is_made_again_once_a_delta_is_out(pools: Pools):
    async with pooled(worker(replicas=2)) as (pipeline, _):
        for replica in pools["a"]:
            replica.usual = [DeltaBatch((Delta("begun"),)), failure(WorkerErrorKind.RESET)]
        ticket, sink = submit(pipeline)
        with pytest.raises(BackendFailed):
            await sink.done()
        assert (sink.text, ticket.retries) == ("begun", 0)
        assert sum(len(replica.came) for replica in pools["a"]) == 1


async def test_an_empty_answer_is_no_answer(pools: Pools):
    async with pooled(worker()) as (pipeline, _):
        pools["a"][0].script.append([DeltaBatch((), Usage(900, 900))])
        ticket, sink = submit(pipeline)
        assert await sink.done() == "a0"
        assert ticket.usage == Usage(3, 1)


async def test_what_a_failed_attempt_counted_is_not_the_answer_s(pools: Pools):
    async with pooled(worker()) as (pipeline, _):
        pools["a"][0].script += [[DeltaBatch((), Usage(900, 900)), failure()], [DeltaBatch((Delta("a"),))]]
        ticket, sink = submit(pipeline)
        assert await sink.done() == "a"
        assert (ticket.usage, ticket.retries) == (None, 1)


async def test_a_worker_that_raises_anything_else_is_not_called_again(pools: Pools):
    async with pooled(worker(replicas=2)) as (pipeline, _):
        for replica in pools["a"]:
            replica.usual = [ValueError("garbage")]
        ticket, sink = submit(pipeline)
        await sink.ended()
        assert reason(ticket) is Reason.STAGE_ERROR
        assert sum(len(replica.came) for replica in pools["a"]) == 1


async def test_what_a_backend_asks_for_is_waited_for(pools: Pools):
    async with pooled(worker()) as (pipeline, _):
        replica = pools["a"][0]
        replica.script.append([failure(WorkerErrorKind.OVERLOADED, retry_after=0.15)])
        _, sink = submit(pipeline)
        assert await sink.done() == "a0"
        assert replica.at[1] - replica.at[0] >= 0.15


async def test_a_backend_that_asks_for_too_long_is_not_asked_again(pools: Pools):
    async with pooled(worker(retry_max_ms=100)) as (pipeline, _):
        pools["a"][0].usual = [failure(WorkerErrorKind.RATE_LIMITED, retry_after=0.2)]
        ticket, sink = submit(pipeline)
        with pytest.raises(BackendFailed) as told:
            await sink.done()
        assert (told.value.retry_after, ticket.retries, len(pools["a"][0].came)) == (0.2, 0, 1)


async def test_a_replica_that_asked_to_be_left_alone_is_while_the_other_one_is_full(pools: Pools):
    async with pooled(worker(replicas=2, replica_concurrency=1, concurrency=2, affinity=False)) as (pipeline, _):
        free = asyncio.Event()
        pools["a"][0].usual = pools["a"][1].usual = [free]
        _, held = submit(pipeline, request_id="held")
        await until(lambda: pools["a"][0].running + pools["a"][1].running == 1)
        idle = pools["a"][0] if pools["a"][1].running else pools["a"][1]
        idle.usual = []
        idle.script.append([failure(WorkerErrorKind.OVERLOADED, retry_after=0.15)])
        _, sink = submit(pipeline)
        assert await sink.done() == idle.name
        assert idle.at[1] - idle.at[0] >= 0.15
        free.set()
        await held.done()


async def test_retries_are_a_share_of_the_requests(pools: Pools):
    async with pooled(worker(retries=5, retry_budget=0.1, concurrency=1)) as (pipeline, _):
        pools["a"][0].usual = [failure(WorkerErrorKind.UNREACHABLE)]  # there is no other replica to be asked instead
        for _ in range(200):
            _, sink = submit(pipeline)
            await sink.ended()
        assert 200 < len(pools["a"][0].came) <= 200 + 25 + 20


async def test_without_a_budget_nothing_is_made_again_but_what_never_reached_a_replica(pools: Pools):
    async with pooled(worker(replicas=2, retry_budget=0.0)) as (pipeline, _):
        for kind, calls in ((WorkerErrorKind.RESET, 1), (WorkerErrorKind.UNREACHABLE, 2)):
            for replica in pools["a"]:
                replica.came.clear()
                replica.usual = [failure(kind)]
            _, sink = submit(pipeline)
            await sink.ended()
            assert sum(len(replica.came) for replica in pools["a"]) == calls


async def test_no_retry_beyond_the_deadline_and_none_is_counted_that_was_not_made(pools: Pools):
    async with pooled(worker(retry_max_ms=60_000)) as (pipeline, _):
        pools["a"][0].usual = [failure(retry_after=1.0)]
        for what in (prompt(timeout=0.5), prompt(gap_limit=0.5)):
            ticket, sink = submit(pipeline, what)
            with pytest.raises(BackendFailed):
                await sink.done()
            assert ticket.retries == 0
            assert ticket.ended is not None
            assert ticket.ended - ticket.arrived < 0.4
        backend = pipeline.flow.inference.backends["a"]
        assert (backend.pool.retries, len(pools["a"][0].came)) == (0, 2)
        assert backend.budget.balance > 25.0


async def test_a_replica_that_stalls_is_at_fault_and_another_one_asked(pools: Pools):
    async with pooled(worker(replicas=2, first_delta_timeout_ms=60, breaker_failures=1)) as (pipeline, _):
        for replica in pools["a"]:
            replica.script.append([asyncio.Event()])
        ticket, sink = submit(pipeline)
        with pytest.raises(BackendFailed) as told:
            await sink.done()
        assert told.value.reason == "backend_timeout"
        assert ticket.retries == 1  # both circuits are open now: there is nobody to be asked
        replicas = pipeline.flow.inference.backends["a"].pool.replicas
        assert [replica.failures for replica in replicas] == [1, 1]


async def test_a_stall_is_told_as_what_it_was(pools: Pools):
    async with pooled(worker(retries=0, first_delta_timeout_ms=40)) as (pipeline, _):
        pools["a"][0].usual = [asyncio.Event()]
        ticket, sink = submit(pipeline)
        with pytest.raises(BackendFailed) as told:
            await sink.done()
        assert "no first delta within 0.04 s" in told.value.message
        assert reason(ticket) is Reason.BACKEND_TIMEOUT


async def test_a_caller_in_a_hurry_is_no_fault_of_the_replica(pools: Pools):
    async with pooled(worker(breaker_failures=1)) as (pipeline, _):
        pools["a"][0].usual = [asyncio.Event()]
        for what in (prompt(timeout=0.05), prompt(gap_limit=0.05)):
            ticket, sink = submit(pipeline, what)
            await sink.ended()
            assert ticket.retries == 0
        leaves, _ = submit(pipeline)
        await until(lambda: pools["a"][0].running)
        pipeline.ingress.cancel(leaves, Reason.CLIENT_GONE)
        await until(lambda: not pools["a"][0].running)
        assert pipeline.flow.inference.backends["a"].pool.replicas[0].failures == 0


async def test_who_gives_up_after_a_stall_leaves_the_replica_with_the_fault(pools: Pools):
    async with pooled(worker(gap_timeout_ms=30, breaker_failures=1, breaker_open_ms=10_000)) as (pipeline, _):
        pools["a"][0].usual = [DeltaBatch((Delta("a"),)), asyncio.Event()]
        _, sink = submit(pipeline)
        with pytest.raises(BackendStalled):
            await sink.done()
        await until(lambda: not pools["a"][0].running)
        assert pipeline.flow.inference.backends["a"].pool.wait(asyncio.get_running_loop().time()) > 0.0


async def test_the_limit_of_a_whole_call_is_not_one_of_its_pauses(pools: Pools):
    async with pooled(worker(total_timeout_ms=50)) as (pipeline, _):
        pools["a"][0].script.append([failure(retry_after=0.15)])
        ticket, sink = submit(pipeline)
        assert await sink.done() == "a0"
        assert ticket.retries == 1


async def test_who_ends_while_a_call_pauses_holds_nothing(pools: Pools):
    async with pooled(worker(retry_max_ms=60_000)) as (pipeline, _):
        pools["a"][0].script.append([failure(retry_after=30.0)])
        ticket, sink = submit(pipeline)
        await until(lambda: ticket.retries)
        pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
        await sink.ended()
        assert len(pools["a"][0].came) == 1


async def test_a_worker_that_makes_an_error_of_being_stopped_is_not_called_for_nobody(pools: Pools):
    async def stubborn() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise failure(WorkerErrorKind.RESET) from None

    async with pooled(worker("a", replicas=2), worker("b"), fallback=["b"]) as (pipeline, _):
        for replica in pools["a"]:
            replica.usual = [stubborn]
        ticket, _ = submit(pipeline)
        await until(lambda: sum(replica.running for replica in pools["a"]))
        pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
        await until(lambda: not pipeline.flow.lanes["a"].inflight)
        assert sum(len(replica.came) for replica in pools["a"]) == 1
        assert not pools["b"][0].came


async def test_a_stalled_call_that_ends_in_an_error_of_the_worker_s_can_stall_again(pools: Pools):
    async def stubborn() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise failure(WorkerErrorKind.RESET) from None

    async with pooled(worker(first_delta_timeout_ms=40)) as (pipeline, _):
        pools["a"][0].script += [[stubborn], [asyncio.Event()]]
        ticket, sink = submit(pipeline)
        assert await sink.done() == "a0"
        assert ticket.retries == 2


# A backend by itself.


def backend(replicas: int = 1, *, share: float = 1.0, bound: int | None = 1) -> Backend:
    pool = Pool([str(number) for number in range(replicas)], PoolRules(False, bound, 0.0, CLOSED_FOR_GOOD))
    made = Backend([], pool, LIMITS, 8, retrying=Retrying(3, 0.1, 1.0))
    made.budget = RetryBudget(share)
    return made


async def test_who_waits_for_a_replica_and_leaves_passes_the_turn_on():
    full, clock = backend(), asyncio.get_running_loop().time
    booked = await full.place(None, (), clock)
    one, other = (asyncio.create_task(full.place(None, (), clock)) for _ in range(2))
    await until(lambda: len(full.waiting) == 2)
    full.ended(booked, clock(), Result.OK)  # the first is woken
    one.cancel()
    attempt = await asyncio.wait_for(other, 1)
    assert one.cancelled()
    full.ended(attempt, clock(), Result.OK)
    assert not full.waiting
    assert full.pool.replicas[0].inflight == 0


async def test_who_waits_for_a_replica_is_told_when_the_circuit_opens():
    full, clock = backend(), asyncio.get_running_loop().time
    full.pool.renew(["0"], PoolRules(False, 1, 0.0, BreakerRules(failures=1, open_s=9.0)))
    full.pool.on_change = full.changed
    booked = await full.place(None, (), clock)
    waiting = [asyncio.create_task(full.place(None, (), clock)) for _ in range(3)]
    await until(lambda: len(full.waiting) == 3)
    full.ended(booked, clock(), Result.FAULT)
    for told in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(told, CircuitOpen)
        assert told.retry_after == pytest.approx(9.0, abs=0.5)
    assert not full.waiting


def test_pauses_are_drawn_from_all_of_a_growing_span():
    one = backend(1, share=1.0)
    replica = one.pool.replicas[0]
    spans = [one.again(failure(), [replica] * made, 0.5, 0.0, 100.0) for made in (1, 2, 3, 4)]
    assert spans == [0.05, 0.1, 0.2, None]
    assert one.again(failure(), [replica], 0.5, 0.0, 0.05) is None
    assert one.again(failure(), [replica], 0.0, 0.0, 0.05) == 0.0
    assert one.again(failure(retry_after=1.0), [replica], 0.5, 0.0, 100.0) == 1.0
    assert one.again(failure(retry_after=1.01), [replica], 0.5, 0.0, 100.0) is None


def test_another_replica_is_asked_at_once_whatever_the_first_one_asked_for():
    two = backend(2, bound=None)
    assert two.again(failure(retry_after=99.0), two.pool.replicas[:1], 0.9, 0.0, 100.0) == 0.0
    two.pool.replicas[1].held_until = 5.0
    assert two.again(failure(retry_after=99.0), two.pool.replicas[:1], 0.9, 0.0, 100.0) is None


def test_a_replaced_backend_knows_who_takes_its_place():
    first = backend()
    second = Backend([], first.pool, LIMITS, 8, before=first)
    third = Backend([], first.pool, LIMITS, 8, before=second)
    assert first.current is second.current is third.current is third
    assert third.budget is first.budget
    assert third.waiting is first.waiting


async def test_what_arrives_after_a_retry_is_the_answer_alone(pools: Pools):
    async with pooled(worker(replicas=2)) as (pipeline, books):
        for replica in pools["a"]:
            replica.usual = [answered("x" * 10)]
        pools["a"][0].script.append([failure()])
        pools["a"][1].script.append([failure()])
        for stream in (True, False):
            _, sink = submit(pipeline, prompt(stream=stream))
            assert await sink.done() == "x" * 10
        assert books.deltas == 2
