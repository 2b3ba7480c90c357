"""The next worker of a route takes what one failed before its first delta, as the door would; then its static answer
is given."""

import asyncio

import pytest

from pipeline.core.errors import BackendFailed, BackendRefused, ContextLength, Overloaded
from pipeline.core.outcomes import Reason
from pipeline.core.ticket import STATIC
from tests.flows import config, prompt, submit
from tests.stages.pooled import Pools, failure, pooled, reason, sections, until, worker
from workers.base import ChatMessage, Delta, DeltaBatch, EmbeddingRequest, Parameters, Usage
from workers.errors import WorkerError, WorkerErrorKind

DOWN = failure(WorkerErrorKind.AUTH, retryable=False)
TOO_LONG = failure(WorkerErrorKind.CONTEXT_TOO_LONG, retryable=False)
CONVERSATION = (
    ChatMessage("user", "long ago " * 60),
    ChatMessage("assistant", "yes " * 60),
    ChatMessage("user", "and now?"),
)


async def test_the_next_worker_answers_after_the_retries(pools: Pools):
    async with pooled(worker("a", 2), worker("b"), fallback=["b"]) as (pipeline, _):
        for replica in pools["a"]:
            replica.usual = [failure()]
        ticket, sink = submit(pipeline)
        assert await sink.done() == "b0"
        assert (ticket.worker, ticket.retries) == ("b", 2)
        assert [pipeline.flow.inference.backends[name].pool.fallbacks for name in "ab"] == [0, 1]


async def test_workers_are_asked_in_their_order_and_the_last_one_s_failure_is_told(pools: Pools):
    async with pooled(worker("a"), worker("c"), worker("b"), fallback=["b", "c"]) as (pipeline, _):
        pools["a"][0].usual = pools["b"][0].usual = [DOWN]
        ticket, sink = submit(pipeline)
        assert await sink.done() == "c0"
        pools["c"][0].usual = [failure(WorkerErrorKind.AUTH, retryable=False, status=401)]
        ticket, sink = submit(pipeline)
        with pytest.raises(BackendFailed) as told:
            await sink.done()
        assert (told.value.backend_status, ticket.worker) == (401, "c")
        assert [len(pools[name][0].came) for name in "abc"] == [2, 2, 2]


@pytest.mark.parametrize("kind", [WorkerErrorKind.BAD_REQUEST, WorkerErrorKind.CONTENT_FILTERED])
async def test_what_the_request_is_to_blame_for_goes_nowhere_else(pools: Pools, kind: WorkerErrorKind):
    async with pooled(worker("a"), worker("b"), fallback=["b"], static_answer="later") as (pipeline, _):
        pools["a"][0].usual = [failure(kind)]
        ticket, sink = submit(pipeline)
        await sink.ended()
        assert not pools["b"][0].came
        assert ticket.reduced == ()


async def test_what_is_too_long_goes_on_to_a_larger_window_only(pools: Pools):
    windows = [worker(name, context_tokens=tokens) for name, tokens in (("a", 4000), ("b", 4000), ("c", 4001))]
    async with pooled(*windows, fallback=["b", "c"], static_answer="later") as (pipeline, _):
        pools["a"][0].usual = [TOO_LONG]
        _, sink = submit(pipeline)
        assert await sink.done() == "c0"
        assert not pools["b"][0].came
        pools["c"][0].usual = [TOO_LONG]
        _, sink = submit(pipeline)
        with pytest.raises(ContextLength):
            await sink.done()


async def test_the_next_worker_s_own_window_is_what_the_prompt_is_cut_to(pools: Pools):
    large, small = worker("a", context_tokens=4000), worker("b", context_tokens=100, answer_tokens=16)
    async with pooled(large, small, fallback=["b"]) as (pipeline, _):
        pools["a"][0].usual = [DOWN]
        ticket, sink = submit(pipeline, prompt("and now?", messages=CONVERSATION))
        assert await sink.done() == "b0"
        assert len(pools["a"][0].came[0].messages) == 3
        assert [message.text for message in pools["b"][0].came[0].messages] == ["and now?"]
        assert ticket.cut is not None
        assert ticket.cut.turns > 0


async def test_a_fallback_that_is_full_takes_none_of_it(pools: Pools):
    budget = {"admission": {"wait_budget_ms": 1}}
    one, other = worker("a", concurrency=4), worker("b", concurrency=1)
    routes = [{"name": "echo", "worker": "a", "fallback": ["b"]}, {"name": "own", "worker": "b"}]
    more = {**budget, "routes": routes}
    async with pooled(one, other, more=more) as (pipeline, _):
        free = asyncio.Event()
        pools["a"][0].usual, pools["b"][0].usual = [DOWN], [free]
        for _ in range(30):  # it is known to be slow
            pipeline.flow.lanes["b"].typical.ended(5.0, 5.0, 1, 0.0, 1)
        held, own = submit(pipeline, prompt(model="own"))
        await until(lambda: pools["b"][0].running)
        ticket, sink = submit(pipeline)
        with pytest.raises(BackendFailed):
            await sink.done()
        assert ticket.worker == "a"
        free.set()
        assert await own.done() == "b0"
        assert held.retries == 0


async def test_a_fallback_that_is_full_for_a_moment_lets_it_wait(pools: Pools):
    async with pooled(worker("a"), worker("b", concurrency=1), fallback=["b"]) as (pipeline, _):
        free = asyncio.Event()
        pools["a"][0].usual, pools["b"][0].usual = [DOWN], [free]
        sinks = [submit(pipeline)[1] for _ in range(3)]
        await until(lambda: sum(pipeline.flow.lanes["b"].waiting) == 2)
        free.set()
        assert [await sink.done() for sink in sinks] == ["b0"] * 3


async def test_who_ends_while_it_waits_for_the_next_worker_leaves_nothing(pools: Pools):
    async with pooled(worker("a"), worker("b", concurrency=1), fallback=["b"]) as (pipeline, _):
        pools["a"][0].usual, pools["b"][0].usual = [DOWN], [asyncio.Event()]
        tickets = [submit(pipeline)[0] for _ in range(3)]
        await until(lambda: sum(pipeline.flow.lanes["b"].waiting) == 2)
        for ticket in reversed(tickets):
            pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)


async def test_a_worker_that_is_being_drained_is_passed_over(pools: Pools):
    async with pooled(worker("a"), worker("b", drain=True), worker("c"), fallback=["b", "c"]) as (pipeline, _):
        pools["a"][0].usual = [DOWN]
        _, sink = submit(pipeline)
        assert await sink.done() == "c0"


async def test_where_the_route_s_own_worker_is_drained_its_fallbacks_serve(pools: Pools):
    async with pooled(worker("a", drain=True), worker("b"), worker("c"), fallback=["b", "c"]) as (pipeline, _):
        pools["b"][0].usual = [DOWN]
        _, sink = submit(pipeline)
        assert await sink.done() == "c0"
        assert not pools["a"][0].came


async def test_a_fallback_that_a_reload_took_away_is_passed_over(pools: Pools):
    async with pooled(worker("a"), worker("b"), worker("c"), fallback=["b", "c"]) as (pipeline, _):
        free = asyncio.Event()
        pools["a"][0].usual = [free, DOWN]
        _, sink = submit(pipeline)
        await until(lambda: pools["a"][0].running)
        pipeline.apply(pipeline.prepare(config(**sections(worker("a"), worker("c")))))
        await until(lambda: "b" not in pipeline.flow.lanes)
        free.set()
        assert await sink.done() == "c0"


@pytest.mark.parametrize("stream", [True, False])
async def test_the_static_answer_is_what_is_left(pools: Pools, stream: bool):
    async with pooled(worker("a"), worker("b"), fallback=["b"], static_answer="Try later.") as (pipeline, _):
        pools["a"][0].usual = pools["b"][0].usual = [DOWN]
        ticket, sink = submit(pipeline, prompt(stream=stream, parameters=Parameters(n=2)))
        assert await sink.done() == "Try later." * 2
        assert [(delta.index, delta.finish_reason) for delta in sink.deltas] == [(0, "stop"), (1, "stop")]
        assert reason(ticket) is Reason.DONE
        assert ticket.reduced == (STATIC,)
        assert sink.usage is not None
        assert (sink.usage.prompt_tokens, sink.usage.completion_tokens) == (0, 0)
        for name in "ab":  # it says nothing of how quick they are
            assert pipeline.flow.lanes[name].typical.first == 0.0


async def test_many_static_answers_hold_no_place(pools: Pools):
    async with pooled(worker("a", concurrency=2), static_answer="Try later.") as (pipeline, _):
        pools["a"][0].usual = [DOWN]
        for _ in range(100):
            _, sink = submit(pipeline)
            assert await sink.done() == "Try later."
        await until(lambda: not pipeline.flow.lanes["a"].unanswered)


async def test_an_embedding_has_no_static_answer(pools: Pools):
    async with pooled(worker("a"), static_answer="Try later.") as (pipeline, _):
        asked = EmbeddingRequest("r", "echo", ("text",))
        ticket, sink = submit(pipeline, prompt("", messages=(), stream=False, embedding=asked))
        with pytest.raises(BackendRefused, match="cannot embed"):
            await sink.done()
        pools["a"][0].embed = None  # type: ignore[attr-defined] # it could, and cannot
        assert ticket.reduced == ()


async def test_a_client_that_has_given_up_by_now_is_not_served_elsewhere(pools: Pools):
    async with pooled(worker("a"), worker("b"), fallback=["b"]) as (pipeline, _):
        pools["a"][0].usual = [asyncio.Event()]
        ticket, sink = submit(pipeline, prompt(gap_limit=0.05))
        with pytest.raises(BackendFailed):
            await sink.done()
        assert ticket.worker == "a"
        assert not pools["b"][0].came


async def test_what_the_next_worker_counts_is_not_the_first_one_s(pools: Pools):
    async with pooled(worker("a", tokens_per_minute=60_000), worker("b"), fallback=["b"]) as (pipeline, _):
        pools["a"][0].usual = [DOWN]
        pools["b"][0].usual = [DeltaBatch((Delta("x", finish_reason="stop"),), Usage(400, 500))]
        lane = pipeline.flow.lanes["a"]
        _, sink = submit(pipeline)
        assert await sink.done() == "x"
        await until(lambda: not lane.inflight)
        assert lane.typical.tokens == 0.0


# What a fallback cannot do is no fault of a request whose own worker is down.

WRONG_HERE = [
    failure(WorkerErrorKind.BAD_REQUEST, retryable=False),
    TOO_LONG,
    failure(WorkerErrorKind.CONTENT_FILTERED, retryable=False),
]


@pytest.mark.parametrize("error", WRONG_HERE, ids=lambda error: error.kind)
async def test_what_a_fallback_refuses_goes_on_to_the_next(pools: Pools, error: WorkerError):
    windows = {"a": 4000, "b": 4000, "c": 8000}
    workers = [worker(name, context_tokens=tokens) for name, tokens in windows.items()]
    async with pooled(*workers, fallback=["b", "c"]) as (pipeline, _):
        pools["a"][0].usual, pools["b"][0].usual = [DOWN], [error]
        _, sink = submit(pipeline)
        assert await sink.done() == "c0"
        pools["c"][0].usual = [error]
        _, sink = submit(pipeline)
        with pytest.raises(BackendFailed) as told:
            await sink.done()
        assert told.value.reason == "backend_auth"  # the first one's, not the last one's


async def test_what_all_fallbacks_refuse_is_answered_by_the_static_answer(pools: Pools):
    async with pooled(worker("a"), worker("b"), fallback=["b"], static_answer="Try later.") as (pipeline, _):
        pools["a"][0].usual, pools["b"][0].usual = [DOWN], [WRONG_HERE[0]]
        ticket, sink = submit(pipeline)
        assert await sink.done() == "Try later."
        assert ticket.reduced == (STATIC,)


@pytest.mark.parametrize("more", [{}, {"static_answer": "Try later."}, {"fallback": ["b", "c"]}])
@pytest.mark.parametrize("long", [300, 20_000])  # words; the longer ones are counted in a thread
async def test_a_prompt_too_long_for_a_fallback_goes_on(pools: Pools, more: dict[str, object], long: int):
    workers = [worker(name, context_tokens=tokens) for name, tokens in (("a", 90_000), ("b", 100), ("c", 80_000))]
    async with pooled(*workers, **{"fallback": ["b"], **more}) as (pipeline, _):
        pools["a"][0].usual = [DOWN]
        ticket, sink = submit(pipeline, prompt("word " * long))
        if not more:
            with pytest.raises(BackendFailed) as told:
                await sink.done()
            assert told.value.reason == "backend_auth"
        else:
            assert await sink.done() == ("c0" if "fallback" in more else "Try later.")
        assert not pools["b"][0].came
        assert ticket.retries == 0


async def test_a_fallback_that_was_chosen_at_the_door_is_one_as_well(pools: Pools):
    breaking = {"breaker_failures": 1, "breaker_open_ms": 30_000}
    async with pooled(worker("a", **breaking), worker("b", context_tokens=100, answer_tokens=16), fallback=["b"]) as (
        pipeline,
        _,
    ):
        pools["a"][0].usual = [DOWN]
        _, sink = submit(pipeline)
        assert await sink.done() == "b0"  # and opens the circuit
        pools["b"][0].usual = [WRONG_HERE[0]]
        for text in ("hello", "word " * 300):
            ticket, sink = submit(pipeline, prompt(text))
            with pytest.raises(Overloaded) as told:
                await sink.done()
            assert told.value.reason == Reason.CIRCUIT_OPEN
            assert told.value.retry_after == pytest.approx(30.0, abs=3.0)
            assert reason(ticket) is Reason.CIRCUIT_OPEN
        assert len(pools["a"][0].came) == 1


async def test_a_prompt_too_long_for_its_own_worker_stays_so(pools: Pools):
    workers = [worker(name, context_tokens=tokens) for name, tokens in (("a", 4000), ("b", 4001))]
    async with pooled(*workers, fallback=["b"], static_answer="Try later.") as (pipeline, _):
        pools["a"][0].usual = [TOO_LONG]
        _, sink = submit(pipeline, prompt("word " * 2700))
        with pytest.raises(ContextLength):
            await sink.done()
