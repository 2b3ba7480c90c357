"""Connections: kept, lost, refused, and closed by a client that leaves."""

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from time import monotonic

import pytest
from aiohttp import web

from benchmarks.load import wire as wire_module
from benchmarks.load.answer import End
from benchmarks.load.scenario import Leave
from benchmarks.load.wire import Wire
from tests.benchmarks.load.asking import ask, wired
from tests.benchmarks.load.targets import ANSWER, serving
from tests.servers import (
    Exchange,
    Script,
    ScriptedBackend,
    chunk,
    completion,
    events,
    head,
    http_chunk,
    says,
    says_and_closes,
    says_and_resets,
    says_and_waits,
    streamed,
    whole,
)

OK = whole(completion("hello"))
STREAM = streamed(chunk("a"), chunk("b"), chunk("c"), chunk(finish="stop"))
STREAM_HEAD = head(Transfer_Encoding="chunked")


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


# Clients that leave.


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


# No connection.


async def test_nobody_listens():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    async with wired(f"http://127.0.0.1:{port}/v1") as wire:
        answer = await ask(wire)
    assert (answer.end, answer.sent, answer.connection_error) == (End.UNREACHABLE, 0.0, True)
    assert "111" in answer.detail
    assert answer.ended > 0


async def test_an_unknown_host():
    async with wired("http://no-such-host.invalid/v1") as wire:
        answer = await ask(wire)
    assert answer.end is End.UNREACHABLE
    assert answer.detail


@pytest.fixture
async def deaf() -> AsyncIterator[str]:
    """A host that does not answer a request for a connection: its queue of them is full."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener:
        fillers = [socket.socket() for _ in range(4)]
        try:
            for filler in fillers:
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            await asyncio.sleep(0.01)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        finally:
            for filler in fillers:
                filler.close()


async def test_a_connection_that_takes_too_long(deaf: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(wire_module, "CONNECT_WITHIN", 0.05)
    async with wired(deaf) as wire:
        answer = await ask(wire)
    assert (answer.end, answer.sent, answer.detail) == (End.UNREACHABLE, 0.0, "no connection within 0.05 s")


async def test_waiting_for_a_connection_counts(deaf: str):
    async with wired(deaf) as wire:
        began = monotonic()
        timed_out, left = await asyncio.gather(ask(wire, patience=0.05), ask(wire, leave_in=0.05))
        assert 0.04 < monotonic() - began < 1
        assert (timed_out.end, timed_out.sent) == (End.TIMED_OUT, 0.0)
        assert (left.end, left.sent) == (End.LEFT, 0.0)
        asking = asyncio.ensure_future(ask(wire))
        await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert (wire.opened, wire.open_connections, wire._pool.connecting) == (0, 0, 0)


async def test_as_many_connections_as_allowed():
    async with ScriptedBackend(says_and_waits(b"")) as backend, wired(backend.base_url, max_connections=2) as wire:
        waiting = [asyncio.ensure_future(ask(wire)) for _ in range(2)]
        await asyncio.sleep(0)
        answer = await ask(wire)
        assert (answer.end, answer.sent) == (End.UNREACHABLE, 0.0)
        assert answer.detail == "2 connections are open, as many as this client may have"
        await backend.until(lambda backend: len(backend.exchanges) == 2)
        for each in waiting:
            each.cancel()
        await asyncio.wait(waiting)
        backend.script = says(OK)
        assert (await ask(wire)).end is End.WHOLE


@contextmanager
def open_files(most: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


async def test_too_many_open_files():
    async with ScriptedBackend(says(OK)) as backend, wired(backend.base_url) as wire:
        with open_files(max(int(name) for name in os.listdir("/proc/self/fd")) + 1):  # noqa: PTH208
            spare: list[int] = []
            with suppress(OSError):  # too many
                while True:
                    spare.append(os.dup(0))
            try:
                answer = await ask(wire)
            finally:
                for each in spare:
                    os.close(each)
        assert (answer.end, answer.sent) == (End.UNREACHABLE, 0.0)
        assert "oo many open files" in answer.detail
        assert (await ask(wire)).end is End.WHOLE


@pytest.mark.slow
async def test_thousands_at_once():
    many = 2000
    everybody = asyncio.Barrier(many)

    async def handler(request: web.Request) -> web.StreamResponse:
        await everybody.wait()
        return web.json_response(ANSWER)

    with open_files(min(resource.getrlimit(resource.RLIMIT_NOFILE)[1], 20_000)):
        async with serving(handler) as url, wired(url) as wire:
            for _ in range(2):
                answers = await asyncio.gather(*(ask(wire, patience=30) for _ in range(many)))
                assert {answer.end for answer in answers} == {End.WHOLE}
            assert (wire.opened, wire.peak, wire.open_connections) == (many, many, many)
            assert "aiohttp" in wire.server
