"""Two shards in one process: real HTTP, real Unix sockets, one event loop."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import aiohttp
import pytest

from pipeline.edge.app import EdgeServer
from pipeline.edge.forward import WINDOW
from pipeline.policy.affinity import owner
from pipeline.process.counters import SharedMemory, State
from pipeline.process.relay import Relay
from pipeline.wiring import Pipeline
from tests.flows import Books, config, running
from tests.http import NoOperations

PROMPT = {"model": "echo", "messages": [{"role": "user", "content": "one two three"}]}


class Twin(NamedTuple):
    shard: int
    url: str
    pipeline: Pipeline
    books: Books
    relay: Relay


@asynccontextmanager
async def twins(folder: Path, conf=None, shards: int = 2) -> AsyncIterator[tuple[list[Twin], SharedMemory]]:
    conf = conf or config()
    memory = SharedMemory.create(shards=shards, block=64)
    async with AsyncExitStack() as stack:
        stack.callback(memory.close)
        found = []
        for shard in range(shards):
            pid = 1000 + shard  # stands for a process
            memory.seats[shard].born(pid)
            memory.seats[shard].state = State.READY
            memory.appoint(shard, shard)
            pipeline, books = await stack.enter_async_context(running(conf))
            relay = Relay(shard, shard, memory, folder, pid)
            edge = EdgeServer(pipeline.ingress, conf.server, NoOperations(), shard=shard, peers=relay)
            sock = socket.create_server(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            stack.push_async_callback(relay.close)
            stack.push_async_callback(edge.stop)
            await relay.open(edge.relayed)
            await edge.start(sock)
            found.append(Twin(shard, url, pipeline, books, relay))
        yield found, memory
        await asyncio.sleep(0.02)
        assert not any(twin.pipeline.ingress.tickets for twin in found)


def session_of(shard: int, shards: int = 2) -> str:
    return next(name for number in range(1000) if owner(name := f"s{number}", range(shards)) == shard)


async def test_a_request_is_answered_by_the_shard_that_its_session_belongs_to(tmp_path):
    async with twins(tmp_path) as ((first, second), _), aiohttp.ClientSession() as client:
        for session, expected in ((session_of(0), "0"), (session_of(1), "1")):
            for stream in (False, True):
                headers = {"X-Session-Id": session, "X-Request-Id": "mine"}
                body = PROMPT | {"stream": stream}
                async with client.post(first.url + "/v1/chat/completions", json=body, headers=headers) as answer:
                    text = await answer.text()
                    assert (answer.status, answer.headers["X-Headgate-Shard"]) == (200, expected), text
                    assert answer.headers.getall("X-Request-Id") == ["mine"]
                    assert answer.headers.getall("Server") == ["headgate"]
                    if stream:
                        assert text.endswith("data: [DONE]\n\n")
                        assert "one" in text
                    else:
                        assert json.loads(text)["choices"][0]["message"]["content"] == "one two three"
        assert first.relay.relayed == 2
        assert second.relay.relayed == 0


@pytest.mark.parametrize("where", ["prompt_cache_key", "session_id"])
async def test_the_session_may_stand_in_the_body(tmp_path, where):
    body = PROMPT if where == "prompt_cache_key" else {"route": "echo", "prompt": "one two"}
    path = "/v1/chat/completions" if where == "prompt_cache_key" else "/v1/prompts"
    async with twins(tmp_path) as (found, _), aiohttp.ClientSession() as client:
        for twin in found:
            for shard in (0, 1):
                async with client.post(twin.url + path, json=body | {where: session_of(shard)}) as answer:
                    assert answer.status == 200
                    assert answer.headers["X-Headgate-Shard"] == str(shard)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"model": "nobody"}, 404),
        ({"messages": []}, 400),
        ({"messages": 3}, 400),
        ({"temperature": "hot"}, 400),
        ({"prompt_cache_key": 7}, 400),
    ],
)
async def test_what_is_wrong_is_said_as_ever(tmp_path, change, status):
    async with twins(tmp_path) as ((first, _), _), aiohttp.ClientSession() as client:
        answers = []
        for shard in (0, 1):
            headers = {"X-Session-Id": session_of(shard)}
            async with client.post(first.url + "/v1/chat/completions", json=PROMPT | change, headers=headers) as answer:
                answers.append((answer.status, await answer.json()))
        assert answers[0] == answers[1]
        assert answers[0][0] == status


async def test_it_ends_once_where_it_was_accepted(tmp_path):
    async with twins(tmp_path) as ((first, second), _), aiohttp.ClientSession() as client:
        headers = {"X-Session-Id": session_of(1)}
        async with client.post(first.url + "/v1/chat/completions", json=PROMPT, headers=headers) as answer:
            await answer.read()
        (ticket,), (served,) = first.books.ended, second.books.ended
        assert (ticket.owner, ticket.accepted_by, ticket.ending.reason) == (1, None, "done")
        assert (served.owner, served.accepted_by, served.ending.reason) == (None, 0, "done")
        assert ticket.route == "echo"
        assert ticket.request_id == served.request_id
        assert ticket.arrived == served.arrived


async def test_a_client_that_leaves_ends_the_request_at_its_owner(tmp_path):
    slow = config(workers=[{"name": "echo", "kind": "echo", "first_token_ms": 60_000}])
    async with twins(tmp_path, slow) as ((first, second), _), aiohttp.ClientSession() as client:
        headers = {"X-Session-Id": session_of(1)}
        asking = asyncio.create_task(client.post(first.url + "/v1/chat/completions", json=PROMPT, headers=headers))
        async with asyncio.timeout(5):
            while not second.pipeline.ingress.tickets:
                await asyncio.sleep(0.005)
        asking.cancel()
        async with asyncio.timeout(1):
            while second.pipeline.ingress.tickets or first.pipeline.ingress.tickets:
                await asyncio.sleep(0.005)
        assert [one.books.ended[-1].ending.reason for one in (first, second)] == ["client_gone", "client_gone"]


async def test_a_client_that_does_not_read_holds_back_its_own_answer_only(tmp_path):
    long = config(workers=[{"name": "echo", "kind": "echo", "tokens": 200_000, "tokens_per_batch": 64}])
    async with twins(tmp_path, long) as ((first, second), _):
        host, port = first.url.removeprefix("http://").split(":")
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (host, int(port)))
        reader, writer = await asyncio.open_connection(sock=sock, limit=4096)
        body = json.dumps(PROMPT | {"stream": True}).encode()
        writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nX-Session-Id: %b\r\nContent-Length: %d\r\n\r\n%b"
            % (session_of(1).encode(), len(body), body)
        )
        (ticket,) = await _until(lambda: second.pipeline.ingress.tickets)
        seen = -1
        async with asyncio.timeout(10):
            while ticket.chunks != seen or not seen:
                seen = ticket.chunks
                await asyncio.sleep(0.2)
        assert 0 < seen < 100_000
        assert seen * 20 > WINDOW / 20
        rest = await asyncio.wait_for(_read_all(reader), 20)
        assert b"[DONE]" in rest
        writer.close()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    last = b""
    while b"[DONE]" not in last:
        last = last[-100:] + await reader.read(65_536)
    return last


async def _until(condition, within: float = 5.0):
    async with asyncio.timeout(within):
        while not (found := condition()):
            await asyncio.sleep(0.005)
    return found


async def test_an_owner_that_dies_is_told_at_once_and_the_next_one_serves(tmp_path):
    slow = config(workers=[{"name": "echo", "kind": "echo", "first_token_ms": 60_000}])
    async with twins(tmp_path, slow) as ((first, second), memory), aiohttp.ClientSession() as client:
        headers = {"X-Session-Id": session_of(1)}

        async def ask(seconds: float | None = None) -> tuple[int, dict, aiohttp.typedefs.LooseHeaders]:
            own = headers | ({} if seconds is None else {"X-Request-Timeout-Ms": str(int(seconds * 1000))})
            async with client.post(first.url + "/v1/chat/completions", json=PROMPT, headers=own) as answer:
                return answer.status, await answer.json(), answer.headers

        asking = asyncio.create_task(ask())
        await _until(lambda: second.pipeline.ingress.tickets)
        for door in list(second.relay._doors):  # as if its process had been killed
            door.wire.abort()
        status, body, fields = await asyncio.wait_for(asking, 1)
        assert (status, body["error"]["code"]) == (503, "shard_lost")
        assert int(fields["Retry-After"]) >= 1
        assert first.books.ended[-1].ending.reason == "shard_lost"
        memory.appoint(1, None)
        status, _, fields = await ask(0.2)
        assert (status, fields["X-Headgate-Shard"]) == (504, "0")


async def test_a_stream_whose_owner_dies_ends_with_an_error(tmp_path):
    slow = config(workers=[{"name": "echo", "kind": "echo", "tokens": 1000, "tokens_per_s": 20}])
    async with twins(tmp_path, slow) as ((first, second), _), aiohttp.ClientSession() as client:
        headers = {"X-Session-Id": session_of(1)}
        body = PROMPT | {"stream": True}
        async with client.post(first.url + "/v1/chat/completions", json=body, headers=headers) as answer:
            await answer.content.readany()
            for door in list(second.relay._doors):
                door.wire.abort()
            rest = await asyncio.wait_for(answer.content.read(), 1)
        assert b'"code":"shard_lost"' in rest
        await _until(lambda: not second.pipeline.ingress.tickets)
        assert second.books.ended[-1].ending.reason == "shard_lost"


async def test_an_owner_that_stands_still_does_not_keep_a_client_beyond_its_deadline(tmp_path):
    async with twins(tmp_path) as ((first, second), _), aiohttp.ClientSession() as client:
        await _until(lambda: first.relay.road(session_of(1)).wire.open and second.relay._doors)
        second.relay._doors.copy().pop().wire._transport.pause_reading()
        headers = {"X-Session-Id": session_of(1), "X-Request-Timeout-Ms": "100"}
        asking = asyncio.create_task(client.post(first.url + "/v1/chat/completions", json=PROMPT, headers=headers))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(5):
            while not asking.done():
                first.relay.tick(loop.time(), 1)
                await asyncio.sleep(0.02)
        async with await asking as answer:
            assert answer.status == 504
        assert first.books.ended[-1].ending.reason == "deadline"


async def test_requests_without_a_session_go_where_there_is_least_to_do(tmp_path):
    slow = config(workers=[{"name": "echo", "kind": "echo", "first_token_ms": 300, "concurrency": 64}])
    async with twins(tmp_path, slow) as ((first, second), _), aiohttp.ClientSession() as client:

        async def ask() -> str:
            async with client.post(first.url + "/v1/chat/completions", json=PROMPT) as answer:
                assert answer.status == 200
                return answer.headers["X-Headgate-Shard"]

        shards = await asyncio.gather(*(ask() for _ in range(40)))
        assert 12 <= shards.count("1") <= 22
        assert await ask() == "0"
        assert second.relay.relayed == 0


async def test_large_requests_and_answers_cross(tmp_path):
    wide = config(workers=[{"name": "echo", "kind": "echo", "context_tokens": 10_000_000, "tokens_per_batch": 10_000}])
    async with twins(tmp_path, wide) as ((first, _), _), aiohttp.ClientSession() as client:
        text = "many words " * 200_000
        body = json.dumps({"model": "echo", "messages": [{"role": "user", "content": text}]}).encode()
        headers = {"X-Session-Id": session_of(1)}
        url = first.url + "/v1/chat/completions"
        async with client.post(url, data=io.BytesIO(body), headers=headers) as answer:
            found = await answer.json()
            assert answer.headers["X-Headgate-Shard"] == "1"
        assert found["choices"][0]["message"]["content"] == text


async def test_a_shard_that_is_replaced_hands_over_what_comes(tmp_path):
    async with twins(tmp_path) as ((first, second), memory), aiohttp.ClientSession() as client:
        memory.appoint(0, None)
        first.relay.retire()
        async with client.post(first.url + "/v1/chat/completions", json=PROMPT) as answer:
            assert (answer.status, answer.headers["X-Headgate-Shard"]) == (200, "1")
        assert second.relay.relayed == 0


async def test_a_way_that_is_closing_is_not_waited_for(tmp_path):
    """The event loop says so a turn later; until then it was tried again and again, and that turn never came."""
    async with twins(tmp_path) as ((first, _), _):
        session = session_of(1)
        way = first.relay.road(session)
        await way.ready()
        way.wire._transport.close()
        with pytest.raises(ConnectionError):
            await way.ready()
        assert first.relay.road(session) is None  # the next choice


async def test_what_is_lost_with_its_owner_is_logged_for_what_it_was(tmp_path):
    slow = config(workers=[{"name": "echo", "kind": "echo", "first_token_ms": 60_000}])
    async with twins(tmp_path, slow) as ((first, second), _), aiohttp.ClientSession() as client:
        headers = {"X-Session-Id": session_of(1)}
        body = PROMPT | {"stream": True}
        asking = asyncio.create_task(client.post(first.url + "/v1/chat/completions", json=body, headers=headers))
        await _until(lambda: second.pipeline.ingress.tickets)
        for door in list(second.relay._doors):
            door.wire.abort()
        async with await asking as answer:
            assert answer.status == 503
        lost = first.books.ended[-1]
        assert (lost.owner, lost.stream, lost.session_id, lost.route) == (None, True, session_of(1), "echo")
