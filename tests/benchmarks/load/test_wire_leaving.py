"""Clients that go away: the connection is closed at once, so that the server sees it."""

import asyncio

import pytest

from benchmarks.load.answer import End
from benchmarks.load.scenario import Leave
from benchmarks.load.wire import Wire
from tests.benchmarks.load.asking import OK, STREAM, STREAM_HEAD, ask, wired
from tests.servers import (
    Exchange,
    Script,
    ScriptedBackend,
    chunk,
    events,
    head,
    http_chunk,
    says,
    whole,
)


def later(data: bytes) -> Script:
    """More follows after `data`, which a client that leaves does not want."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(data)
        await exchange.gone.wait()
        exchange.close()

    return script


TWO = STREAM_HEAD + http_chunk(events(chunk(role="assistant"), chunk("a"), chunk("b"), done=False))


@pytest.mark.parametrize(
    ("leave", "stream", "data", "status", "tokens"),
    [
        (Leave(share=1, after="sent"), False, b"", 0, 0),
        (Leave(share=1, after="head"), False, head(200, "application/json", Content_Length="9"), 200, 0),
        (Leave(share=1, after="head"), True, STREAM_HEAD, 200, 0),
        (Leave(share=1, after="first_token"), True, TWO, 200, 1),
        (Leave(share=1, after="tokens", tokens=2), True, TWO, 200, 2),
        (Leave(share=1, after="tokens", tokens=2), True, STREAM, 200, 2),
    ],
)
async def test_a_client_that_leaves_closes_at_once(leave: Leave, stream: bool, data: bytes, status: int, tokens: int):
    async with ScriptedBackend(later(data)) as backend, wired(backend.base_url) as wire:
        answer = await ask(wire, stream=stream, leave=leave)
        async with asyncio.timeout(1):
            await backend.until(lambda backend: len(backend.exchanges) == 1)
            await backend.exchanges[0].gone.wait()
        assert (answer.end, answer.status, answer.tokens) == (End.LEFT, status, tokens)
        assert 0 < answer.sent <= answer.ended
        assert sum(n for _, n in answer.gaps) == max(tokens - 1, 0)
        assert wire.open_connections == 0


async def test_a_client_that_leaves_when_it_has_sent_has_sent_all():
    body = b'{"model":"' + b"m" * (8 << 20) + b'"}'
    async with ScriptedBackend(says(OK)) as backend, wired(backend.base_url) as wire:
        for kept in (False, True):
            if kept:
                await ask(wire)
            answer = await ask(wire, leave=Leave(share=1, after="sent"), body=body)
            assert answer.end is End.LEFT
            await backend.until(lambda backend: [it.body for it in backend.exchanges][-1:] == [body])
            await backend.until(lambda backend: backend.open == 0)
            backend.exchanges.clear()


async def test_a_client_that_leaves_after_a_time():
    leave = Leave(share=1, after="seconds", seconds=0.05)
    async with ScriptedBackend(later(TWO)) as backend, wired(backend.base_url) as wire:
        answer = await ask(wire, stream=True, leave=leave, leave_in=0.05)
        await asyncio.wait_for(backend.exchanges[0].gone.wait(), 1)
        assert (answer.end, answer.tokens) == (End.LEFT, 2)
        assert 0.045 <= answer.ended - answer.sent < 1
        answer = await ask(wire, stream=True, leave=leave, leave_in=0.5, patience=0.05)
        assert answer.end is End.TIMED_OUT


async def test_a_client_that_would_have_left_later_stays_to_the_end():
    async with ScriptedBackend(says(STREAM)) as backend, wired(backend.base_url) as wire:
        leave = Leave(share=1, after="tokens", tokens=4)
        assert (await ask(wire, stream=True, leave=leave)).end is End.WHOLE


async def test_a_refusal_is_read_before_leaving():
    async with ScriptedBackend(says(whole(b"{}", 503))) as backend, wired(backend.base_url) as wire:
        assert (await ask(wire, leave=Leave(share=1, after="head"))).end is End.REFUSED


@pytest.mark.parametrize("data", [b"", STREAM_HEAD, TWO])
async def test_a_cancelled_request_closes_its_connection(data: bytes):
    async with ScriptedBackend(later(data)) as backend, wired(backend.base_url) as wire:
        asking = asyncio.ensure_future(ask(wire, stream=True))
        await backend.until(lambda backend: len(backend.exchanges) == 1)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.wait_for(backend.exchanges[0].gone.wait(), 1)
        assert wire.open_connections == 0


async def test_closing_ends_what_is_under_way():
    async with ScriptedBackend(later(TWO)) as backend:
        wire = Wire(backend.base_url)
        asking = asyncio.ensure_future(ask(wire, stream=True))
        await backend.until(lambda backend: len(backend.exchanges) == 1)
        await wire.aclose()
        assert (await asking).end is End.BROKEN
        await asyncio.wait_for(backend.exchanges[0].gone.wait(), 1)
