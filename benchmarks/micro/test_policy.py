"""What is decided about a request: whether it may come in, what a refused one is told, which shard owns it."""

import asyncio
from typing import cast

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from benchmarks.micro.measure import Measure
from config.schema import Config, ServerSection
from pipeline.core.errors import HeadgateError, Overloaded
from pipeline.core.outcomes import Reason
from pipeline.core.ports import Hooks
from pipeline.edge.call import Edge
from pipeline.edge.replies import HttpCall, Reply, refusal
from pipeline.edge.sse import eager
from pipeline.ingress import Prompt
from pipeline.policy.admission import retry_after
from pipeline.policy.affinity import owner, ranked
from pipeline.wiring import build
from workers.base import ChatMessage, Parameters

REQUESTS = 64
SESSIONS = [f"conversation-{number:08x}" for number in range(REQUESTS)]


class Told:
    """A sink that counts the refusals it is told of."""

    def __init__(self) -> None:
        self.errors: list[HeadgateError] = []

    def begin(self, message: object) -> None: ...

    def write(self, answer: object) -> None: ...

    def finish(self, usage: object) -> None: ...

    def fail(self, error: HeadgateError) -> None:
        self.errors.append(error)


def test_refused_at_the_door(measure: Measure, loop: asyncio.AbstractEventLoop) -> None:
    """From arrival to the one ending, with nothing watching; Inference's queue has no place left."""
    config = msgspec.convert(
        {"workers": [{"name": "w", "kind": "echo"}], "routes": [{"name": "m", "worker": "w"}]}, Config
    )
    pipeline = loop.run_until_complete(build(config, hooks=Hooks()))
    ingress, inbox = pipeline.ingress, pipeline.flow.inference.inbox
    while inbox.reserve():
        pass
    prompt = Prompt("m", (ChatMessage("user", "why?"),), "why?", Parameters(), stream=False)

    def refuse() -> Told:
        sink = Told()
        for _ in range(REQUESTS):
            ingress.submit(ingress.open("r1"), prompt, sink)
        return sink

    sink = measure("admission: refused at the door", refuse, units=REQUESTS, unit="request")
    assert len(sink.errors) == REQUESTS
    assert {error.reason for error in sink.errors} == {Reason.QUEUE_FULL}
    assert not ingress.tickets
    loop.run_until_complete(pipeline.aclose())


def test_retry_after(measure: Measure) -> None:
    waits = measure(
        "admission: when to come back",
        lambda: [retry_after(waiting, 25.0) for waiting in range(REQUESTS)],
        units=REQUESTS,
        unit="request",
    )
    assert waits[0] == 1.0
    assert waits[50] == 2.0


class Wire:
    """Stands for aiohttp's writer, behind which the system begins."""

    def __init__(self) -> None:
        self.sent = b""

    async def write(self, data: bytes) -> None:
        self.sent = data


def test_refusal_bytes(measure: Measure, loop: asyncio.AbstractEventLoop) -> None:
    wire = Wire()
    request = make_mocked_request("POST", "/v1/chat/completions", writer=wire)
    call = HttpCall(request, "r1", "X-Request-Id: r1\r\n", "", Edge(ServerSection(), loop))
    error = Overloaded("The server has no place left", place="inference", reason=Reason.QUEUE_FULL, retry_after=2.5)

    def answer() -> Reply:
        return cast(Reply, refusal(call, error))

    measure("admission: the refusal's bytes", lambda: eager(answer().write_eof()), units=1, unit="request")
    assert wire.sent.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
    assert b"retry-after-ms: 2500\r\n" in wire.sent
    assert b"X-Headgate-Shed-Stage: inference\r\n" in wire.sent


@pytest.mark.parametrize("shards", [2, 16, 64])
def test_session_hash(measure: Measure, shards: int) -> None:
    live = range(shards)
    owners = measure(
        f"session: owner among {shards} shards",
        lambda: [owner(session, live) for session in SESSIONS],
        units=REQUESTS,
        unit="session",
    )
    assert set(owners) <= set(live)
    assert len(set(owners)) > min(shards, REQUESTS) // 2


def test_session_ranks(measure: Measure) -> None:
    ranks = measure(
        "session: ranks of 16 shards",
        lambda: [ranked(session, range(16)) for session in SESSIONS],
        units=REQUESTS,
        unit="session",
    )
    assert [rank[0] for rank in ranks] == [owner(session, range(16)) for session in SESSIONS]
