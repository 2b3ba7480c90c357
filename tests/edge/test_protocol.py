"""What a connection does with heads that are no HTTP, too large, too slow, and with too many of them."""

import asyncio
import contextlib

import pytest

from pipeline.core.outcomes import Outcome
from tests.edge.wire import LIMIT, Wire, ask, chat, connected, get, post
from tests.flows import config
from tests.http import serving

PLAIN = config()
SMALL = config(server={"max_head_bytes": 2048})
QUICK = config(server={"head_timeout_ms": 150, "idle_timeout_ms": 300})


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",  # a TLS hello
        b"hello\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",  # no Host
        b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: b\x00c\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\n A: folded\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost : x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",  # smuggling
        b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    ],
)
async def test_what_is_no_http_gets_an_error_and_is_closed(sent):
    async with serving(PLAIN) as server, connected(server.port) as wire:
        await wire.send(sent)
        answer = await wire.answer()
        assert (answer.status, answer.code) == (400, "malformed_http")
        assert answer.headers["content-type"].startswith("application/json")
        assert answer.headers["connection"] == "close"
        assert len(answer.json["error"]["message"]) < 300
        await wire.closed()
        assert not server.books.opened


@pytest.mark.parametrize(
    "sent",
    [
        get("/" + "x" * 3000),
        get("/", "X-Long: " + "x" * 3000),
        get("/", *[f"X-{number}: {'x' * 100}" for number in range(30)]),
        get("/", *[f"X-{number}: x" for number in range(200)]),
    ],
)
async def test_a_head_that_is_too_large_is_refused(sent):
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(sent)
        answer = await wire.answer()
        assert (answer.status, answer.code) == (431, "request_head_too_large")
        await wire.closed()


async def test_a_head_that_is_too_large_is_refused_before_it_ends():
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nHost: x\r\n")
        for number in range(25):
            await wire.send(b"X-%d: %s\r\n" % (number, b"x" * 100))
            await asyncio.sleep(0.001)
        assert (await wire.answer()).status == 431
        await wire.closed()


async def test_a_large_head_behind_another_request_is_refused_too():
    large = get("/healthz", *[f"X-{number}: {'x' * 100}" for number in range(30)])
    async with serving(SMALL) as server, connected(server.port) as wire:
        await wire.send(get("/healthz") + large)
        assert (await wire.answer()).status == 200
        assert (await wire.answer()).status == 431


async def test_a_large_body_makes_no_head_too_large():
    async with serving(SMALL) as server, connected(server.port) as wire:
        for _ in range(3):
            await wire.send(post(chat("x" * 5000)))
            assert (await wire.answer()).status == 200


async def test_a_head_that_does_not_end_is_waited_for_so_long():
    async with serving(QUICK) as server, connected(server.port) as wire:
        await wire.send(b"GET / HTTP/1.1\r\nHo")
        answer = await wire.answer()
        assert (answer.status, answer.code) == (408, "request_timeout")
        assert answer.headers["connection"] == "close"
        await wire.closed()
        assert not server.books.opened


async def test_a_head_byte_by_byte_has_the_same_time():
    async with serving(QUICK) as server, connected(server.port) as wire:
        sending = asyncio.create_task(one_by_one(wire, get("/healthz", "X-Slow: " + "x" * 1000)))
        assert (await wire.answer()).status == 408
        sending.cancel()
        with contextlib.suppress(asyncio.CancelledError, ConnectionError):
            await sending


async def one_by_one(wire: Wire, data: bytes) -> None:
    for byte in data:
        await wire.send(bytes([byte]))
        await asyncio.sleep(0.01)


async def test_a_second_head_has_its_own_time():
    async with serving(QUICK) as server, connected(server.port) as wire:
        await wire.send(get("/healthz"))
        assert (await wire.answer()).status == 200
        await wire.send(b"GET /hea")
        assert (await wire.answer()).status == 408


async def test_a_head_in_time_stops_the_clock():
    async with serving(QUICK) as server, connected(server.port) as wire:
        request = get("/healthz")
        await wire.send(request[:10])
        await asyncio.sleep(0.05)
        await wire.send(request[10:])
        assert (await wire.answer()).status == 200
        await asyncio.sleep(0.2)  # longer than a head may take
        await wire.send(request)
        assert (await wire.answer()).status == 200


async def test_empty_lines_before_a_head_are_no_head():
    async with serving(QUICK) as server, connected(server.port) as wire:
        await wire.send(b"\r\n")
        await asyncio.sleep(0.2)
        await wire.send(get("/healthz"))
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("first", [b"", get("/healthz")])
async def test_an_idle_connection_is_closed_without_a_word(first):
    async with serving(QUICK) as server, connected(server.port) as wire:
        if first:
            await wire.send(first)
            await wire.answer()
        assert await wire.closed() == b""


async def test_connections_beyond_the_limit_are_told_so():
    conf = config(server={"max_connections": 2})
    async with serving(conf) as server:
        async with connected(server.port) as one, connected(server.port) as two:
            for wire in (one, two):
                await wire.send(get("/healthz"))
                assert (await wire.answer()).status == 200
            answer = await ask(server.port, post(chat()))
            assert (answer.status, answer.code) == (503, "overloaded")
            assert answer.headers["retry-after"] == "1"
            assert answer.headers["retry-after-ms"] == "1000"
            assert answer.headers["x-headgate-shed-stage"] == "ingress"
            assert answer.headers["x-headgate-shed-reason"] == "queue_full"
            assert (await ask(server.port, get("/healthz"))).status == 503
            assert [ticket.ending.outcome for ticket in server.books.ended] == [Outcome.SHED]  # the prompt alone
        async with asyncio.timeout(LIMIT):
            while server.edge.connections:
                await asyncio.sleep(0.01)
        assert (await ask(server.port, post(chat()))).status == 200


async def test_a_refused_connection_that_says_nothing_does_not_stay():
    async with serving(config(server={"max_connections": 1})) as server, connected(server.port) as one:
        await one.send(get("/healthz"))
        await one.answer()
        async with connected(server.port) as silent:
            assert await silent.closed() == b""


async def test_the_most_refused_connections_are_bounded(monkeypatch):
    monkeypatch.setattr("pipeline.edge.protocol.REFUSALS_MAX", 3)
    async with serving(config(server={"max_connections": 1})) as server, contextlib.AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connected(server.port)) for _ in range(10)]
        await wires[0].send(get("/healthz"))
        await wires[0].answer()
        assert server.edge.connections <= 4


async def test_pipelined_requests_are_answered_in_order():
    async with serving(PLAIN) as server, connected(server.port) as wire:
        await wire.send(b"".join(post(chat(f"number {number}")) for number in range(50)))
        for number in range(50):
            assert (await wire.answer()).json["choices"][0]["message"]["content"] == f"number {number}"


async def test_http_1_0_is_answered_and_closed():
    request = post(chat("hello there")).replace(b"HTTP/1.1", b"HTTP/1.0")
    async with serving(PLAIN) as server, connected(server.port) as wire:
        await wire.send(request)
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await wire.closed()


async def test_http_1_0_may_keep_its_connection():
    request = get("/healthz", "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0")
    async with serving(PLAIN) as server, connected(server.port) as wire:
        for _ in range(2):
            await wire.send(request)
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (200, "keep-alive")


async def test_a_stream_to_http_1_0_ends_with_its_connection():
    request = post(chat("hello there", stream=True), "/v1/chat/completions", "Connection: keep-alive")
    async with serving(PLAIN) as server, connected(server.port) as wire:
        await wire.send(request.replace(b"HTTP/1.1", b"HTTP/1.0"))
        head = await wire.head()
        assert "transfer-encoding" not in head.headers
        assert head.headers["connection"] == "close"
        body = await wire.closed()
        assert body.startswith(b"data: {")
        assert body.endswith(b"data: [DONE]\n\n")


async def test_a_client_that_asks_to_close_is_closed():
    async with serving(PLAIN) as server, connected(server.port) as wire:
        await wire.send(post(chat(), "/v1/chat/completions", "Connection: close"))
        assert (await wire.answer()).headers["connection"] == "close"
        await wire.closed()


async def test_an_upgrade_is_not_taken_up():
    async with serving(PLAIN) as server, connected(server.port) as wire:
        await wire.send(get("/healthz", "Connection: Upgrade", "Upgrade: websocket"))
        assert (await wire.answer()).status == 200
        await wire.send(get("/healthz"))
        assert (await wire.answer()).status == 200


async def test_many_connections_that_only_open_and_close_leave_nothing():
    async with serving(PLAIN) as server:
        for _ in range(50):
            async with connected(server.port) as wire:
                wire.reset()
