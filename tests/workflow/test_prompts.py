"""Steps' prompts through a real pipeline: real stages, real workers, and what becomes of what goes wrong."""

import asyncio
from typing import Any

import msgspec
import pytest

from pipeline.adapters.retrievers.memory import MemoryRetriever
from pipeline.core.errors import BackendFailed, Cancelled, Overloaded
from pipeline.core.outcomes import Outcome, Priority, Reason
from pipeline.policy.access import key_hash
from pipeline.workflow.errors import Postponed, StepFailed
from pipeline.workflow.ports import Asking
from pipeline.workflow.prompts import IngressPrompts, told
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.flows import config, running
from workers.base import ChatMessage, Delta, DeltaBatch, Parameters
from workers.errors import WorkerError, WorkerErrorKind
from workers.lexical import Lexical

KEY = {"name": "alice", "hash": key_hash("hg_alice"), "class": "high"}


def asking(text: str = "hello there", **fields: Any) -> Asking:
    given: dict[str, Any] = {
        "request_id": "r1",
        "session_id": "run-1",
        "route": "echo",
        "messages": (ChatMessage("user", text),),
        "parameters": Parameters(),
        "caller": "-",
        "priority": 2,
        "underway": True,
        **fields,
    }
    return Asking(**given)


async def test_an_answer_with_its_pieces_and_its_books():
    async with running(config()) as (pipeline, books):
        pieces: list[str] = []
        answered = await IngressPrompts(pipeline.ingress).ask(asking(), pieces.append)
    assert answered.text == "hello there" == "".join(pieces)
    assert len(pieces) > 1
    assert answered.usage == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}
    assert (answered.model, answered.finish_reason) == ("echo", "stop")
    (ticket,) = books.ended
    assert ticket.ending is not None
    assert ticket.ending.outcome is Outcome.COMPLETED
    assert (ticket.request_id, ticket.session_id, ticket.route) == ("r1", "run-1", "echo")
    assert ticket.sink is None


async def test_without_a_listener_it_is_not_streamed():
    async with running(config()) as (pipeline, books):
        answered = await IngressPrompts(pipeline.ingress).ask(asking())
    assert answered.text == "hello there"
    assert not books.ended[0].stream


async def test_an_answer_that_was_cut_off_says_so():
    async with running(config()) as (pipeline, _):
        cut = asking("one two three four", parameters=Parameters(max_tokens=2))
        answered = await IngressPrompts(pipeline.ingress).ask(cut)
    assert answered.finish_reason == "length"
    assert answered.text.split() == ["one", "two"]


async def test_passages_of_the_routes_collection():
    retriever = MemoryRetriever(Lexical())
    await retriever.add("docs", "sea.md", [("Ferry", "The ferry leaves every forty minutes from the quay.")])
    conf = config(
        workers=[{"name": "x", "kind": "extractive"}],
        routes=[{"name": "docs", "worker": "x", "collection": "docs"}],
        collections=[{"name": "docs", "store": "memory", "embedder": "lexical"}],
    )
    async with running(conf, retriever=retriever) as (pipeline, _):
        answered = await IngressPrompts(pipeline.ingress).ask(asking("When does the ferry leave?", route="docs"))
    assert answered.text == "The ferry leaves every forty minutes from the quay. [1]"
    (passage,) = answered.passages
    assert (passage["index"], passage["source"], passage["title"]) == (1, "sea.md", "Ferry")
    msgspec.json.encode(answered.passages)


async def test_vectors_in_the_order_of_the_texts():
    async with running(config()) as (pipeline, _):
        vectors, model, usage = await IngressPrompts(pipeline.ingress).embed(asking(messages=()), ["a b", "c", "a b"])
    assert len(vectors) == 3
    assert vectors[0] == vectors[2] != vectors[1]
    assert model == "echo"
    assert usage == {"prompt_tokens": 5, "completion_tokens": 0, "total_tokens": 5}


@pytest.mark.parametrize(
    ("priority", "underway", "seen"),
    [
        (Priority.NORMAL, True, Priority.HIGH),
        (Priority.NORMAL, False, Priority.NORMAL),
        (Priority.CRITICAL, False, Priority.HIGH),  # its caller's class is high
        (Priority.CRITICAL, True, Priority.CRITICAL),
        (Priority.LOW, False, Priority.LOW),
        (Priority.LOW, True, Priority.NORMAL),
    ],
)
async def test_runs_under_way_outrank_new_ones(priority: Priority, underway: bool, seen: Priority):
    async with running(config(keys=[KEY])) as (pipeline, books):
        one = asking(caller="alice", priority=int(priority), underway=underway)
        await IngressPrompts(pipeline.ingress).ask(one)
    assert books.ended[0].priority is seen


async def test_a_full_pipeline_serves_runs_under_way_first():
    conf = config(
        workers=[{"name": "echo", "kind": "echo", "first_token_ms": 5, "concurrency": 1}],
        routes=[{"name": "echo", "worker": "echo", "wait_budget_ms": 60_000}],
    )
    ended: list[str] = []
    async with running(conf) as (pipeline, _):
        prompts = IngressPrompts(pipeline.ingress)

        async def one(name: str, underway: bool) -> None:
            await prompts.ask(asking(request_id=name, session_id=name, underway=underway))
            ended.append(name)

        first = asyncio.create_task(one("first", underway=True))  # holds the only place
        await asyncio.sleep(0)
        rest = [asyncio.create_task(one(f"new{n}", underway=False)) for n in range(4)]
        rest += [asyncio.create_task(one(f"old{n}", underway=True)) for n in range(4)]
        await asyncio.gather(first, *rest)
    assert ended[1] == "old0"
    # Lower classes keep a share, so that they do not starve; but those under way come before them on the whole.
    place = {name: at for at, name in enumerate(ended)}
    assert sum(place[f"old{n}"] for n in range(4)) < sum(place[f"new{n}"] for n in range(4))


async def failure(pipeline: Any, what: Asking, kind: type[Exception]) -> Any:
    with pytest.raises(kind) as caught:
        await IngressPrompts(pipeline.ingress).ask(what)
    return caught.value


async def test_refusals_that_another_attempt_does_not_change():
    routes = [{"name": "echo", "worker": "echo"}, {"name": "other", "worker": "echo"}]
    async with running(config(keys=[{**KEY, "routes": ["other"]}], routes=routes)) as (pipeline, books):
        unknown = await failure(pipeline, asking(route="nowhere", caller="alice"), StepFailed)
        forbidden = await failure(pipeline, asking(caller="alice"), StepFailed)
        revoked = await failure(pipeline, asking(caller="nobody"), StepFailed)
    assert (unknown.kind, unknown.retryable, unknown.details["param"]) == ("model_not_found", False, "model")
    assert (forbidden.kind, forbidden.retryable) == ("permission_denied", False)
    assert (revoked.kind, revoked.retryable) == ("unauthorized", False)
    assert [ticket.ending.outcome for ticket in books.ended if ticket.ending] == [Outcome.REJECTED] * 3


async def test_a_key_removed_while_the_run_goes_on():
    async with running(config(keys=[KEY])) as (pipeline, _):
        await IngressPrompts(pipeline.ingress).ask(asking(caller="alice"))
        pipeline.apply(pipeline.prepare(config(keys=[{**KEY, "revoked": True}])))
        error = await failure(pipeline, asking(caller="alice"), StepFailed)
    assert error.kind == "unauthorized"


async def test_a_shed_prompt_comes_back_later():
    conf = config(
        workers=[{"name": "echo", "kind": "echo", "first_token_ms": 50, "concurrency": 1}],
        routes=[{"name": "echo", "worker": "echo", "wait_budget_ms": 1}],
    )
    async with running(conf) as (pipeline, _):
        prompts = IngressPrompts(pipeline.ingress)
        await prompts.ask(asking())  # now it is known how long an answer takes
        asked = [asyncio.create_task(prompts.ask(asking(request_id=str(n)))) for n in range(6)]
        results = await asyncio.gather(*asked, return_exceptions=True)
    shed = [result for result in results if isinstance(result, Postponed)]
    assert shed
    assert {error.reason for error in shed} <= {"wait_budget", "overdue", "standing_queue", "queue_full"}
    assert all(error.retry_after >= 1.0 for error in shed)
    assert not [result for result in results if isinstance(result, StepFailed)]


async def test_the_callers_limit_postpones_and_what_never_fits_fails():
    conf = config(keys=[{**KEY, "requests_per_minute": 6, "tokens_per_minute": 600}])
    async with running(conf) as (pipeline, _):
        await IngressPrompts(pipeline.ingress).ask(asking(caller="alice", parameters=Parameters(max_tokens=5)))
        again = await failure(pipeline, asking(caller="alice", parameters=Parameters(max_tokens=5)), Postponed)
        never = await failure(pipeline, asking(caller="alice", parameters=Parameters(max_tokens=100_000)), StepFailed)
    assert again.reason == "request_limit"
    assert 0 < again.retry_after <= 10
    assert (never.kind, never.retryable) == ("request_too_large", False)


async def test_draining_postpones():
    async with running(config()) as (pipeline, _):
        await pipeline.drain(0.0)
        error = await failure(pipeline, asking(), Postponed)
    assert error.reason == "draining"


@pytest.mark.parametrize(
    ("kind", "code", "retryable"),
    [
        (WorkerErrorKind.UNAVAILABLE, "backend_error", True),
        (WorkerErrorKind.CUT, "backend_error", True),
        (WorkerErrorKind.AUTH, "backend_error", False),
        (WorkerErrorKind.BAD_REQUEST, "backend_refused", False),
        (WorkerErrorKind.CONTENT_FILTERED, "content_filter", False),
        (WorkerErrorKind.CONTEXT_TOO_LONG, "context_length_exceeded", False),
    ],
)
async def test_what_the_backend_fails_with(kind: WorkerErrorKind, code: str, retryable: bool):
    worker = ScriptedWorker()
    async with running(scripted_config(), workers={"said": worker}) as (pipeline, _):
        worker.batches.put_nowait(DeltaBatch((Delta("so "),)))
        worker.batches.put_nowait(WorkerError(kind, "no"))
        error = await failure(pipeline, asking(route="said"), StepFailed)
    assert (error.kind, error.retryable) == (code, retryable)


async def test_a_deadline_is_worth_another_attempt():
    worker = ScriptedWorker()
    async with running(scripted_config(), workers={"said": worker}) as (pipeline, _):
        error = await failure(pipeline, asking(route="said", timeout=0.05), StepFailed)
        await worker.closed.wait()
    assert error.retryable
    assert error.kind in {"deadline_exceeded", "backend_error"}


async def test_cancelling_is_as_if_the_client_had_gone():
    worker = ScriptedWorker()
    async with running(scripted_config(), workers={"said": worker}) as (pipeline, books):
        task = asyncio.create_task(IngressPrompts(pipeline.ingress).ask(asking(route="said")))
        await worker.called.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await worker.closed.wait()  # nobody computes for a run that does not want it
    (ticket,) = books.ended
    assert ticket.ending is not None
    assert ticket.ending.reason is Reason.CLIENT_GONE


async def test_a_process_that_stops_postpones():
    worker = ScriptedWorker()
    async with running(scripted_config(), workers={"said": worker}) as (pipeline, _):
        task = asyncio.create_task(IngressPrompts(pipeline.ingress).ask(asking(route="said")))
        await worker.called.wait()
        await pipeline.drain(0.0)
        with pytest.raises(Postponed) as caught:
            await task
    assert caught.value.reason == "shutdown"


async def test_backends_are_told_that_the_answer_is_json():
    worker = ScriptedWorker()
    async with running(scripted_config(), workers={"said": worker}) as (pipeline, _):
        worker.say("{}", end=True)
        wanted = asking(route="said", json_answer=True, parameters=Parameters(temperature=0.5))
        await IngressPrompts(pipeline.ingress).ask(wanted)
    body = msgspec.json.decode(worker.requests[0].body)
    assert body["response_format"] == {"type": "json_object"}
    assert body["messages"] == [{"role": "user", "content": "hello there"}]
    assert body["temperature"] == 0.5


def test_every_error_in_the_engines_terms():
    circuit = told(Overloaded("no", place="ingress", reason="circuit_open", retry_after=7.0))
    assert isinstance(circuit, Postponed)
    assert circuit.retry_after == 7.0
    gone = told(Cancelled("gone", reason="client_gone"))
    assert isinstance(gone, StepFailed)
    limited = told(BackendFailed("later", reason="backend_rate_limited", backend_status=429, retry_after=3.0))
    assert isinstance(limited, StepFailed)
    assert (limited.retryable, limited.retry_after, limited.details["status"]) == (True, 3.0, 502)
