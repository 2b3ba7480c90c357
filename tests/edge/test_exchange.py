"""A client that leaves, at every place where its request can be, leaves nothing behind."""

import asyncio

import pytest
from structlog.testing import capture_logs

from pipeline.core.outcomes import Outcome, Place, Reason
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.wire import LIMIT, Wire, ask, chat, connected, post
from tests.flows import config
from tests.http import Serving, serving
from workers.base import Delta, DeltaBatch

CONFIG = scripted_config(hold_max_ms=100, keepalive_comment_ms=50)


def leave_quietly(wire: Wire) -> None:
    wire.writer.close()


def leave_half(wire: Wire) -> None:
    """Closes the sending side only: a client that could still read cannot be told from one that has gone."""
    wire.half_close()


LEAVING = [leave_quietly, leave_half, Wire.reset]


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


async def ended(server: Serving) -> list[tuple[Outcome, Reason, Place]]:
    """Outcome, reason and place of every request, once they have all ended."""
    async with asyncio.timeout(LIMIT):
        while len(server.books.ended) < max(1, len(server.books.opened)):
            await asyncio.sleep(0.005)
    endings = [ticket.ending for ticket in server.books.ended]
    return [(ending.outcome, ending.reason, ending.place) for ending in endings if ending is not None]


@pytest.mark.parametrize("leave", LEAVING)
async def test_while_its_body_is_read(said, leave):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(b"{", length=100))
        await opened(server)
        leave(wire)
        assert await ended(server) == [(Outcome.CANCELLED, Reason.CLIENT_GONE, Place.INGRESS)]


@pytest.mark.parametrize("leave", LEAVING)
async def test_while_it_is_queued(leave):
    conf = config(
        stages={"inference": {"concurrency": 1}},
        workers=[{"name": "slow", "kind": "echo", "first_token_ms": 60_000}],
        routes=[{"name": "echo", "worker": "slow"}],
    )
    async with serving(conf) as server:
        async with connected(server.port) as first, connected(server.port) as wire:
            await first.send(post(chat()))
            await opened(server, 1)
            await wire.send(post(chat()))
            await opened(server, 2)
            leave(wire)
            async with asyncio.timeout(1):
                while not server.books.ended:
                    await asyncio.sleep(0.005)
            (ending,) = [ticket.ending for ticket in server.books.ended]
            assert ending is not None
            assert (ending.outcome, ending.place) == (Outcome.CANCELLED, Place.INFERENCE)
        assert len(await ended(server)) == 2


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("leave", LEAVING)
async def test_while_it_waits_for_its_backend(said, leave, stream):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(chat(model="said", stream=stream)))
        await said.called.wait()
        leave(wire)
        async with asyncio.timeout(1):
            await said.closed.wait()
        assert await ended(server) == [(Outcome.CANCELLED, Reason.CLIENT_GONE, Place.INFERENCE)]


@pytest.mark.parametrize("leave", LEAVING)
async def test_while_its_head_is_out_but_no_delta(said, leave):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(chat(model="said", stream=True)))
        await wire.head()
        leave(wire)
        async with asyncio.timeout(1):
            await said.closed.wait()
        assert [ending[:2] for ending in await ended(server)] == [(Outcome.CANCELLED, Reason.CLIENT_GONE)]


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/prompts"])
@pytest.mark.parametrize("leave", LEAVING)
async def test_while_its_answer_is_written(said, leave, path):
    body = chat(model="said", stream=True) if path.endswith("completions") else {"route": "said", "prompt": "x"}
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(body, path))
        said.say("a")
        await wire.head()
        leave(wire)
        async with asyncio.timeout(1):
            await said.closed.wait()
        assert await ended(server) == [(Outcome.CANCELLED, Reason.CLIENT_GONE, Place.STREAM)]


@pytest.mark.parametrize("leave", [leave_quietly, Wire.reset])
async def test_while_it_is_waited_for(said, leave):
    async with (
        serving(CONFIG, workers={"said": said}) as server,
        connected(server.port, receive_buffer=4096) as wire,
    ):
        await wire.send(post(chat(model="said", stream=True)))
        for _ in range(1000):
            said.batches.put_nowait(DeltaBatch((Delta("x" * 4000),)))
        left = -1
        while left != said.batches.qsize():
            left = said.batches.qsize()
            await asyncio.sleep(0.05)
        leave(wire)
        async with asyncio.timeout(1):
            await said.closed.wait()
        assert await ended(server) == [(Outcome.CANCELLED, Reason.CLIENT_GONE, Place.STREAM)]


async def test_requests_behind_it_on_the_same_connection_are_not_begun(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        async with connected(server.port) as wire:
            await wire.send(post(chat(model="said")) * 3)
            await said.called.wait()
            wire.reset()
            assert len(await ended(server)) == 1
        assert len(said.requests) == 1


async def test_a_bug_in_a_dialect_is_that_requests_failure(said, monkeypatch):
    def broken(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    async with serving(CONFIG, workers={"said": said}) as server:
        with monkeypatch.context() as patched, capture_logs() as logs:
            patched.setattr("pipeline.edge.decode.question_of", broken)
            answer = await ask(server.port, post(chat()))
        assert (answer.status, answer.code) == (500, "internal_error")
        assert "ZeroDivisionError" not in answer.body.decode()
        assert [entry["event"] for entry in logs] == ["request handler failed"]
        assert (await ask(server.port, post(chat()))).status == 200
        assert [outcome for outcome, _, _ in await ended(server)] == [Outcome.FAILED, Outcome.COMPLETED]


async def opened(server: Serving, count: int = 1) -> None:
    async with asyncio.timeout(LIMIT):
        while len(server.books.opened) < count:
            await asyncio.sleep(0.005)
