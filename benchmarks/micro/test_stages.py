"""The stages: what each hop costs by itself, and what those do that look at text."""

import asyncio
import time
from collections.abc import Callable

import msgspec
import pytest
import regex

from benchmarks.hops import IN_FLIGHT, Line
from benchmarks.micro.measure import Measure
from config.schema import Config
from pipeline.adapters.sinks.memory import MemorySink
from pipeline.core.messages import PromptRequest
from pipeline.core.outcomes import Reason
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.ingress import Prompt
from pipeline.policy.budget import fit
from pipeline.stages.filters import Redact
from pipeline.stages.template import DEFAULT_TEMPLATE, PromptTemplate
from pipeline.wiring import build
from workers.base import ChatMessage, Parameters, Passage
from workers.tokens import estimate

TOKENS = 64
TURNS = 8
LOOKS = 64


def test_five_hops(measure: Measure, loop: asyncio.AbstractEventLoop) -> None:
    """Real queues and the real run loop, handlers without work."""

    async def start() -> Line:
        return Line()

    async def send(turns: list[list[PromptRequest]]) -> list[list[PromptRequest]]:
        for requests in turns:
            await line.send(requests)
        return turns

    line = loop.run_until_complete(start())
    turns = measure.fresh(
        "stages: five hops",
        lambda: [line.requests() for _ in range(TURNS)],
        lambda turns: loop.run_until_complete(send(turns)),
        units=TURNS * IN_FLIGHT,
        unit="request",
    )
    endings = [request.ticket.ending for requests in turns for request in requests]
    assert all(ending is not None and ending.reason is Reason.DONE for ending in endings)
    loop.run_until_complete(line.stop())


@pytest.mark.parametrize("together", [1, 8])
def test_pipeline(measure: Measure, loop: asyncio.AbstractEventLoop, together: int) -> None:
    """From the door to a sink in memory: all five stages with the echo worker, nothing watching, no HTTP."""
    worker = {"name": "w", "kind": "echo", "tokens": TOKENS, "tokens_per_batch": together}
    config = msgspec.convert({"workers": [worker], "routes": [{"name": "m", "worker": "w"}]}, Config)
    pipeline = loop.run_until_complete(build(config, hooks=Hooks()))
    loop.run_until_complete(pipeline.start())
    prompt = Prompt("m", (ChatMessage("user", "word"),), "word", Parameters(), stream=True)

    async def answers() -> list[MemorySink]:
        sinks = [MemorySink() for _ in range(TURNS)]
        for sink in sinks:
            pipeline.ingress.submit(pipeline.ingress.open("r1"), prompt, sink)
        await asyncio.gather(*(sink.done() for sink in sinks))
        return sinks

    sinks = measure(
        f"stages: streamed answer of 64, {together} per wake-up",
        lambda: loop.run_until_complete(answers()),
        units=TOKENS * TURNS,
        unit="token",
    )
    assert all(len(sink.deltas) == TOKENS and sink.writes == TOKENS // together for sink in sinks)
    loop.run_until_complete(pipeline.aclose())


def test_ticket(measure: Measure) -> None:
    def life() -> Ticket:
        ticket = Ticket("r", 0.0, lambda _: None)
        ticket.end(Reason.DONE, 1.0)
        return ticket

    ticket = measure("ticket: made and ended", life, units=1, unit="request")
    assert ticket.ended == 1.0


def test_template(measure: Measure) -> None:
    """The built-in template; a passage has 1,000 characters."""
    passages = [Passage("word " * 200, "docs/a.md", n, 0.5, "A > B") for n in range(6)]
    template = PromptTemplate(DEFAULT_TEMPLATE, max_chars=200_000, timeout=0.1)
    text = measure(
        "assemble: template over 6 passages",
        lambda: template.render(system="be brief", question="why?", passages=passages),
        units=1,
        unit="request",
    )
    assert text.count("word ") >= 6 * 199


def test_token_budget(measure: Measure) -> None:
    kept = measure(
        "assemble: what fits the budget", lambda: fit(4096, 300, [400] * 6, [150] * 20), units=1, unit="request"
    )
    assert (kept.passages, kept.turns) == (6, 9)


@pytest.mark.parametrize("chars", [100, 10_000])
def test_token_estimate(measure: Measure, chars: int) -> None:
    text = "größe " * (chars // 6) + "x" * (chars % 6)
    tokens = measure(f"assemble: tokens of {chars} characters", lambda: estimate(text), units=1, unit="text")
    assert chars // 4 <= tokens <= chars


def test_redaction(measure: Measure) -> None:
    """A match that two tokens make together."""
    pattern = regex.compile(r"\d{3}-\d{4}")
    tokens = ["word "] * 31 + ["555-01", "23 "] + ["word "] * 31

    def answer() -> str:
        redact = Redact(pattern, "[redacted]", 64)
        return "".join([redact.feed(token) for token in tokens]) + redact.flush()

    text = measure("post: redaction, one match in 64", answer, units=TOKENS, unit="token")
    assert text == "".join(tokens).replace("555-0123", "[redacted]")


def test_clock(measure: Measure) -> None:
    """What each look at the clock costs: the path takes two a hop."""
    clock: Callable[[], float] = time.monotonic
    times = measure("clock: time.monotonic", lambda: [clock() for _ in range(LOOKS)], units=LOOKS, unit="look")
    assert times == sorted(times)
