"""Connections: kept, used again, and lost."""

import asyncio

import pytest

from benchmarks.load.answer import End
from benchmarks.load.wire_answer import Incoming
from benchmarks.load.wire_connection import Connection, Pool
from tests.benchmarks.load.asking import OK, STREAM, ask, wired
from tests.servers import (
    Exchange,
    Script,
    ScriptedBackend,
    completion,
    head,
    says,
    says_and_closes,
    says_and_resets,
    whole,
)


async def closes(exchange: Exchange) -> None:
    exchange.close()


async def resets(exchange: Exchange) -> None:
    exchange.reset()


async def test_connections_are_kept():
    async with ScriptedBackend(says(OK)) as backend, wired(backend.base_url) as wire:
        for stream, data in ((False, OK), (True, STREAM), (False, whole(b"{}", 503)), (False, OK)):
            backend.script = says(data)
            assert (await ask(wire, stream=stream)).end in (End.WHOLE, End.REFUSED)
        assert backend.connections == wire.opened == wire.peak == wire.open_connections == 1


async def test_the_connection_used_last_is_taken_first():
    both = asyncio.Barrier(2)

    async def together(exchange: Exchange) -> None:
        await both.wait()
        await exchange.send(OK)

    async with ScriptedBackend(together) as backend, wired(backend.base_url) as wire:
        await asyncio.gather(ask(wire), ask(wire))
        assert (wire.open_connections, wire.peak) == (2, 2)
        backend.script = says(OK)
        for _ in range(3):
            await ask(wire)
        assert len({exchange.connection for exchange in backend.exchanges[2:]}) == 1


async def test_no_more_connections_are_kept_than_allowed():
    both = asyncio.Barrier(3)

    async def together(exchange: Exchange) -> None:
        await both.wait()
        await exchange.send(OK)

    async with ScriptedBackend(together) as backend, wired(backend.base_url, max_idle=1) as wire:
        answers = await asyncio.gather(ask(wire), ask(wire), ask(wire))
        assert [answer.end for answer in answers] == [End.WHOLE] * 3
        assert (wire.open_connections, wire.opened) == (1, 3)
        await backend.until(lambda backend: backend.open == 1)


@pytest.mark.parametrize(
    "data",
    [
        whole(completion("a"), Connection="close"),
        OK.replace(b"HTTP/1.1", b"HTTP/1.0"),
        OK + OK,  # nobody asked for the second one
        OK + b"HTTP/1.1 2",
        OK + b"garbage",
    ],
)
async def test_a_connection_that_cannot_be_used_again_is_closed(data: bytes):
    async with ScriptedBackend(says(data)) as backend, wired(backend.base_url) as wire:
        assert (await ask(wire)).end is End.WHOLE
        assert wire.open_connections == 0
        await backend.until(lambda backend: backend.open == 0)
        assert (await ask(wire)).end is End.WHOLE
        assert (backend.connections, wire.resent) == (2, 0)


async def test_http_1_0_may_keep_its_connection():
    data = whole(completion("a"), Connection="keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with ScriptedBackend(says(data)) as backend, wired(backend.base_url) as wire:
        assert [(await ask(wire)).end for _ in range(2)] == [End.WHOLE] * 2
        assert backend.connections == 1


async def test_what_comes_unasked_closes_a_kept_connection():
    more = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK)
        await more.wait()
        await exchange.send(OK)

    async with ScriptedBackend(script) as backend, wired(backend.base_url) as wire:
        await ask(wire)
        assert wire.open_connections == 1
        more.set()
        await backend.until(lambda backend: backend.open == 0)
        assert wire.open_connections == 0


@pytest.mark.parametrize("ending", [closes, resets])
async def test_a_kept_connection_that_its_server_closes_is_not_used_again(ending: Script):
    later = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(OK)
        await later.wait()
        await ending(exchange)

    async with ScriptedBackend(script) as backend, wired(backend.base_url) as wire:
        await ask(wire)
        later.set()
        await backend.until(lambda backend: backend.open == 0)
        async with asyncio.timeout(1):
            while wire.open_connections:
                await asyncio.sleep(0)
        backend.script = says(OK)
        answer = await ask(wire)
        assert (answer.end, answer.resent, backend.connections) == (End.WHOLE, 0, 2)


@pytest.mark.parametrize("ending", [closes, resets])
async def test_a_request_on_a_kept_connection_that_closes_is_sent_once_more(ending: Script):
    async with ScriptedBackend(says(OK), queued=[says(OK), ending]) as backend, wired(backend.base_url) as wire:
        await ask(wire)
        answer = await ask(wire)
        assert (answer.end, answer.resent, answer.detail) == (End.WHOLE, 1, "")
        assert (len(backend.exchanges), backend.connections, wire.resent) == (3, 2, 1)
        assert backend.exchanges[1].body == backend.exchanges[2].body


async def test_a_request_is_not_sent_a_third_time():
    async with ScriptedBackend(closes, queued=[says(OK)]) as backend, wired(backend.base_url) as wire:
        await ask(wire)
        answer = await ask(wire)
        assert (answer.end, answer.resent, len(backend.exchanges)) == (End.BROKEN, 1, 3)
        assert answer.connection_error


async def test_a_client_that_sends_nothing_twice_has_lost_it():
    async with (
        ScriptedBackend(says(OK), queued=[says(OK), closes]) as backend,
        wired(backend.base_url, resend=False) as wire,
    ):
        await ask(wire)
        answer = await ask(wire)
        assert (answer.end, answer.resent, len(backend.exchanges)) == (End.BROKEN, 0, 2)
        assert (await ask(wire)).end is End.WHOLE


async def test_a_request_on_a_fresh_connection_is_not_sent_again():
    async with ScriptedBackend(closes) as backend, wired(backend.base_url) as wire:
        answer = await ask(wire)
        assert (answer.end, answer.resent, len(backend.exchanges)) == (End.BROKEN, 0, 1)


async def test_an_answer_that_began_is_not_asked_for_again():
    async with ScriptedBackend(queued=[says(OK), says_and_closes(b"H")]) as backend, wired(backend.base_url) as wire:
        await ask(wire)
        answer = await ask(wire)
        assert (answer.end, answer.resent, len(backend.exchanges)) == (End.BROKEN, 0, 2)


async def test_what_was_sent_once_and_then_could_not_be_sent_again():
    async def vanishes(exchange: Exchange) -> None:
        backend._server.close()
        exchange.close()

    async with ScriptedBackend(queued=[says(OK), vanishes]) as backend, wired(backend.base_url) as wire:
        await ask(wire)
        answer = await ask(wire)
        assert (answer.end, answer.resent, answer.sent) == (End.UNREACHABLE, 1, 0.0)


@pytest.mark.parametrize("answered", [True, False])
async def test_an_answer_before_the_request_was_read(answered: bool):
    """Its connection cannot be kept: what is not written yet would stand before the next request."""
    data = whole(b'{"error":{"code":"request_too_large"}}', 413)
    script = says(data) if answered else says_and_closes(data)
    async with ScriptedBackend(script, reads=False) as backend, wired(backend.base_url) as wire:
        answer = await ask(wire, body=b'{"model":"' + b"m" * (32 << 20))
        assert (answer.end, answer.status, answer.code) == (End.REFUSED, 413, "request_too_large")
        assert wire.open_connections == 0
        if answered:
            backend.exchanges[0].listen()
        await backend.until(lambda backend: backend.open == 0)


async def test_an_answer_ends_with_the_targets_side_of_the_connection():
    """Even if the target reads no more, so that what is to be written to it stays."""

    async def script(exchange: Exchange) -> None:
        await exchange.send(head(413, "") + b"too large")
        exchange._transport.write_eof()

    async with ScriptedBackend(script, reads=False) as backend, wired(backend.base_url) as wire:
        answer = await ask(wire, body=b'{"model":"' + b"m" * (32 << 20))
        assert (answer.end, answer.status, answer.detail) == (End.REFUSED, 413, "too large")
        assert wire.open_connections == 0


async def test_time_that_is_up_late_ends_no_other_answer():
    """A timer may go off after its answer is there, when the connection already has the next request."""
    pool = Pool(most=1, most_kept=1)
    async with ScriptedBackend(says(OK)) as backend:
        port = int(backend.base_url.rpartition(":")[2].removesuffix("/v1"))
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(pool), "127.0.0.1", port)
        first, second = (Incoming(stream=False, leave=None, limit=1000) for _ in range(2))
        request = b"POST / HTTP/1.1\r\n\r\n"
        await connection.send(request, first)
        waiter = connection.send(request, second)
        connection.give_up(first, End.TIMED_OUT)
        await waiter
        assert (first.answer.end, second.answer.end) == (End.WHOLE, End.WHOLE)
        connection.abort()
        await backend.until(lambda backend: backend.open == 0)


@pytest.mark.parametrize("ending", [says_and_closes, says_and_resets])
@pytest.mark.slow
async def test_a_stream_that_ends_at_any_byte(ending):
    head_size = STREAM.index(b"\r\n\r\n") + 4
    async with ScriptedBackend() as backend, wired(backend.base_url) as wire:
        for size in range(len(STREAM) + 1):
            backend.script = ending(STREAM[:size])
            answer = await ask(wire, stream=True)
            if size == len(STREAM):
                assert answer.end is End.WHOLE or ending is says_and_resets
            else:
                assert (answer.end, answer.sent > 0) == (End.BROKEN, True), size
            if ending is says_and_closes:  # a reset takes along what was not read
                assert answer.status == (200 if size >= head_size else 0), size
            assert answer.connection_error is (answer.status == 0)
            assert answer.resent == 0
        assert wire.open_connections <= 1
