"""The socket: many requests on a connection, bad clients, and what happens when either side goes away."""

import asyncio
import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge import server as serving
from pipeline.knowledge import wire
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.errors import Busy, Disconnected, FrameError
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.service import Knowledge
from tests.knowledge.helpers import SEA, config, pieces, served
from workers.lexical import Lexical


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[KnowledgeClient]:
    async with served(config(tmp_path)) as client:
        yield client


@asynccontextmanager
async def raw(tmp_path: Path) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection without our client, to say whatever we like."""
    reader, writer = await asyncio.open_unix_connection(str(tmp_path / SOCKET))
    yield reader, writer
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


class Held:
    """Makes `search` wait until it is let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun = asyncio.Semaphore(0)
        self.let = asyncio.Event()
        self.cancelled = asyncio.Semaphore(0)
        real = Knowledge.search

        async def search(knowledge: Knowledge, collection: str, query: str, limit: int):
            self.begun.release()
            try:
                await self.let.wait()
            except asyncio.CancelledError:
                self.cancelled.release()
                raise
            return await real(knowledge, collection, query, limit)

        monkeypatch.setattr(Knowledge, "search", search)


async def test_everything_a_client_can_ask(client: KnowledgeClient):
    await client.connect()
    await client.write("docs", pieces())
    assert await client.count("docs") == 3
    assert await client.documents("docs") == {"sea.md": "d1"}
    assert [p.text for p in await client.search("docs", "low tide channel", 1)] == [SEA[0][1]]
    embedded = await client.embed("docs", "low tide channel")
    assert (embedded.embedder, len(embedded.vector)) == (Lexical.fingerprint, Lexical.dimension)
    await client.delete("docs", "sea.md")
    assert await client.count("docs") == 0
    await client.write("docs", pieces())
    await client.recreate("docs")
    assert await client.documents("docs") == {}


async def test_closing_right_after_connecting(client: KnowledgeClient, tmp_path: Path):
    other = KnowledgeClient(tmp_path / SOCKET)
    await other.connect()
    async with asyncio.timeout(5):
        await other.aclose()


async def test_only_this_user_may_connect(client: KnowledgeClient, tmp_path: Path):
    assert stat.S_IMODE((tmp_path / SOCKET).stat().st_mode) == 0o600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["collections", "knowledge.lock", "knowledge.sock"]


async def test_errors_keep_their_kind(tmp_path: Path):
    async with served(config(tmp_path)) as client:
        await client.write("docs", pieces())
    other = config(tmp_path, {"name": "docs"}, {"name": "fine"})
    manifest = tmp_path / "collections" / "docs" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(Lexical.fingerprint, "other.1"))
    async with served(other) as client:
        with pytest.raises(CollectionMismatch, match=r"other\.1.*--recreate"):
            await client.search("docs", "tide", 1)
        with pytest.raises(CollectionMismatch):
            await client.write("docs", pieces())
        with pytest.raises(RetrievalError, match="has no collection 'nowhere', only docs, fine"):
            await client.count("nowhere")
        assert await client.count("fine") == 0
        await client.recreate("docs")
        assert await client.count("docs") == 0


async def test_answers_come_in_any_order(client: KnowledgeClient, monkeypatch: pytest.MonkeyPatch):
    await client.write("docs", pieces())
    held = Held(monkeypatch)
    slow = asyncio.create_task(client.search("docs", "ferry", 1))
    await held.begun.acquire()
    assert await client.count("docs") == 3
    held.let.set()
    assert (await slow)[0].position == 1


async def test_cancelling_here_cancels_there(client: KnowledgeClient, monkeypatch: pytest.MonkeyPatch):
    held = Held(monkeypatch)
    task = asyncio.create_task(client.search("docs", "ferry", 1))
    await held.begun.acquire()
    task.cancel()
    await held.cancelled.acquire()
    assert await client.count("docs") == 0


async def test_a_client_that_goes_away_has_its_requests_dropped(
    client: KnowledgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    held = Held(monkeypatch)
    async with raw(tmp_path) as (_, writer):
        for i in range(3):
            writer.write(wire.frame(wire.Search(i, "docs", "ferry", 1)))
        for _ in range(3):
            await held.begun.acquire()
    for _ in range(3):
        await held.cancelled.acquire()
    assert await client.count("docs") == 0


async def test_pending_calls_fail_at_once_when_the_process_goes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(serving, "DRAIN_SECONDS", 0.01)
    held = Held(monkeypatch)
    conf = config(tmp_path)
    async with served(conf):
        client = KnowledgeClient(tmp_path / SOCKET)
        tasks = [asyncio.create_task(client.search("docs", "ferry", 1)) for _ in range(3)]
        for _ in range(3):
            await held.begun.acquire()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, Disconnected) and r.collection == "docs" for r in results)
    with pytest.raises(Disconnected, match=r"cannot be reached at .*no such file"):
        await client.search("docs", "ferry", 1)
    held.let.set()
    async with served(conf):  # the same client finds the next process by itself
        assert await client.search("docs", "ferry", 1) == []
    await client.aclose()


async def test_what_is_under_way_when_it_stops_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    held = Held(monkeypatch)
    async with served(config(tmp_path)) as other:
        await other.write("docs", pieces())
        client = KnowledgeClient(tmp_path / SOCKET)
        task = asyncio.create_task(client.search("docs", "ferry", 1))
        await held.begun.acquire()
        asyncio.get_running_loop().call_later(0.05, held.let.set)
    assert (await task)[0].position == 1
    await client.aclose()


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xff\xff\xff",
        (wire.MAX_REQUEST + 1).to_bytes(4, "big"),
        b"\0\0\0\x04abcd",
        b"\0\0\0\0",
        b"GET / HTTP/1.1\r\n\r\n",
        wire.frame(wire.Number(1, 2)),
        wire.frame(wire.Count(1, "docs"))[:-1] + b"\xc1",
    ],
)
async def test_what_is_not_a_request_ends_its_connection_and_no_other(
    client: KnowledgeClient, tmp_path: Path, said: bytes
):
    assert await client.count("docs") == 0
    async with raw(tmp_path) as (reader, writer):
        writer.write(said)
        assert await reader.read() == b""
    assert await client.count("docs") == 0


async def test_half_a_frame_holds_up_nobody(client: KnowledgeClient, tmp_path: Path):
    async with raw(tmp_path) as (_, writer):
        writer.write(wire.frame(wire.Count(1, "docs"))[:-3])
        await writer.drain()
        assert await client.count("docs") == 0


async def test_the_same_id_twice_is_refused(client: KnowledgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    Held(monkeypatch)
    async with raw(tmp_path) as (reader, writer):
        writer.write(wire.frame(wire.Search(7, "docs", "ferry", 1)) * 2)
        assert await reader.read() == b""


async def test_cancelling_what_is_not_there_is_nothing(client: KnowledgeClient, tmp_path: Path):
    async with raw(tmp_path) as (reader, writer):
        writer.write(wire.frame(wire.Cancel(99)) + wire.frame(wire.Count(1, "docs")))
        assert await wire.read_response(reader) == wire.Number(1, 0)


async def test_too_many_under_way_are_refused_at_once(
    client: KnowledgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(serving, "MAX_UNDER_WAY", 5)
    held = Held(monkeypatch)
    tasks = [asyncio.create_task(client.search("docs", "ferry", 1)) for _ in range(7)]
    done, waiting = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
    while len(done) < 2:
        done, waiting = await asyncio.wait(tasks, timeout=0.01)
    assert all(isinstance(task.exception(), Busy) for task in done)
    held.let.set()
    assert await asyncio.gather(*waiting) == [[]] * 5


async def test_a_full_query_queue_refuses_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    begun, let = asyncio.Event(), asyncio.Event()
    real = Lexical.embed

    async def embed(self: Lexical, texts: list[str], *, query: bool = False):
        begun.set()
        await let.wait()
        return await real(self, texts, query=query)

    monkeypatch.setattr(Lexical, "embed", embed)
    async with served(config(tmp_path, capacity=2, batch=1)) as client:
        first = asyncio.create_task(client.search("docs", "ferry", 1))
        await begun.wait()
        tasks = [asyncio.create_task(client.search("docs", "ferry", 1)) for _ in range(5)]
        refused, waiting = set(), set(tasks)
        while len(refused) < 3:
            refused, waiting = await asyncio.wait(tasks, timeout=0.01)
        assert all(isinstance(task.exception(), Busy) for task in refused)
        let.set()
        assert await asyncio.gather(first, *waiting) == [[]] * 3


async def test_a_fault_inside_is_an_answer_too(client: KnowledgeClient, monkeypatch: pytest.MonkeyPatch):
    async def broken(*_: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(Knowledge, "count", broken)
    with pytest.raises(RetrievalError, match="internal error in the knowledge process"):
        await client.count("docs")
    assert await client.documents("docs") == {}


async def test_who_does_not_read_is_cut_off(client: KnowledgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its unread answers must not gather in our memory."""
    monkeypatch.setattr(serving, "MAX_UNSENT", 1 << 20)
    await client.write("docs", pieces(texts=[("", "ferry " + "x" * 200_000)]))
    async with raw(tmp_path) as (reader, writer):
        for i in range(200):
            writer.write(wire.frame(wire.Search(i, "docs", "ferry", 1)))
        await writer.drain()
        reader._transport.pause_reading()
        async with asyncio.timeout(20):
            while not await _is_closed(client, writer):
                pass
    assert await client.count("docs") == 1


async def _is_closed(client: KnowledgeClient, writer: asyncio.StreamWriter) -> bool:
    await client.count("docs")  # lets the server work
    try:
        writer.write(wire.frame(wire.Cancel(9999)))
        await writer.drain()
    except ConnectionError:
        return True
    return writer.is_closing()


async def test_too_many_connections_are_turned_away(
    client: KnowledgeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    await client.connect()
    monkeypatch.setattr(serving, "MAX_CONNECTIONS", 1)
    async with raw(tmp_path) as (reader, _):
        assert await reader.read() == b""
    assert await client.count("docs") == 0


async def test_an_answer_too_large_for_a_frame_is_an_error(client: KnowledgeClient, monkeypatch: pytest.MonkeyPatch):
    await client.write("docs", pieces())
    monkeypatch.setattr(wire, "MAX_ANSWER", 150)
    with pytest.raises(RetrievalError, match="too large"):
        await client.search("docs", "ferry", 3)


async def test_a_server_that_talks_nonsense_is_left(tmp_path: Path):
    async def nonsense(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    server = await asyncio.start_unix_server(nonsense, str(tmp_path / "x.sock"))
    client = KnowledgeClient(tmp_path / "x.sock")
    with pytest.raises(Disconnected):
        await client.search("docs", "ferry", 1)
    await client.aclose()
    server.close()
    await server.wait_closed()


async def test_a_socket_left_by_a_killed_process_is_replaced(tmp_path: Path):
    left = tmp_path / SOCKET
    (tmp_path / f".{SOCKET}.{os.getpid()}").write_text("left too")
    left.write_text("left")
    async with served(config(tmp_path)) as client:
        assert await client.count("docs") == 0
    assert not left.exists()


async def test_optimizing_and_giving_way_are_for_temporary_processes(tmp_path: Path):
    async with served(config(tmp_path)) as client:
        with pytest.raises(RetrievalError, match="serves others"):
            await client.optimize("docs")
        assert await client.request_yield() is False
        assert await client.count("docs") == 0
    async with served(config(tmp_path), temporary=True) as client:
        await client.optimize("docs")
        assert await client.request_yield() is True


async def test_frames_are_read_as_written():
    reader = asyncio.StreamReader()
    requests = [wire.Search(1, "docs", "灯", 3), wire.Write(2, "docs", pieces()), wire.Cancel(1)]
    for request in requests:
        reader.feed_data(wire.frame(request))
    reader.feed_eof()
    assert [await wire.read_request(reader) for _ in range(4)] == [*requests, None]
    cut = asyncio.StreamReader()
    cut.feed_data(wire.frame(requests[0])[:-1])
    cut.feed_eof()
    with pytest.raises(FrameError, match="within a frame"):
        await wire.read_request(cut)
