"""Micro-benchmarks of the data path's parts: `python -m pytest benchmarks/micro`."""

import asyncio
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import regex
import uvloop

from benchmarks.hops import IN_FLIGHT, Line
from pipeline.core.deltas import DeltaChannel
from pipeline.core.outcomes import Reason
from pipeline.core.queue import StageQueue
from pipeline.core.ticket import Ticket
from pipeline.stages.filters import Redact
from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate
from workers.base import Delta, DeltaBatch, Passage
from workers.tokens import estimate

TOKENS = 64


@pytest.fixture
def loop() -> Iterator[asyncio.AbstractEventLoop]:
    loop = uvloop.new_event_loop()
    yield loop
    loop.close()


def test_queue_put_and_take(benchmark: Any, loop: asyncio.AbstractEventLoop) -> None:
    """64 items put one by one and taken together."""
    queue: StageQueue[int] = StageQueue(64)

    async def round_trip() -> None:
        for n in range(64):
            queue.try_put(n, 0.0)
        await queue.take(64)

    benchmark(lambda: loop.run_until_complete(round_trip()))


def test_five_hops(benchmark: Any, loop: asyncio.AbstractEventLoop) -> None:
    """64 requests through five stages that do nothing."""

    async def start() -> Line:
        return Line()

    line = loop.run_until_complete(start())
    benchmark.extra_info["requests"] = IN_FLIGHT
    benchmark(lambda: loop.run_until_complete(line.send(line.requests())))
    loop.run_until_complete(line.stop())


@pytest.mark.parametrize("together", [1, 8])
def test_channel(benchmark: Any, loop: asyncio.AbstractEventLoop, together: int) -> None:
    """64 tokens through a channel, `together` of them ready at each wake-up."""
    batch = DeltaBatch((Delta("word "),))

    async def produce(channel: DeltaChannel) -> None:
        for n in range(TOKENS):
            channel.put(batch)
            if n % together == together - 1:
                await asyncio.sleep(0)
        channel.close()

    async def stream() -> int:
        channel = DeltaChannel(64, asyncio.get_running_loop())
        producer = asyncio.ensure_future(produce(channel))
        taken = 0
        while batches := await channel.take():
            taken += len(batches)
        await producer
        return taken

    assert benchmark(lambda: loop.run_until_complete(stream())) == TOKENS


def test_ticket(benchmark: Any) -> None:
    def life() -> None:
        Ticket("r", 0.0, lambda _: None).end(Reason.DONE, 1.0)

    benchmark(life)


def test_template(benchmark: Any) -> None:
    """The built-in template over six passages."""
    passages = [Passage("word " * 200, "docs/a.md", n, 0.5, "A > B") for n in range(6)]
    template = PromptTemplate(DEFAULT_TEMPLATE, max_chars=200_000, timeout=0.1)
    benchmark(lambda: template.render(system="be brief", question="why?", passages=passages))


def test_redaction(benchmark: Any) -> None:
    """64 tokens through a redaction that matches once."""
    pattern = regex.compile(r"\d{3}-\d{4}")
    tokens = ["word "] * 32 + ["555-01", "23 "] + ["word "] * 30

    def answer() -> str:
        redact = Redact(pattern, "[redacted]", 64)
        return "".join([redact.feed(token) for token in tokens]) + redact.flush()

    assert "[redacted]" in benchmark(answer)


@pytest.mark.parametrize("chars", [100, 10_000])
def test_token_estimate(benchmark: Any, chars: int) -> None:
    text = "word " * (chars // 5)
    benchmark(lambda: estimate(text))


def test_clock(benchmark: Any) -> None:
    """What each look at the clock costs: the path takes two a hop."""
    clock: Callable[[], float] = time.monotonic
    benchmark(clock)
