"""How answers reach their clients: when the head goes out, what a failure becomes, who waits for whom."""

import asyncio

import pytest

from pipeline.core.outcomes import Reason
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.wire import LIMIT, chat, connected, events, post
from tests.http import Serving, serving
from workers.base import Delta, DeltaBatch
from workers.errors import WorkerError, WorkerErrorKind

RESET = WorkerError(WorkerErrorKind.RESET, "the connection broke")
CHAT = post(chat(model="said", stream=True))
NATIVE = post({"route": "said", "prompt": "x"}, "/v1/prompts")

CONFIG = scripted_config(hold_max_ms=100, keepalive_comment_ms=50)


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


def outcomes(server: Serving) -> list[Reason]:
    return [ticket.ending.reason for ticket in server.books.ended if ticket.ending is not None]


@pytest.mark.parametrize("request_bytes", [CHAT, NATIVE])
async def test_a_failure_before_the_first_delta_has_a_status_of_its_own(said, request_bytes):
    async with serving(CONFIG, workers={"said": said}) as server:
        async with connected(server.port) as wire:
            await wire.send(request_bytes)
            await said.called.wait()
            said.batches.put_nowait(RESET)
            answer = await wire.answer()
        assert answer.status == 502
        assert answer.headers["content-type"] == "application/json"
        assert answer.code == "backend_error"


@pytest.mark.parametrize("request_bytes", [CHAT, NATIVE])
async def test_a_long_wait_for_the_first_delta_shows_life(said, request_bytes):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(request_bytes)
        head = await wire.head()
        assert (head.status, head.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        assert [await wire.chunk(), await wire.chunk()] == [b": keep-alive\n\n"] * 2
        said.say("a")
        told = b""
        while b"a" not in b"".join(str(data).encode() for _, data in events(told)):
            told += await wire.chunk()
        await asyncio.sleep(0.15)  # three times the interval: nothing must come now
        said.say(end=True)
        rest = b""
        while chunk := await wire.chunk():
            rest += chunk
        assert b"keep-alive" not in rest


@pytest.mark.parametrize(("request_bytes", "name"), [(CHAT, "message"), (NATIVE, "error")])
async def test_a_failure_after_a_long_wait_is_an_event(said, request_bytes, name):
    async with serving(CONFIG, workers={"said": said}) as server:
        async with connected(server.port) as wire:
            await wire.send(request_bytes)
            await wire.head()
            assert await wire.chunk() == b": keep-alive\n\n"
            said.batches.put_nowait(RESET)
            told = b""
            while chunk := await wire.chunk():
                told += chunk
        assert [(event, data["error"]["code"]) for event, data in events(told)] == [(name, "backend_error")]
        assert outcomes(server) == [Reason.BACKEND_RESET]


@pytest.mark.parametrize(("request_bytes", "name"), [(CHAT, "message"), (NATIVE, "error")])
async def test_a_failure_in_the_middle_is_an_event_and_the_last(said, request_bytes, name):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(request_bytes)
        said.say("a")
        said.batches.put_nowait(RESET)
        answer = await wire.answer()
        assert answer.status == 200
        last, data = answer.events[-1]
        assert (last, data["error"]["code"]) == (name, "backend_error")
        assert "[DONE]" not in [told for _, told in answer.events]
        await wire.send(post(chat("still there?")))  # the stream has ended in good order
        assert (await wire.answer()).status == 200


async def test_a_deadline_in_the_middle_is_an_event(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        request = post(chat(model="said", stream=True), "/v1/chat/completions", "X-Request-Timeout-Ms: 150")
        async with connected(server.port) as wire:
            await wire.send(request)
            said.say("a")
            answer = await wire.answer()
        assert answer.events[-1][1]["error"]["code"] == "deadline_exceeded"
        assert outcomes(server) == [Reason.DEADLINE]
        await said.closed.wait()


async def test_a_slow_client_holds_back_its_own_backend_call_and_no_other(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        async with connected(server.port, receive_buffer=4096) as slow:
            await slow.send(CHAT)
            for _ in range(1000):
                said.batches.put_nowait(DeltaBatch((Delta("x" * 4000),)))
            said.say(end=True)
            left = -1
            while left != said.batches.qsize():  # until nothing is taken any more
                left = said.batches.qsize()
                await asyncio.sleep(0.1)
            assert left > 100
            async with connected(server.port) as other:
                await other.send(post(chat("hello")))
                assert (await other.answer()).status == 200
            answer = await slow.answer()  # it reads at last, and misses nothing
        texts = [data["choices"][0]["delta"].get("content", "") for _, data in answer.events[:-1]]
        assert sum(map(len, texts)) == 1000 * 4000
        assert outcomes(server) == [Reason.DONE, Reason.DONE]


async def test_a_client_that_does_not_read_is_left_at_the_deadline(said):
    conf = scripted_config(idle_timeout_ms=300)
    async with serving(conf, workers={"said": said}) as server, connected(server.port, receive_buffer=4096) as wire:
        await wire.send(post(chat(model="said", stream=True), "/v1/chat/completions", "X-Request-Timeout-Ms: 200"))
        for _ in range(1000):
            said.batches.put_nowait(DeltaBatch((Delta("x" * 4000),)))
        async with asyncio.timeout(LIMIT):
            await said.closed.wait()
            while server.edge.connections:
                await asyncio.sleep(0.01)
        assert outcomes(server) in ([Reason.DEADLINE], [Reason.CLIENT_GONE])


async def test_a_client_that_never_reads_a_large_answer_is_left(said):
    conf = scripted_config(idle_timeout_ms=300)
    async with serving(conf, workers={"said": said}) as server, connected(server.port, receive_buffer=4096) as wire:
        await wire.send(post(chat(model="said")))
        said.batches.put_nowait(DeltaBatch((Delta("x" * 10_000_000, 0, "stop"),)))
        said.batches.put_nowait(None)
        async with asyncio.timeout(LIMIT):
            while not server.edge.connections:
                await asyncio.sleep(0.01)
            while server.edge.connections:
                await asyncio.sleep(0.01)


async def test_a_large_answer_reaches_a_client_that_reads(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.batches.put_nowait(DeltaBatch((Delta("x" * 10_000_000, 0, "stop"),)))
        said.batches.put_nowait(None)
        async with connected(server.port) as wire:
            await wire.send(post(chat(model="said")))
            answer = await wire.answer()
            assert len(answer.json["choices"][0]["message"]["content"]) == 10_000_000
            await wire.send(post(chat("again")))
            assert (await wire.answer()).status == 200
