"""Many requests through workers that fail in every way, with fallbacks, reloads and clients that leave at any moment:
each has one ending, and nothing stays booked."""

import asyncio
import random
from typing import Any

import pytest

from pipeline.core.outcomes import Reason
from pipeline.wiring import Pipeline
from tests.flows import config, prompt, submit
from tests.stages.pooled import Pools, Replica, Step, answered, failure, pooled, reason, sections, until, worker
from workers.base import Delta, DeltaBatch, Usage
from workers.errors import WorkerError, WorkerErrorKind

REQUESTS = 400


def step(draw: random.Random) -> list[Step]:
    """What a call meets."""

    async def turns() -> None:
        for _ in range(draw.randrange(4)):
            await asyncio.sleep(0)

    async def slow() -> None:
        await asyncio.sleep(draw.uniform(0.0, 0.01))

    async def stubborn() -> None:
        try:
            await asyncio.sleep(10)
        except asyncio.CancelledError:
            raise failure(WorkerErrorKind.RESET) from None

    async def stops_itself() -> None:
        raise asyncio.CancelledError

    def fails() -> Exception:
        kind = draw.choice(list(WorkerErrorKind))
        return failure(kind, retryable=draw.random() < 0.8, retry_after=draw.choice([None, None, 0.001, 9.0]))

    begun = DeltaBatch((Delta("a"), Delta("b")))
    return draw.choice(
        [
            [turns],
            [slow],
            [slow, begun, slow, answered("c")],
            [turns, fails()],
            [turns, fails()],
            [turns, fails()],
            [slow, fails()],
            [begun, slow, fails()],
            [DeltaBatch((), Usage(7, 7)), turns, fails()],
            [ValueError("garbage")],
            [begun, asyncio.Event()],
            [asyncio.Event()],
            [stubborn],
            [stops_itself],
            [begun, DeltaBatch(tuple([Delta("x")] * 100)), answered("y")],
        ]
    )


def configuration(draw: random.Random) -> dict[str, Any]:
    def one(name: str) -> dict[str, Any]:
        return worker(
            name,
            draw.choice([1, 2, 3]),
            retries=draw.choice([0, 2, 3]),
            retry_budget=draw.choice([0.0, 0.1, 1.0]),
            replica_concurrency=draw.choice([None, 1, 4]),
            concurrency=draw.choice([2, 8, 64]),
            breaker_failures=draw.choice([0, 1, 5]),
            breaker_open_ms=draw.choice([1, 20]),
            first_delta_timeout_ms=draw.choice([30, 60]),
            gap_timeout_ms=40,
            total_timeout_ms=draw.choice([50, 1000]),
            drain=draw.random() < 0.1,
        )

    names = draw.sample("abc", draw.choice([2, 3, 3]))
    given = sections(*map(one, names), fallback=names[1:], static_answer=draw.choice([None, "Try later."]))
    given["stages"] = {name: {"capacity": draw.choice([8, 64, 500])} for name in ("inference", "post", "stream")}
    given["admission"] = {"wait_budget_ms": "off"}
    return given


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_the_books_are_clean_at_the_end(
    pools: Pools, seed: int, monkeypatch: pytest.MonkeyPatch
):
    draw = random.Random(seed)
    calls = Replica.generate
    monkeypatch.setattr(Replica, "generate", lambda self, request: calls(_scripted(self, draw), request))
    async with pooled(worker(), more=configuration(draw)) as (pipeline, books):
        leaving = []
        for number in range(REQUESTS):
            what = prompt(
                stream=draw.random() < 0.5,
                session_id=draw.choice([None, "s", f"s{number}"]),
                timeout=draw.choice([None, None, 0.02, 0.2]),
                gap_limit=draw.choice([None, None, 0.02]),
            )
            ticket, _ = submit(pipeline, what, f"r{number}")
            if draw.random() < 0.3:
                leaving.append(asyncio.create_task(_leave(pipeline, ticket, draw.uniform(0.0, 0.03))))
            if draw.random() < 0.02:
                pipeline.apply(pipeline.prepare(config(**configuration(draw))))
            if draw.random() < 0.7:
                await asyncio.sleep(draw.choice([0, 0.001, 0.003, 0.005]))
        await asyncio.gather(*leaving)
        await until(lambda: not pipeline.ingress.tickets)
        await until(lambda: not any(replica.running for replica in pools.ever))
        assert len(books.ended) == len(books.opened) == REQUESTS
        assert any(ticket.retries for ticket in books.ended)
        causes = [t.ending.error.__cause__ for t in books.ended if t.ending and t.ending.error]
        assert {str(cause) for cause in causes if not isinstance(cause, WorkerError | None)} == {"garbage"}
        assert len({reason(ticket) for ticket in books.ended}) > 10
        assert {ticket.request_id for ticket in books.ended} == {f"r{number}" for number in range(REQUESTS)}
        # In use at the end are those of the last configuration, all others have been closed.
        await until(lambda: sum(not replica.closed for replica in pools.ever) == _used(pipeline))


def _used(pipeline: Pipeline) -> int:
    return sum(len(backend.replicas) for backend in pipeline.flow.inference.backends.values())


def _scripted(replica: Replica, draw: random.Random) -> Replica:
    replica.usual = step(draw)
    return replica


async def _leave(pipeline: Pipeline, ticket: Any, after: float) -> None:
    await asyncio.sleep(after)
    pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
