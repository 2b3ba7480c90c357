"""The same server behind TLS, with real clients: answers, refusals, limits, and how it ends."""

import asyncio
import json
import os
import resource
import shutil
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from pipeline.core.outcomes import Outcome
from pipeline.edge.gate import BODY_MAX
from pipeline.process.tls import Pair, Tls
from tests import certificates
from tests.certificates import Files
from tests.edge.wire import LIMIT, Wire, chat, connected, get, post
from tests.flows import config
from tests.http import Serving, serving

PLAIN = config()
QUICK = config(server={"head_timeout_ms": 150, "idle_timeout_ms": 300})


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return certificates.made(tmp_path_factory.mktemp("certificates"), "edge")


@pytest.fixture
def tls(files: Files) -> Tls:
    return Tls(Pair(files.certificate.read_text(), files.key.read_text()))


@asynccontextmanager
async def secured(port: int, files: Files) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=files.client)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()
        await asyncio.sleep(0)


async def test_answers_and_streams_come_over_tls(tls, files):
    async with serving(PLAIN, ssl_context=tls.context) as server:
        connector = aiohttp.TCPConnector(ssl=files.client)
        async with aiohttp.ClientSession(connector=connector) as session:
            for stream in (False, True, False):
                async with session.post(f"{server.base_url}/chat/completions", json=chat(stream=stream)) as response:
                    assert response.status == 200
                    assert b"there" in await response.read()
        assert len(server.books.ended) == 3


async def test_one_connection_carries_many_requests(tls, files):
    async with serving(PLAIN, ssl_context=tls.context) as server, secured(server.port, files) as wire:
        for number in range(20):
            await wire.send(post(chat(f"number {number}")))
            assert f"number {number}" in (await wire.answer()).body.decode()
        assert server.edge.connections == 1


async def test_a_body_of_a_megabyte_comes_whole(tls, files):
    text = "word " * 200_000
    conf = config(workers=[{"name": "echo", "kind": "echo", "context_tokens": 1_000_000, "tokens": 1}])
    async with serving(conf, ssl_context=tls.context) as server, secured(server.port, files) as wire:
        await wire.send(post(chat(text)))
        answer = await wire.answer()
        assert answer.status == 200
        assert answer.json["usage"]["prompt_tokens"] >= 200_000


async def test_curl_is_served(tls, files):
    if (curl := shutil.which("curl")) is None:
        pytest.skip("there is no curl")
    async with serving(PLAIN, ssl_context=tls.context) as server:
        options = ("-sS", "--max-time", "5", "--cacert", str(files.certificate), "-H", "Expect: 100-continue")
        body = ("--json", json.dumps(chat("hello from curl")), f"{server.base_url}/chat/completions")
        process = await asyncio.create_subprocess_exec(curl, *options, *body, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        assert json.loads(out)["choices"][0]["message"]["content"] == "hello from curl"


async def test_what_comes_with_the_end_of_the_handshake_is_not_lost(tls, files):
    """Clients of TLS 1.3 may send their request in the same packet."""
    async with serving(PLAIN, ssl_context=tls.context) as server:
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = files.client.wrap_bio(incoming, outgoing, server_hostname="localhost")
        async with connected(server.port) as wire:
            with pytest.raises(ssl.SSLWantReadError):
                client.do_handshake()
            await wire.send(outgoing.read())
            while True:
                incoming.write(await asyncio.wait_for(wire.reader.read(65536), LIMIT))
                try:
                    client.do_handshake()
                except ssl.SSLWantReadError:
                    continue
                break
            client.write(get("/healthz"))
            await wire.send(outgoing.read())  # what ends the handshake, and the request
            answer = b""
            while b"\r\n\r\n" not in answer:
                try:
                    answer += client.read(65536)
                except ssl.SSLWantReadError:
                    incoming.write(await asyncio.wait_for(wire.reader.read(65536), LIMIT))
        assert answer.startswith(b"HTTP/1.1 200 ")


async def test_a_refused_head_is_answered_before_the_connection_closes(tls, files):
    async with serving(QUICK, ssl_context=tls.context) as server:
        async with secured(server.port, files) as wire:
            await wire.send(b"hello\r\n\r\n")
            assert (await wire.answer()).code == "malformed_http"
            await wire.closed()
        async with secured(server.port, files) as wire:
            await wire.send(b"GET / HT")
            assert (await wire.answer()).status == 408
            await wire.closed()


async def test_a_client_that_goes_on_sending_gets_the_refusal_all_the_same(tls, files):
    conf = config(server={"max_head_bytes": 2048})
    async with serving(conf, ssl_context=tls.context) as server, secured(server.port, files) as wire:
        head = get("/", "X-Long: " + "x" * 1_000_000)
        wire.writer.write(head)
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (431, "close")
        await wire.closed()


async def test_a_connection_beyond_the_limit_is_told_so(tls, files):
    conf = config(server={"max_connections": 1})
    async with serving(conf, ssl_context=tls.context) as server, secured(server.port, files) as first:
        await first.send(get("/healthz"))
        await first.answer()
        async with secured(server.port, files) as second:
            await second.send(post(chat()))
            answer = await second.answer()
            assert (answer.status, answer.code) == (503, "overloaded")
            await second.closed()
        (ticket,) = server.books.ended
        assert ticket.ending is not None
        assert ticket.ending.outcome is Outcome.SHED


async def test_the_head_gate_refuses_unread(tls, files, monkeypatch):
    """A request that is all there, on a connection that goes on; and one whose body is too large to be waited for."""
    monkeypatch.setattr("pipeline.ingress._GATE_SECONDS", 60.0)
    conf = config(
        workers=[{"name": "echo", "kind": "echo", "concurrency": 1, "tokens": 100, "tokens_per_s": 100.0}],
        routes=[{"name": "echo", "worker": "echo", "wait_budget_ms": 1}],
    )
    large = post(b"", "/v1/chat/completions", "X-Headgate-Route: echo", length=BODY_MAX + 1)
    async with serving(conf, ssl_context=tls.context) as server, secured(server.port, files) as holder:
        await holder.send(post(chat(stream=True)))
        await holder.head()
        async with secured(server.port, files) as wire:
            while not server.pipeline.ingress.gate_closed:
                await wire.send(post(chat()))
                assert (await wire.answer()).status == 503
            opened = len(server.books.opened)
            await wire.send(post(chat(), "/v1/chat/completions", "X-Headgate-Route: echo"))
            assert (await wire.answer()).status == 503
            await wire.send(large)
            answer = await wire.answer()
            assert (answer.status, answer.headers["connection"]) == (503, "close")
            await wire.closed()
        assert len(server.books.opened) == opened


@pytest.mark.parametrize("sent", [b"", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_what_does_not_become_tls_is_closed_in_time(tls, sent):
    async with serving(QUICK, ssl_context=tls.context) as server, connected(server.port) as wire:
        if sent:
            await wire.send(sent)
        await _until(server, 0)
        assert b"HTTP" not in await wire.closed(1.0)


async def test_handshakes_are_counted_and_limited(tls):
    conf = config(server={"max_connections": 3})
    async with serving(conf, ssl_context=tls.context) as server:
        socks = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(10)]
        await _until(server, 3)
        for sock in socks:
            sock.close()
        await _until(server, 0)


async def test_a_client_that_leaves_cancels_its_request(tls, files):
    conf = config(workers=[{"name": "echo", "kind": "echo", "tokens_per_s": 5.0, "tokens": 100}])
    async with serving(conf, ssl_context=tls.context) as server:
        async with secured(server.port, files) as wire:
            await wire.send(post(chat(stream=True)))
            await wire.head()
        async with asyncio.timeout(LIMIT):
            while not server.books.ended:
                await asyncio.sleep(0.01)
        (ticket,) = server.books.ended
        assert ticket.ending is not None
        assert ticket.ending.outcome is Outcome.CANCELLED


async def test_drain_takes_in_what_the_kernel_has_and_closes_what_is_idle(tls, files):
    async with serving(PLAIN, ssl_context=tls.context) as server, secured(server.port, files) as idle:
        await idle.send(get("/healthz"))
        await idle.answer()
        late = socket.create_connection(("127.0.0.1", server.port))  # accepted by nobody yet
        server.edge.stop_accepting()
        shaking = asyncio.create_task(asyncio.open_connection(sock=late, ssl=files.client, server_hostname="localhost"))
        draining = asyncio.create_task(server.edge.drain())
        reader, writer = await asyncio.wait_for(shaking, LIMIT)
        wire = Wire(reader, writer)
        await wire.send(get("/healthz"))
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")
        await draining
        assert await idle.closed() == b""
        wire.reset()


async def test_a_handshake_that_does_not_end_does_not_hold_up_the_drain(tls):
    async with serving(PLAIN, ssl_context=tls.context) as server, connected(server.port) as wire:
        await _until(server, 1)
        async with asyncio.timeout(2):
            await server.edge.drain()
        await wire.closed(1.0)
        await _until(server, 0)


async def test_accepting_goes_on_when_there_were_no_descriptors_left(tls, files, monkeypatch):
    monkeypatch.setattr("pipeline.edge.accepting.PAUSE_S", 0.05)
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(context["message"]))
    async with serving(PLAIN, ssl_context=tls.context) as server:
        with socket.socket() as client:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            lowest = os.dup(0)
            os.close(lowest)
            resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, hard))
            try:
                client.connect(("127.0.0.1", server.port))
                async with asyncio.timeout(LIMIT):
                    while not failures:
                        await asyncio.sleep(0.01)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        async with secured(server.port, files) as wire:
            await wire.send(get("/healthz"))
            assert (await wire.answer()).status == 200
        assert "no connection can be accepted" in failures[0]


async def test_the_time_for_a_handshake_can_be_changed_while_the_listener_is_open(tls):
    async with serving(PLAIN, ssl_context=tls.context) as server:
        server.edge.reconfigure(QUICK.server)
        async with connected(server.port) as wire:
            await wire.closed(1.0)


async def _until(server: Serving, connections: int) -> None:
    async with asyncio.timeout(LIMIT):
        while server.edge.connections != connections:
            await asyncio.sleep(0.01)
