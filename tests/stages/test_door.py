"""The door in front of the real stages: who gets in, in whose place, with how much, and what the others are told."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from pipeline.adapters.sinks.memory import MemorySink
from pipeline.core.access import Caller
from pipeline.core.errors import Forbidden, Overloaded, RateLimited
from pipeline.core.outcomes import Outcome, Place, Priority, Reason
from pipeline.core.ticket import Ticket
from pipeline.policy.limits import KeyQuota, OwnPlaces, TokenBucket, per_minute
from pipeline.wiring import Pipeline
from tests.flows import config, prompt, running, submit
from workers.base import Delta, DeltaBatch, GenerationRequest, Health, Parameters, Usage
from workers.errors import WorkerError, WorkerErrorKind


class Held:
    """Answers one request for every permit that the test gives; notes the order in which requests came."""

    def __init__(self, *failures: Exception) -> None:
        self.permits = asyncio.Semaphore(0)
        self.came: list[str] = []
        self.requests: list[GenerationRequest] = []
        self.failures = list(failures)

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        self.came.append(request.request_id)
        self.requests.append(request)
        await self.permits.acquire()
        if self.failures:
            raise self.failures.pop(0)
        yield DeltaBatch((Delta("a", finish_reason="stop"),), Usage(3, 1))

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        pass

    def let_all_go(self) -> None:
        for _ in range(10_000):
            self.permits.release()

    async def until(self, calls: int) -> None:
        async with asyncio.timeout(5):
            while len(self.came) < calls:
                await asyncio.sleep(0)


def ask(pipeline: Pipeline, name: str, *, caller: Caller | None = None, priority=Priority.NORMAL, **fields: Any):
    sink = MemorySink()
    ticket = pipeline.ingress.open(name)
    ticket.caller = caller
    ticket.priority = priority
    pipeline.ingress.submit(ticket, prompt(**fields), sink)
    return ticket, sink


def quota_of(requests: int | None, tokens: int | None, at_once: int | None) -> KeyQuota:
    """So many a minute, and so many at once."""
    buckets = [None if limit is None else TokenBucket(*per_minute(limit), 0.0) for limit in (requests, tokens)]
    return KeyQuota(*buckets, None if at_once is None else OwnPlaces(at_once))


def pace(pipeline: Pipeline, hold: float, worker: str = "echo") -> None:
    """The worker is known to take so long."""
    for _ in range(30):
        pipeline.flow.lanes[worker].typical.ended(hold, hold, 1, 0.0, 1)


def ended(ticket: Ticket) -> tuple[Outcome, Reason, Place]:
    assert ticket.ending is not None
    return ticket.ending.outcome, ticket.ending.reason, ticket.ending.place


ONE = {"stages": {"inference": {"concurrency": 1}}}


async def test_who_would_wait_too_long_is_told_at_once_when_to_come_back():
    worker = Held()
    async with running(config(**ONE, admission={"wait_budget_ms": 350}), workers={"echo": worker}) as (pipeline, _):
        pace(pipeline, 0.1)
        asked = [ask(pipeline, f"r{n}") for n in range(6)]  # one runs, three wait, two would wait 400 ms
        assert [t.ending is None for t, _ in asked] == [True] * 4 + [False] * 2
        assert ended(asked[5][0]) == (Outcome.SHED, Reason.WAIT_BUDGET, Place.INGRESS)
        with pytest.raises(Overloaded) as told:
            await asked[5][1].done()
        assert told.value.retry_after is not None
        assert 1.0 <= told.value.retry_after <= 60.0
        worker.let_all_go()
        assert [await sink.done() for _, sink in asked[:4]] == ["a"] * 4


async def test_who_could_not_be_served_before_the_deadline_is_told_so():
    worker = Held()
    async with running(config(**ONE, admission={"wait_budget_ms": 60_000}), workers={"echo": worker}) as (pipeline, _):
        pace(pipeline, 1.0)
        first, second = ask(pipeline, "first"), ask(pipeline, "second", timeout=1.5)
        third = ask(pipeline, "third", timeout=10.0)
        assert ended(second[0]) == (Outcome.SHED, Reason.TOO_LATE, Place.INGRESS)
        worker.let_all_go()
        assert [await sink.done() for _, sink in (first, third)] == ["a", "a"]


async def test_sessions_take_turns_and_higher_classes_go_first():
    worker = Held()
    async with running(config(**ONE), workers={"echo": worker}) as (pipeline, _):
        asked = [ask(pipeline, "running", session_id="a")]
        await worker.until(1)
        asked += [ask(pipeline, f"a{n}", session_id="a") for n in range(3)]
        asked += [ask(pipeline, "b0", session_id="b")]
        asked += [ask(pipeline, "urgent", priority=Priority.CRITICAL)]
        worker.let_all_go()
        for _, sink in asked:
            await sink.done()
        assert worker.came == ["running", "urgent", "a0", "b0", "a1", "a2"]


async def test_in_order_of_arrival_where_that_is_asked_for():
    worker = Held()
    async with running(config(**ONE, admission={"fair": False}), workers={"echo": worker}) as (pipeline, _):
        asked = [ask(pipeline, f"a{n}", session_id="a") for n in range(3)]
        asked += [ask(pipeline, "urgent", priority=Priority.CRITICAL, session_id="b")]
        worker.let_all_go()
        for _, sink in asked:
            await sink.done()
        assert worker.came == ["a0", "a1", "a2", "urgent"]


async def test_a_session_that_has_most_gives_its_newest_place_to_one_that_has_none():
    worker = Held()
    async with running(config(**ONE, admission={"wait_budget_ms": 350}), workers={"echo": worker}) as (pipeline, _):
        pace(pipeline, 0.1)
        heavy = [ask(pipeline, f"h{n}", session_id="heavy") for n in range(4)]
        await worker.until(1)
        light = ask(pipeline, "light", session_id="light")
        assert light[0].ending is None
        assert ended(heavy[3][0]) == (Outcome.SHED, Reason.DISPLACED, Place.INFERENCE)
        again = ask(pipeline, "again", session_id="heavy")
        assert ended(again[0]) == (Outcome.SHED, Reason.WAIT_BUDGET, Place.INGRESS)
        worker.let_all_go()
        for _, sink in (*heavy[:3], light):
            await sink.done()
        assert worker.came[:2] == ["h0", "h1"]
        assert sorted(worker.came) == ["h0", "h1", "h2", "light"]


async def test_a_slow_worker_keeps_nobody_else_waiting():
    slow, quick = Held(), Held()
    quick.let_all_go()
    sections = {
        "workers": [{"name": "slow", "kind": "echo", "concurrency": 1}, {"name": "quick", "kind": "echo"}],
        "routes": [{"name": "slow", "worker": "slow"}, {"name": "quick", "worker": "quick"}],
    }
    async with running(config(**sections), workers={"slow": slow, "quick": quick}) as (pipeline, _):
        stuck = [ask(pipeline, f"s{n}", model="slow") for n in range(5)]
        await slow.until(1)
        for n in range(20):
            assert await ask(pipeline, f"q{n}", model="quick")[1].done() == "a"
        assert len(slow.came) == 1
        slow.let_all_go()
        for _, sink in stuck:
            await sink.done()


async def test_calls_that_give_no_first_delta_leave_other_workers_their_places_ahead():
    stuck, quick = Held(), Held()
    quick.let_all_go()
    sections = {
        "stages": {"stream": {"capacity": 8}},
        "workers": [
            {"name": "stuck", "kind": "echo", "concurrency": 100},
            {"name": "quick", "kind": "echo", "concurrency": 100},
        ],
        "routes": [{"name": "stuck", "worker": "stuck"}, {"name": "quick", "worker": "quick"}],
    }
    async with running(config(**sections), workers={"stuck": stuck, "quick": quick}) as (pipeline, _):
        asked = [ask(pipeline, f"s{n}", model="stuck") for n in range(20)]
        await stuck.until(6)
        for n in range(10):
            assert await ask(pipeline, f"q{n}", model="quick")[1].done() == "a"
        assert len(stuck.came) == 6  # of eight; two are the other's
        stuck.let_all_go()
        for _, sink in asked:
            await sink.done()


async def test_requests_that_wait_for_one_worker_leave_another_s_places_in_the_queue():
    stuck, quick = Held(), Held()
    quick.let_all_go()
    sections = {
        "stages": {"inference": {"capacity": 8}},
        "admission": {"wait_budget_ms": "off"},
        "workers": [{"name": "stuck", "kind": "echo", "concurrency": 1}, {"name": "quick", "kind": "echo"}],
        "routes": [{"name": "stuck", "worker": "stuck"}, {"name": "quick", "worker": "quick"}],
    }
    async with running(config(**sections), workers={"stuck": stuck, "quick": quick}) as (pipeline, _):
        asked = [ask(pipeline, "s", model="stuck")]
        await stuck.until(1)
        asked += [ask(pipeline, f"s{n}", model="stuck") for n in range(20)]
        shed = [t for t, _ in asked if t.ending is not None]
        assert len(shed) == 14
        assert {ended(t)[1] for t in shed} == {Reason.QUEUE_FULL}
        assert await ask(pipeline, "q", model="quick")[1].done() == "a"
        stuck.let_all_go()
        for ticket, sink in asked:
            if ticket not in shed:
                await sink.done()


async def test_a_backend_that_claims_absurd_counts_locks_nobody_out():
    class Boasting(Held):
        async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
            yield DeltaBatch((Delta("a", finish_reason="stop"),), Usage(10**400, -5))

    quota = quota_of(None, 60_000, None)
    async with running(config(), workers={"echo": Boasting()}) as (pipeline, books):
        caller = Caller("k", quota=quota)
        await ask(pipeline, "r", caller=caller, parameters=Parameters(max_tokens=10))[1].done()
        assert books.ended[0].usage == Usage(10_000_000, 0)
        later = pipeline.ingress._clock() + 20
        quota.admit(100, later)
        quota.settle(100, None, later)


async def test_a_failed_call_gives_the_worker_s_quota_back():
    worker = Held(WorkerError(WorkerErrorKind.RESET, "gone"))
    worker.let_all_go()
    workers = [{"name": "echo", "kind": "echo", "tokens_per_minute": 6000, "context_tokens": 100_000}]
    async with running(config(workers=workers), workers={"echo": worker}) as (pipeline, _):
        with pytest.raises(Exception, match="The backend failed"):
            await ask(pipeline, "r0", parameters=Parameters(max_tokens=30_000))[1].done()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert pipeline.flow.lanes["echo"].blocked(pipeline.ingress._clock()) == 0.0
        assert await ask(pipeline, "r1", parameters=Parameters(max_tokens=10))[1].done() == "a"


async def test_who_has_waited_longer_than_the_budget_is_told():
    worker = Held()
    async with running(config(**ONE, admission={"wait_budget_ms": 50}), workers={"echo": worker}) as (pipeline, _):
        asked = [ask(pipeline, f"r{n}") for n in range(3)]  # nothing is known yet of the worker's pace
        with pytest.raises(Overloaded):
            await asked[2][1].done()
        assert ended(asked[2][0]) == (Outcome.SHED, Reason.OVERDUE, Place.INFERENCE)
        worker.let_all_go()
        await asked[0][1].done()


async def test_a_quota_going_out_is_kept():
    worker = Held()
    worker.let_all_go()
    workers = [{"name": "echo", "kind": "echo", "requests_per_minute": 600}]  # ten a second; the first hundred at once
    async with running(config(workers=workers, admission={"wait_budget_ms": 150}), workers={"echo": worker}) as (
        pipeline,
        _,
    ):
        lane = pipeline.flow.lanes["echo"]
        asked = [ask(pipeline, f"r{n}") for n in range(99)]
        for _, sink in asked:
            await sink.done()
        more = [ask(pipeline, f"m{n}") for n in range(5)]
        refused = [t for t, _ in more if t.ending is not None]
        assert 2 <= len(refused) <= 3  # one at once, one or two within the budget
        await asyncio.gather(*(sink.done() for t, sink in more if t not in refused))
        assert lane.blocked(pipeline.ingress._clock()) > 0.0


async def test_an_answer_of_429_or_503_is_counted_and_told_to_the_limit():
    failures = [
        WorkerError(WorkerErrorKind.RATE_LIMITED, "slow down", status=429, retry_after=7.0),
        WorkerError(WorkerErrorKind.OVERLOADED, "overloaded", status=503),
        WorkerError(WorkerErrorKind.UNAVAILABLE, "broken", status=500),
    ]
    worker = Held(*failures)
    worker.let_all_go()
    async with running(config(), workers={"echo": worker}) as (pipeline, books):
        for n in range(3):
            sink = ask(pipeline, f"r{n}")[1]
            with pytest.raises(Exception, match="The backend failed"):
                await sink.done()
        assert pipeline.flow.lanes["echo"].pushed_back == 2
        assert len(books.ended) == 3


async def test_a_key_is_held_to_its_routes():
    async with running(config()) as (pipeline, _):
        ticket, sink = ask(pipeline, "r", caller=Caller("k", routes=frozenset({"other"})))
        with pytest.raises(Forbidden):
            await sink.done()
        assert ended(ticket) == (Outcome.REJECTED, Reason.FORBIDDEN, Place.INGRESS)
        assert await ask(pipeline, "s", caller=Caller("k", routes=frozenset({"echo"})))[1].done() == "hello there"


async def test_a_key_is_held_to_its_limits_and_charged_for_what_was_used():
    worker = Held()
    quota = quota_of(60, 6000, 2)
    caller = Caller("k", quota=quota)
    async with running(config(), workers={"echo": worker}) as (pipeline, _):
        asked = [ask(pipeline, f"r{n}", caller=caller, parameters=Parameters(max_tokens=300)) for n in range(3)]
        with pytest.raises(RateLimited):
            await asked[2][1].done()
        assert ended(asked[2][0]) == (Outcome.REJECTED, Reason.CONCURRENCY_LIMIT, Place.INGRESS)
        assert "x-ratelimit-remaining-tokens: 39" in quota.fields(pipeline.ingress._clock())  # 1,000 at once, less 604
        worker.let_all_go()
        for _, sink in asked[:2]:
            await sink.done()
        assert "x-ratelimit-remaining-tokens: 99" in quota.fields(pipeline.ingress._clock())  # four tokens each


async def test_who_is_refused_for_lack_of_room_is_charged_nothing():
    worker = Held()
    quota = quota_of(60, None, None)
    async with running(config(**ONE, admission={"wait_budget_ms": 50}), workers={"echo": worker}) as (pipeline, _):
        pace(pipeline, 10.0)
        running_one = ask(pipeline, "first")
        await worker.until(1)
        ticket, _ = ask(pipeline, "second", caller=Caller("k", quota=quota))
        assert ended(ticket)[1] is Reason.WAIT_BUDGET
        assert "remaining-requests: 10" in quota.fields(pipeline.ingress._clock())
        worker.let_all_go()
        await running_one[1].done()


async def test_under_pressure_a_request_gets_less_and_is_told_so():
    worker = Held()
    degrade = [{"kind": "shorter_answer", "max_tokens": 50, "pressure": 0.4}]
    sections = {**ONE, "admission": {"wait_budget_ms": 500}}
    routes = [{"name": "echo", "worker": "echo", "degrade": degrade}]
    async with running(config(**sections, routes=routes), workers={"echo": worker}) as (pipeline, _):
        pace(pipeline, 0.1)
        asked = [ask(pipeline, f"r{n}", parameters=Parameters(max_tokens=100)) for n in range(4)]
        asked.append(ask(pipeline, "short", parameters=Parameters(max_tokens=20)))
        assert [t.reduced for t, _ in asked] == [(), (), ("max_tokens=50",), ("max_tokens=50",), ()]
        worker.let_all_go()
        for _, sink in asked:
            await sink.done()
        assert [r.parameters.max_tokens for r in worker.requests] == [100, 100, 50, 50, 20]
        assert [r.shortened for r in worker.requests] == [False, False, True, True, False]


async def test_the_head_gate_is_told_what_the_door_would_say():
    worker = Held()
    async with running(config(**ONE, admission={"wait_budget_ms": 250}), workers={"echo": worker}) as (pipeline, books):
        door = pipeline.ingress
        anonymous = Caller("-")
        pace(pipeline, 0.1)
        asked = [ask(pipeline, "r0")]
        assert not door.gate_closed
        assert door.gate(None, Priority.NORMAL, None, anonymous) is None
        asked += [ask(pipeline, f"r{n}") for n in (1, 2, 3)]
        assert asked[3][0].ending is not None
        assert door.gate_closed
        await worker.until(1)
        for route in (None, "echo"):
            error = door.gate(route, Priority.NORMAL, None, anonymous)
            assert error is not None
            assert (error.place, error.reason) == ("ingress", Reason.WAIT_BUDGET)
            assert door.gate(route, Priority.HIGH, None, anonymous) is None  # it would be let in
            assert door.gate(route, Priority.NORMAL, "another", anonymous) is None  # in another's place
        assert door.gate("unknown", Priority.NORMAL, None, anonymous) is None  # that is for the door to say
        assert len(books.opened) == 4
        worker.let_all_go()
        for _, sink in asked[:3]:
            await sink.done()


async def test_sessions_that_only_bodies_name_keep_the_gate_from_judging_heads():
    worker = Held()
    async with running(config(**ONE, admission={"wait_budget_ms": 250}), workers={"echo": worker}) as (pipeline, _):
        pace(pipeline, 0.1)
        asked = [ask(pipeline, f"r{n}") for n in range(4)]
        await worker.until(1)
        assert pipeline.ingress.gate(None, Priority.NORMAL, None, Caller("-")) is not None
        asked.append(ask(pipeline, "s", session_id="s", session_in_body=True))
        assert asked[-1][0].ending is None
        assert pipeline.ingress.gate(None, Priority.NORMAL, None, Caller("-")) is None
        worker.let_all_go()
        for ticket, sink in asked:
            if ticket.ending is None:
                await sink.done()


async def test_one_route_with_room_keeps_the_gate_open_for_all():
    worker, other = Held(), Held()
    sections = {
        "workers": [{"name": "a", "kind": "echo", "concurrency": 1}, {"name": "b", "kind": "echo", "concurrency": 1}],
        "routes": [{"name": "a", "worker": "a", "wait_budget_ms": 50}, {"name": "b", "worker": "b"}],
    }
    async with running(config(**sections), workers={"a": worker, "b": other}) as (pipeline, _):
        pace(pipeline, 1.0, "a")
        asked = [ask(pipeline, f"r{n}", model="a") for n in range(2)]
        assert asked[1][0].ending is not None
        assert pipeline.ingress.gate("a", Priority.NORMAL, None, Caller("-")) is not None
        assert pipeline.ingress.gate("b", Priority.NORMAL, None, Caller("-")) is None
        assert pipeline.ingress.gate(None, Priority.NORMAL, None, Caller("-")) is None
        worker.let_all_go()
        await asked[0][1].done()


async def test_without_a_budget_only_the_queue_is_the_limit():
    """The ablation: plain try-put."""
    worker = Held()
    sections = {
        "stages": {"inference": {"concurrency": 1, "capacity": 8}},
        "admission": {"wait_budget_ms": "off", "codel": False, "fair": False},
    }
    async with running(config(**sections), workers={"echo": worker}) as (pipeline, _):
        pace(pipeline, 100.0)
        asked = [submit(pipeline, request_id="r0")]
        await worker.until(1)
        asked += [submit(pipeline, request_id=f"r{n}") for n in range(1, 12)]
        assert [t.ending is None for t, _ in asked] == [True] * 9 + [False] * 3
        assert ended(asked[11][0])[1] is Reason.QUEUE_FULL
        worker.let_all_go()
        for _, sink in asked[:9]:
            await sink.done()


async def test_a_pipeline_that_stops_takes_nobody_in():
    async with running(config()) as (pipeline, _):
        pipeline.flow.inference.inbox.close()
        ticket, _ = ask(pipeline, "late")
        assert ended(ticket) == (Outcome.SHED, Reason.QUEUE_FULL, Place.INGRESS)
