"""The body of an answer as it comes over a real connection: all of it, in order, and held back while nobody takes
it."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
import pytest

from tests.servers import LAST_CHUNK, Exchange, ScriptedBackend, head, http_chunk, says, says_and_resets, whole
from workers.base import Delta, DeltaBatch, Spout
from workers.errors import WorkerError, WorkerErrorKind
from workers.tap import Tap, drawn
from workers.transport import HttpClient

CHUNKED = head(Transfer_Encoding="chunked")
BODY = bytes(range(256)) * 64


@asynccontextmanager
async def answer(backend: ScriptedBackend) -> AsyncIterator[aiohttp.StreamReader]:
    client = HttpClient(connect_timeout=1.0, max_connections=4, keep_idle=5.0)
    try:
        async with client.call("POST", backend.base_url, headers={}, body=b"{}") as response:
            yield response.content
    finally:
        await client.aclose()


class Taken:
    """Takes pieces; `more` says whether it wants another one at once."""

    def __init__(self, more: Callable[[], bool] = lambda: True) -> None:
        self.pieces: list[bytes] = []
        self._more = more

    def __call__(self, data: bytes) -> bool:
        assert data
        self.pieces.append(data)
        return self._more()

    @property
    def body(self) -> bytes:
        return b"".join(self.pieces)


async def test_a_body_that_came_with_its_head_is_taken_at_once():
    async with ScriptedBackend(says(whole(BODY))) as backend, answer(backend) as content:
        taken = Taken()
        assert not await Tap(content, taken).run()
        assert taken.body == BODY


async def test_an_empty_body_is_none():
    async with ScriptedBackend(says(whole(b""))) as backend, answer(backend) as content:
        taken = Taken()
        assert not await Tap(content, taken).run()
        assert taken.pieces == []


@pytest.mark.parametrize("seed", range(5))
async def test_whatever_its_pieces_and_whoever_is_full_it_comes_whole_and_in_order(seed: int):
    draw = random.Random(seed)
    wire, at = CHUNKED, 0
    while at < len(BODY):
        size = draw.choice([1, 7, 300, 4000])
        wire += http_chunk(BODY[at : at + size])
        at += size
    wire += LAST_CHUNK

    async def script(exchange: Exchange) -> None:
        sent = 0
        while sent < len(wire):
            size = draw.choice([1, 2, 50, 900, 5000])
            await exchange.send(wire[sent : sent + size])
            sent += size
            if draw.random() < 0.2:
                await asyncio.sleep(0.001)

    async with ScriptedBackend(script) as backend, answer(backend) as content:
        taken = Taken(lambda: draw.random() < 0.5)
        tap = Tap(content, taken)
        while await tap.run():
            for _ in range(draw.randrange(3)):
                await asyncio.sleep(0)
        assert taken.body == BODY


async def test_pieces_of_one_read_are_one():
    async def script(exchange: Exchange) -> None:
        await exchange.send(CHUNKED)
        await asyncio.sleep(0.02)
        await exchange.send(b"".join([http_chunk(b"ab")] * 3) + LAST_CHUNK)

    async with ScriptedBackend(script) as backend, answer(backend) as content:
        taken = Taken()
        await Tap(content, taken).run()
        assert taken.pieces == [b"ababab"]


async def test_a_backend_is_held_back_while_nobody_takes_its_answer():
    stopped = asyncio.Event()
    piece = http_chunk(bytes(1 << 16))

    async def script(exchange: Exchange) -> None:
        await exchange.send(CHUNKED)
        for _ in range(400):  # more than what all buffers on the way hold
            await exchange.send(piece)
        while exchange.unsent() < len(piece):
            await asyncio.sleep(0.001)
        stopped.set()
        await exchange.send(LAST_CHUNK)

    async with ScriptedBackend(script) as backend, answer(backend) as content:
        full = True
        taken = Taken(lambda: not full)
        tap = Tap(content, taken)
        assert await tap.run()
        await asyncio.wait_for(stopped.wait(), 5)
        assert len(taken.body) < 300 << 16
        full = False
        assert not await tap.run()
        assert len(taken.body) == 400 << 16


async def test_what_came_before_a_reset_is_taken_and_the_reset_raised():
    script = says_and_resets(CHUNKED + http_chunk(b"begun"))

    async def slowly(exchange: Exchange) -> None:
        await exchange.send(CHUNKED + http_chunk(b"begun"))
        await asyncio.sleep(0.05)
        exchange.reset()

    async with ScriptedBackend(slowly) as backend:
        taken = Taken()
        with pytest.raises(WorkerError) as told:
            async with answer(backend) as content:
                await Tap(content, taken).run()
        assert (taken.body, told.value.kind) == (b"begun", WorkerErrorKind.RESET)
    async with ScriptedBackend(script) as backend:
        with pytest.raises(WorkerError):
            async with answer(backend) as content:
                await Tap(content, Taken()).run()


async def test_a_reset_while_nobody_takes_is_told_to_who_comes_back():
    async def script(exchange: Exchange) -> None:
        await exchange.send(CHUNKED + http_chunk(b"begun"))
        await exchange.gone.wait()

    async with ScriptedBackend(script) as backend:

        async def call() -> None:
            async with answer(backend) as content:
                tap = Tap(content, Taken(lambda: False))
                assert await tap.run()
                backend.exchanges[0].reset()
                await asyncio.sleep(0.05)
                while True:
                    await asyncio.wait_for(tap.run(), 1)

        with pytest.raises(WorkerError):
            await call()


async def test_who_wants_nothing_more_leaves_the_connection_to_the_next_call():
    client = HttpClient(connect_timeout=1.0, max_connections=1, keep_idle=5.0)
    bodies = [b"one", b"two", b"three"]
    async with ScriptedBackend() as backend:
        for body in bodies:
            backend.script = says(CHUNKED + http_chunk(body) + LAST_CHUNK)
            async with client.call("POST", backend.base_url, headers={}, body=b"{}") as response:
                taken = Taken(lambda: False)
                tap = Tap(response.content, taken)
                tap.over = True
                await tap.run()
                assert taken.body == body
                await response.content.wait_eof()
        assert backend.connections == 1
        await client.aclose()


async def test_a_call_that_is_cancelled_ends_its_connection():
    async def script(exchange: Exchange) -> None:
        await exchange.send(CHUNKED + http_chunk(b"begun"))
        await exchange.gone.wait()

    async with ScriptedBackend(script) as backend:
        began = asyncio.Event()

        async def call() -> None:
            async with answer(backend) as content:
                await Tap(content, lambda _: began.set() or True).run()

        task = asyncio.create_task(call())
        await asyncio.wait_for(began.wait(), 5)
        task.cancel()
        await asyncio.wait((task,))
        await backend.until(lambda b: b.open == 0)


# As a generator.


async def test_batches_are_drawn_one_by_one_and_the_error_comes_last():
    async def pour(spout: Spout) -> None:
        for text in "abc":
            if not spout.put(DeltaBatch((Delta(text),))):
                await spout.room()
        raise WorkerError(WorkerErrorKind.RESET, "gone")

    texts: list[str] = []

    async def draw() -> None:
        async for batch in drawn(pour):
            texts.append(batch.deltas[0].text)  # noqa: PERF401 - some come before the error

    with pytest.raises(WorkerError, match="gone"):
        await draw()
    assert texts == ["a", "b", "c"]


async def test_closing_the_generator_stops_who_pours():
    stopped = asyncio.Event()

    async def pour(spout: Spout) -> None:
        try:
            spout.put(DeltaBatch((Delta("a"),)))
            await asyncio.Event().wait()
        finally:
            stopped.set()

    batches = drawn(pour)
    async for _ in batches:
        break
    await batches.aclose()
    assert stopped.is_set()


async def test_an_error_that_nobody_waits_for_any_more_is_not_complained_about():
    complaints: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))

    async def pour(spout: Spout) -> None:
        spout.put(DeltaBatch((Delta("a"),)))
        raise WorkerError(WorkerErrorKind.RESET, "gone")

    batches = drawn(pour)
    async for _ in batches:
        break
    await batches.aclose()
    del batches, pour
    await asyncio.sleep(0)
    assert complaints == []
