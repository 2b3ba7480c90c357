"""The server's life: what becomes of connections and requests when it drains and stops."""

import asyncio
import socket

import pytest
import uvloop

from pipeline.core.outcomes import Reason
from pipeline.edge.app import STOP_GRACE_S, EdgeServer
from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.wire import LIMIT, chat, connected, get, post
from tests.flows import config, running
from tests.http import NoOperations, serving

CONFIG = scripted_config()


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


async def test_it_runs_on_the_loop_of_the_shards():
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


async def test_draining_closes_idle_connections_and_lets_answers_go_on(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        async with connected(server.port) as idle, connected(server.port) as whole, connected(server.port) as streamed:
            await idle.send(get("/healthz"))
            await idle.answer()
            await whole.send(post(chat(model="said")))
            await said.called.wait()
            said.called.clear()
            await streamed.send(post(chat(model="said", stream=True)))
            await said.called.wait()
            server.edge.stop_accepting()
            await server.edge.drain()
            assert await idle.closed() == b""
            for _ in range(2):
                said.say("a", "b")
                said.batches.put_nowait(None)
            answers = [await whole.answer(), await streamed.answer()]
            assert [answer.status for answer in answers] == [200, 200]
            assert [answer.headers["connection"] for answer in answers] == ["close", "close"]
            await whole.closed()
            await streamed.closed()
        assert {ticket.ending.reason for ticket in server.books.ended} == {Reason.DONE}


async def test_an_answer_that_had_begun_before_the_drain_closes_its_connection_too(said):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(chat(model="said", stream=True)))
        said.say("a")
        await wire.head()
        await server.edge.drain()
        said.say("b", end=True)
        assert (await wire.closed()).endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


async def test_a_body_that_is_arriving_during_the_drain_still_arrives(said):
    request = post(chat(model="said"))
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(request[:-5])
        await until_open(server, 1)
        await server.edge.drain()
        await wire.send(request[-5:])
        said.say("a", end=True)
        answer = await wire.answer()
        assert (answer.status, answer.headers["connection"]) == (200, "close")


async def test_a_request_on_an_old_connection_is_shed_while_the_pipeline_drains(said):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(chat(model="said")))
        await said.called.wait()
        server.pipeline.ingress.draining = True
        async with connected(server.port) as other:
            await other.send(post(chat()))
            answer = await other.answer()
        assert (answer.status, answer.code) == (503, "overloaded")
        assert answer.headers["x-headgate-shed-reason"] == "draining"
        assert answer.headers["retry-after"]
        said.say("a", end=True)
        assert (await wire.answer()).status == 200


async def test_what_is_left_at_the_stop_gets_an_answer(said):
    async with running(CONFIG, workers={"said": said}) as (pipeline, books):
        edge, port = await started(pipeline)
        async with connected(port) as waiting, connected(port) as streaming, connected(port) as sending:
            await streaming.send(post(chat(model="said", stream=True)))
            said.say("a")
            await streaming.head()
            said.called.clear()
            await waiting.send(post(chat(model="said")))
            await said.called.wait()
            await sending.send(post(b"{", length=10))
            while len(books.opened) < 3:
                await asyncio.sleep(0.005)
            edge.stop_accepting()
            await edge.drain()
            await pipeline.drain(0.01)
            async with asyncio.timeout(LIMIT):
                await edge.stop()
            answer = await waiting.answer()
            assert (answer.status, answer.code) == (503, "cancelled")
            assert answer.headers["retry-after"]
            answer = await sending.answer()
            assert (answer.status, answer.code) == (503, "cancelled")
            assert b'"code":"cancelled"' in await streaming.closed()
        assert edge.connections == 0
        assert {ticket.ending.reason for ticket in books.ended} == {Reason.SHUTDOWN}


@pytest.mark.slow
async def test_stopping_does_not_wait_for_a_client_that_does_not_read(said):
    async with running(CONFIG, workers={"said": said}) as (pipeline, _):
        edge, port = await started(pipeline)
        async with connected(port, receive_buffer=4096) as wire:
            await wire.send(post(chat(model="said", stream=True)))
            for _ in range(1000):
                said.say("x" * 4000)
            await asyncio.sleep(0.2)
            async with asyncio.timeout(2 * STOP_GRACE_S + 1):
                await edge.stop()
            assert edge.connections == 0
            await said.closed.wait()


async def test_a_server_may_be_stopped_twice_and_before_it_started():
    async with running(config()) as (pipeline, _):
        edge = EdgeServer(pipeline.ingress, config().server, NoOperations())
        await edge.stop()
        edge, port = await started(pipeline)
        await edge.stop()
        await edge.stop()
        with pytest.raises(ConnectionRefusedError):
            async with connected(port):
                pass


async def test_two_servers_share_a_socket():
    """As the shards of one daemon do: whichever accepts first serves, and one may stop without the other."""
    async with running(config()) as (pipeline, _):
        sock = socket.create_server(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        edges = [EdgeServer(pipeline.ingress, config().server, NoOperations(), shard=shard) for shard in (1, 2)]
        for edge in edges:
            await edge.start(sock.dup())
        sock.close()
        async with connected(port) as wire:
            await wire.send(get("/healthz"))
            assert (await wire.answer()).headers["x-headgate-shard"] in {"1", "2"}
        await edges[0].stop()
        async with connected(port) as wire:
            await wire.send(get("/healthz"))
            assert (await wire.answer()).headers["x-headgate-shard"] == "2"
        await edges[1].stop()


async def started(pipeline) -> tuple[EdgeServer, int]:
    edge = EdgeServer(pipeline.ingress, CONFIG.server, NoOperations())
    sock = socket.create_server(("127.0.0.1", 0))
    port = sock.getsockname()[1]
    await edge.start(sock)
    return edge, port


async def until_open(server, count: int) -> None:
    async with asyncio.timeout(LIMIT):
        while len(server.books.opened) < count:
            await asyncio.sleep(0.005)


async def test_a_connection_that_the_kernel_has_made_already_is_served_at_drain():
    async with serving(CONFIG) as server:
        sock = socket.create_server(("127.0.0.1", 0), backlog=16)
        edge = EdgeServer(server.pipeline.ingress, CONFIG.server, NoOperations())
        await edge.start(sock)
        with socket.create_connection(sock.getsockname()) as client:  # made by the kernel; no turn of the loop yet
            edge.stop_accepting()
            client.sendall(post(chat("hello")))
            await edge.drain()
            client.setblocking(False)
            answer = b""
            while block := await asyncio.get_running_loop().sock_recv(client, 65536):
                answer += block
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b"Connection: close" in answer
        assert b"hello" in answer
        await edge.stop()
