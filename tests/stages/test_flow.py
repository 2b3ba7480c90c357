"""The five stages together, in process: outcomes, places, order, limits."""

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest

from pipeline.adapters.sinks.memory import MemorySink
from pipeline.core.errors import (
    BackendFailed,
    BackendRefused,
    ContentFiltered,
    ContextLength,
    DeadlineExceeded,
    HeadgateError,
    Overloaded,
    RetrievalError,
    RetrievalFailed,
    StageFailed,
    UnknownModel,
)
from pipeline.core.outcomes import Outcome, Place, Reason
from pipeline.core.ticket import Ticket
from tests.flows import config, prompt, running, submit
from workers.base import Delta, DeltaBatch, GenerationRequest, Health, Parameters, Passage, Usage
from workers.errors import WorkerError, WorkerErrorKind


class Scripted:
    """A worker whose answers are a list of batches, errors and events to wait for."""

    def __init__(self, *script: DeltaBatch | Exception | asyncio.Event) -> None:
        self.script = script
        self.requests: list[GenerationRequest] = []
        self.running = 0
        self.closed = 0

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        self.requests.append(request)
        self.running += 1
        try:
            for step in self.script:
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, asyncio.Event):
                    await step.wait()
                else:
                    yield step
        finally:
            self.running -= 1
            self.closed += 1

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        pass


def text(*texts: str, finish: str | None = None) -> DeltaBatch:
    deltas = [Delta(t) for t in texts[:-1]]
    return DeltaBatch((*deltas, Delta(texts[-1], finish_reason=finish)))


END = DeltaBatch((Delta(finish_reason="stop"),), Usage(3, 2))


def ended(ticket: Ticket) -> tuple[Outcome, Reason, Place]:
    assert ticket.ending is not None
    return ticket.ending.outcome, ticket.ending.reason, ticket.ending.place


async def error_of(sink: object) -> HeadgateError:
    with pytest.raises(HeadgateError) as caught:
        await sink.done()  # type: ignore[attr-defined]
    return caught.value


async def test_a_prompt_goes_through_and_is_completed_once():
    async with running(config()) as (pipeline, books):
        ticket, sink = submit(pipeline)
        assert await sink.done() == "hello there"
        assert ended(ticket) == (Outcome.COMPLETED, Reason.DONE, Place.STREAM)
        assert books.ended == [ticket]
        assert sink.usage is not None
        assert ticket.first_delta is not None
        assert ticket.worker == "echo"


async def test_an_unknown_model_is_rejected_with_what_there_is():
    async with running(config()) as (pipeline, _):
        ticket, sink = submit(pipeline, prompt(model="ehco"))
        error = await error_of(sink)
        assert isinstance(error, UnknownModel)
        assert "echo" in error.message
        assert ended(ticket) == (Outcome.REJECTED, Reason.UNKNOWN_MODEL, Place.INGRESS)
        assert ticket.route == "-"


async def test_a_handler_that_raises_ends_one_request_and_the_stage_goes_on():
    async with running(config(), workers={"echo": Scripted(ValueError("bug"))}) as (pipeline, _):
        for _ in range(3):
            ticket, sink = submit(pipeline)
            error = await error_of(sink)
            assert isinstance(error, StageFailed)
            assert isinstance(error.__cause__, ValueError)
            assert "bug" not in error.message
            assert ended(ticket) == (Outcome.FAILED, Reason.STAGE_ERROR, Place.INFERENCE)


@pytest.mark.parametrize("kind", list(WorkerErrorKind))
async def test_a_backend_s_failure_before_the_first_delta(kind: WorkerErrorKind):
    failing = Scripted(WorkerError(kind, "what was seen", retry_after=7.0))
    async with running(config(), workers={"echo": failing}) as (pipeline, _):
        ticket, sink = submit(pipeline)
        error = await error_of(sink)
        assert "what was seen" in error.message
        if kind.of_request:
            assert isinstance(error, BackendRefused | ContextLength | ContentFiltered)
            assert ended(ticket)[0] is Outcome.REJECTED
        else:
            assert isinstance(error, BackendFailed)
            assert error.retry_after == 7.0
            assert ended(ticket) == (Outcome.FAILED, Reason(f"backend_{kind}"), Place.INFERENCE)


async def test_an_answer_that_breaks_off_is_given_out_before_its_error():
    breaking = Scripted(text("a", "b"), WorkerError(WorkerErrorKind.CUT, "cut"))
    async with running(config(), workers={"echo": breaking}) as (pipeline, _):
        ticket, sink = submit(pipeline)
        error = await error_of(sink)
        assert isinstance(error, BackendFailed)
        assert sink.text == "ab"
        assert ended(ticket) == (Outcome.FAILED, Reason.BACKEND_CUT, Place.INFERENCE)


async def test_an_empty_answer_is_a_backend_failure():
    async with running(config(), workers={"echo": Scripted()}) as (pipeline, _):
        ticket, sink = submit(pipeline)
        assert isinstance(await error_of(sink), BackendFailed)
        assert ended(ticket)[1] is Reason.BACKEND_PROTOCOL


LIMITS = {"first_delta_timeout_ms": 60, "gap_timeout_ms": 60, "total_timeout_ms": 60_000}


def limited(**limits: int) -> dict[str, object]:
    return {"workers": [{"name": "echo", "kind": "echo", **LIMITS, **limits}]}


async def test_a_backend_that_stalls_before_its_first_delta():
    worker = Scripted(asyncio.Event())
    async with running(config(**limited()), workers={"echo": worker}) as (pipeline, _):
        ticket, sink = submit(pipeline)
        error = await error_of(sink)
        assert "no first delta within 0.06 s" in error.message
        assert ended(ticket) == (Outcome.FAILED, Reason.BACKEND_TIMEOUT, Place.INFERENCE)
        await asyncio.sleep(0)
        assert (worker.running, worker.closed) == (0, 3)  # it was asked again, twice
        assert ticket.retries == 2


async def test_a_backend_that_stalls_between_deltas():
    worker = Scripted(text("a"), asyncio.Event())
    async with running(config(**limited()), workers={"echo": worker}) as (pipeline, _):
        ticket, sink = submit(pipeline)
        error = await error_of(sink)
        assert "nothing for 0.06 s" in error.message
        assert sink.text == "a"
        assert ended(ticket)[1] is Reason.BACKEND_TIMEOUT


async def test_an_answer_may_take_its_total_time_and_no_more():
    sections = limited(gap_timeout_ms=10_000, total_timeout_ms=80)
    async with running(config(**sections), workers={"echo": Scripted(text("a"), asyncio.Event())}) as (pipeline, _):
        _, sink = submit(pipeline)
        assert "did not finish within 0.08 s" in (await error_of(sink)).message


async def test_a_client_s_read_time_out_bounds_the_first_delta():
    async with running(config(), workers={"echo": Scripted(asyncio.Event())}) as (pipeline, _):
        ticket, sink = submit(pipeline, prompt(gap_limit=0.05))
        await error_of(sink)
        assert ended(ticket)[1] is Reason.BACKEND_TIMEOUT


async def test_the_deadline_ends_a_request_in_inference():
    worker = Scripted(text("a"), asyncio.Event())
    async with running(config(), workers={"echo": worker}) as (pipeline, _):
        ticket, sink = submit(pipeline, prompt(timeout=0.05))
        assert isinstance(await error_of(sink), DeadlineExceeded)
        assert ended(ticket)[0] is Outcome.EXPIRED
        await asyncio.sleep(0)
        assert worker.running == 0


async def test_a_request_that_ended_before_it_was_submitted_tells_its_sink():
    async with running(config()) as (pipeline, _):
        ticket = pipeline.ingress.open("r1")
        pipeline.ingress.cancel(ticket, Reason.SHUTDOWN)
        sink = MemorySink()
        pipeline.ingress.submit(ticket, prompt(), sink)
        assert "shutting down" in (await error_of(sink)).message


async def test_a_deadline_that_passed_while_the_body_was_read():
    async with running(config()) as (pipeline, _):
        ticket, sink = submit(pipeline, prompt(timeout=0.0))
        assert isinstance(await error_of(sink), DeadlineExceeded)
        assert ended(ticket) == (Outcome.EXPIRED, Reason.DEADLINE, Place.INGRESS)


def one_at_a_time(**inference: int) -> dict[str, object]:
    return {"stages": {"inference": {"concurrency": 1, **inference}}}


async def test_the_deadline_ends_a_request_that_waits():
    worker = Scripted(asyncio.Event())
    async with running(config(**one_at_a_time()), workers={"echo": worker}) as (pipeline, _):
        first, _ = submit(pipeline)
        waiting, sink = submit(pipeline, prompt(timeout=0.08))
        assert isinstance(await error_of(sink), DeadlineExceeded)
        assert ended(waiting) == (Outcome.EXPIRED, Reason.DEADLINE, Place.INFERENCE)
        assert len(worker.requests) == 1
        pipeline.ingress.cancel(first, Reason.CLIENT_GONE)


async def test_a_full_pipeline_sheds_at_the_door_and_serves_the_rest():
    go = asyncio.Event()
    worker = Scripted(go, text("a"), END)
    async with running(config(**one_at_a_time(capacity=2)), workers={"echo": worker}) as (pipeline, books):
        sinks = [submit(pipeline, request_id="first")[1]]
        while not worker.requests:
            await asyncio.sleep(0)
        results = [submit(pipeline, request_id=f"r{n}") for n in range(5)]
        shed = [(t, s) for t, s in results if t.ending is not None]
        assert len(shed) == 3
        for ticket, sink in shed:
            error = await error_of(sink)
            assert isinstance(error, Overloaded)
            assert error.retry_after is not None
            assert error.retry_after >= 1
            assert ended(ticket) == (Outcome.SHED, Reason.QUEUE_FULL, Place.INGRESS)
        go.set()
        sinks += [s for t, s in results if (t, s) not in shed]
        assert [await s.done() for s in sinks] == ["a"] * 3
        assert len(books.ended) == 6


async def test_inference_waits_for_places_ahead_rather_than_have_its_answers_shed():
    stages = {"post": {"capacity": 1}, "stream": {"capacity": 1}, "inference": {"concurrency": 8}}
    async with running(config(stages=stages)) as (pipeline, books):
        sinks = [submit(pipeline, request_id=f"r{n}")[1] for n in range(50)]
        assert {await sink.done() for sink in sinks} == {"hello there"}
        assert {t.ending.outcome for t in books.ended if t.ending} == {Outcome.COMPLETED}


async def test_a_client_that_leaves_while_it_waits_frees_its_place():
    worker = Scripted(asyncio.Event())
    async with running(config(**one_at_a_time(capacity=1)), workers={"echo": worker}) as (pipeline, _):
        first, _ = submit(pipeline)
        while not worker.requests:
            await asyncio.sleep(0)
        waiting, _ = submit(pipeline)
        assert ended(submit(pipeline)[0])[0] is Outcome.SHED
        pipeline.ingress.cancel(waiting, Reason.CLIENT_GONE)
        assert ended(waiting)[0] is Outcome.CANCELLED
        replacement, _ = submit(pipeline)
        assert replacement.ending is None
        pipeline.ingress.cancel(replacement, Reason.CLIENT_GONE)
        pipeline.ingress.cancel(first, Reason.CLIENT_GONE)


async def test_a_client_that_leaves_stops_its_backend_call():
    worker = Scripted(text("a"), asyncio.Event())
    async with running(config(), workers={"echo": worker}) as (pipeline, _):
        ticket, sink = submit(pipeline)
        while not sink.deltas:
            await asyncio.sleep(0)
        pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
        for _ in range(3):
            await asyncio.sleep(0)
        assert (worker.running, worker.closed) == (0, 1)


async def test_requests_of_a_session_start_in_order_of_arrival():
    worker = Scripted(text("a"), END)
    async with running(config(**one_at_a_time()), workers={"echo": worker}) as (pipeline, _):
        sinks = [submit(pipeline, prompt(session_id="s"), f"r{n}")[1] for n in range(20)]
        for sink in sinks:
            await sink.done()
        assert [r.request_id for r in worker.requests] == [f"r{n}" for n in range(20)]


async def test_a_slow_client_stops_the_reading_of_its_own_backend_only():
    class SlowSink:
        def __init__(self) -> None:
            self.gate = asyncio.Event()

        def begin(self, message: object) -> None:
            return None

        async def write(self, answer: object) -> None:
            await self.gate.wait()

        def finish(self, usage: object) -> None:
            return None

        def fail(self, error: object) -> None:
            pass

    endless = Scripted(*[text("x") for _ in range(1000)], END)
    sections = {"workers": [{"name": "echo", "kind": "echo", "high_water_deltas": 16}]}
    async with running(config(**sections), workers={"echo": endless}) as (pipeline, books):
        slow = SlowSink()
        ticket = pipeline.ingress.open("slow")
        pipeline.ingress.submit(ticket, prompt(), slow)  # type: ignore[arg-type]
        for _ in range(100):
            await asyncio.sleep(0)
        assert books.deltas <= 2 * 16  # one lot with the client, one in the channel
        _, sink = submit(pipeline, request_id="quick")
        assert await sink.done() == "x" * 1000
        slow.gate.set()
        while ticket.ending is None:
            await asyncio.sleep(0)
        assert ended(ticket)[0] is Outcome.COMPLETED


async def test_the_deadline_ends_an_answer_to_a_client_that_does_not_read():
    class StuckSink:
        def begin(self, message: object) -> None:
            return None

        async def write(self, answer: object) -> None:
            await asyncio.Event().wait()

        def finish(self, usage: object) -> None:
            return None

        def fail(self, error: object) -> None:
            pass

    async with running(config(), workers={"echo": Scripted(text("a"), END)}) as (pipeline, books):
        ticket = pipeline.ingress.open("stuck")
        pipeline.ingress.submit(ticket, prompt(timeout=0.05), StuckSink())  # type: ignore[arg-type]
        while not books.ended:
            await asyncio.sleep(0.01)
        assert ended(ticket) == (Outcome.EXPIRED, Reason.DEADLINE, Place.STREAM)


class Library:
    """A retriever with one answer."""

    def __init__(self, answer: Sequence[Passage] | Exception | None) -> None:
        self.answer = answer
        self.asked: list[tuple[str, str, int]] = []

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        self.asked.append((collection, query, limit))
        if self.answer is None:
            await asyncio.Event().wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer or ()

    async def aclose(self) -> None:
        pass


def with_documents(**route: object) -> dict[str, object]:
    return {
        "collections": [{"name": "docs", "store": "memory"}],
        "routes": [{"name": "echo", "worker": "echo", "collection": "docs", **route}],
    }


async def test_rag_attaches_passages_and_assemble_puts_them_into_the_prompt():
    library = Library([Passage("Bounded.", "q.md", 1, 0.9)])
    worker = Scripted(text("a"), END)
    conf = config(**with_documents(passages=3))
    async with running(conf, retriever=library, workers={"echo": worker}) as (pipeline, _):
        ticket, sink = submit(pipeline, prompt("what is a queue?"))
        await sink.done()
        assert library.asked == [("docs", "what is a queue?", 3)]
        assert worker.requests[0].passages == (Passage("Bounded.", "q.md", 1, 0.9),)
        assert "[1] q.md" in worker.requests[0].messages[0].text
        assert ticket.passages == 1


async def test_a_failed_search_fails_the_request_or_degrades_it_as_the_route_says():
    broken = Library(RetrievalError("no such collection", collection="docs"))
    async with running(config(**with_documents()), retriever=broken) as (pipeline, _):
        ticket, sink = submit(pipeline)
        error = await error_of(sink)
        assert isinstance(error, RetrievalFailed)
        assert "no such collection" in error.message
        assert ended(ticket) == (Outcome.FAILED, Reason.RETRIEVAL, Place.RAG)
    async with running(config(**with_documents(on_retrieval_failure="answer")), retriever=broken) as (pipeline, _):
        ticket, sink = submit(pipeline)
        assert await sink.done() == "hello there"
        assert ticket.degraded


async def test_a_search_that_takes_too_long():
    conf = config(**with_documents(retrieval_timeout_ms=50))
    async with running(conf, retriever=Library(None)) as (pipeline, _):
        ticket, sink = submit(pipeline)
        assert "within 0.1 s" in (await error_of(sink)).message or ended(ticket)[1] is Reason.RETRIEVAL
        ticket, sink = submit(pipeline, prompt(timeout=0.02))
        assert isinstance(await error_of(sink), DeadlineExceeded)


async def test_a_prompt_beyond_the_context_is_rejected():
    async with running(config()) as (pipeline, _):
        ticket, sink = submit(pipeline, prompt("word " * 200_000))
        assert isinstance(await error_of(sink), ContextLength)
        assert ended(ticket) == (Outcome.REJECTED, Reason.CONTEXT_LENGTH, Place.ASSEMBLE)


async def test_a_large_prompt_is_assembled_off_the_loop():
    workers = [{"name": "echo", "kind": "echo", "context_tokens": 1_000_000}]
    async with running(config(workers=workers)) as (pipeline, _):
        _, sink = submit(pipeline, prompt("word " * 50_000))
        assert len(await sink.done()) == 250_000


async def test_filters_change_the_answer_and_a_stop_ends_the_backend_call():
    routes = [
        {
            "name": "echo",
            "worker": "echo",
            "filters": [
                {"kind": "redact", "pattern": r"\d{4}", "replacement": "****"},
                {"kind": "stop", "sequences": ["END"]},
            ],
        }
    ]
    worker = Scripted(text("pin 12", "34 then E", "ND"), asyncio.Event())
    async with running(config(routes=routes), workers={"echo": worker}) as (pipeline, _):
        ticket, sink = submit(pipeline)
        assert await sink.done() == "pin **** then "
        assert sink.deltas[-1].finish_reason == "stop"
        assert ended(ticket)[0] is Outcome.COMPLETED
        for _ in range(3):
            await asyncio.sleep(0)
        assert worker.running == 0


async def test_filtered_answers_are_limited_by_post_s_concurrency():
    go = asyncio.Event()
    worker = Scripted(text("a"), go, END)
    routes = [{"name": "echo", "worker": "echo", "filters": [{"kind": "max_length", "chars": 100}]}]
    async with running(config(routes=routes, stages={"post": {"concurrency": 2}}), workers={"echo": worker}) as (p, _):
        sinks = [submit(p, request_id=f"r{n}")[1] for n in range(5)]
        for _ in range(20):
            await asyncio.sleep(0)
        assert [sink.text for sink in sinks] == ["a", "a", "", "", ""]
        go.set()
        assert [await sink.done() for sink in sinks] == ["a"] * 5


async def test_draining_sheds_newcomers_finishes_what_is_open_and_cancels_the_rest():
    go = asyncio.Event()
    worker = Scripted(go, text("a"), END)
    async with running(config(), workers={"echo": worker}) as (pipeline, _):
        _, finishes = submit(pipeline)
        while not worker.requests:
            await asyncio.sleep(0)
        draining = asyncio.create_task(pipeline.drain(5.0))
        await asyncio.sleep(0)
        late, sink = submit(pipeline)
        assert isinstance(await error_of(sink), Overloaded)
        assert ended(late) == (Outcome.SHED, Reason.DRAINING, Place.INGRESS)
        go.set()
        await draining
        assert await finishes.done() == "a"
    async with running(config(), workers={"echo": Scripted(asyncio.Event())}) as (pipeline, _):
        stuck, sink = submit(pipeline)
        await pipeline.drain(0.05)
        assert ended(stuck)[1] is Reason.SHUTDOWN
        await error_of(sink)


async def test_every_request_ends_once_whatever_happens_to_it():
    """Guarantee 1, in process: many requests with mixed fates; each has exactly one ending, and nothing is left."""
    workers = [{"name": "echo", "kind": "echo", "failure_rate": 0.2, "seed": 7, "tokens": 20, "retries": 0, **LIMITS}]
    stages = {"inference": {"concurrency": 4, "capacity": 16}, "stream": {"capacity": 4}, "post": {"capacity": 4}}
    async with running(config(workers=workers, stages=stages)) as (pipeline, books):
        tickets = []
        for n in range(300):
            what = prompt(model="nope" if n % 17 == 0 else "echo", parameters=Parameters(max_tokens=5 + n % 9))
            ticket, _ = submit(pipeline, what, f"r{n}")
            tickets.append(ticket)
            if n % 7 == 0:
                pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
            if n % 5 == 0:
                await asyncio.sleep(0)
        while pipeline.ingress.tickets:
            await asyncio.sleep(0.001)
        assert sorted(t.request_id for t in books.ended) == sorted(t.request_id for t in tickets)
        outcomes = {t.ending.outcome for t in tickets if t.ending}
        assert outcomes >= {Outcome.COMPLETED, Outcome.SHED, Outcome.REJECTED, Outcome.CANCELLED, Outcome.FAILED}
