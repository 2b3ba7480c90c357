"""Serves a `Knowledge` on a Unix socket that only this user may use."""

import asyncio
import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Literal

import structlog

from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge import wire
from pipeline.knowledge.errors import Busy, FrameError
from pipeline.knowledge.places import socket_address
from pipeline.knowledge.service import Knowledge

_log = structlog.get_logger()

MAX_CONNECTIONS = 256
MAX_UNDER_WAY = 1024  # requests of one connection
MAX_WRITES = 4  # of those, which hold up to MAX_REQUEST bytes each
MAX_UNSENT = wire.MAX_ANSWER  # bytes that a client may leave unread before it is cut off
DRAIN_SECONDS = 5.0
CLOSE_SECONDS = 1.0


class KnowledgeServer:
    """Accepts connections from `start` to `aclose`. `give_way` is called when another process asks for the store;
    without it, the answer to that is no, and nothing that stops the process from answering is done."""

    def __init__(self, knowledge: Knowledge, path: Path, give_way: Callable[[], None] | None = None) -> None:
        self._knowledge = knowledge
        self._path = path
        self._give_way = give_way
        self._connections: dict[_Connection, asyncio.Task[None] | None] = {}
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Replaces a socket that an ended process left. Raises OSError when the folder does not allow a socket."""
        self._server = await asyncio.start_unix_server(self._accept, sock=_bind(self._path))

    async def aclose(self) -> None:
        """Accepts no more, gives requests under way a moment to end, drops the rest."""
        if self._server is None:
            return
        self._path.unlink(missing_ok=True)
        self._server.close()
        open_ones = dict(self._connections)
        await asyncio.gather(*(connection.finish() for connection in open_ones))
        await asyncio.gather(*(task for task in open_ones.values() if task is not None), return_exceptions=True)
        await self._server.wait_closed()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = _Connection(self._knowledge, self._give_way, reader, writer)
        if len(self._connections) >= MAX_CONNECTIONS:
            writer.close()
            return
        self._connections[connection] = asyncio.current_task()
        try:
            await connection.run()
        finally:
            del self._connections[connection]


class _Connection:
    """One client. Each of its requests is a task; when it goes away, they are cancelled."""

    def __init__(
        self,
        knowledge: Knowledge,
        give_way: Callable[[], None] | None,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self._knowledge = knowledge
        self._give_way = give_way
        self._reader = reader
        self._writer = writer
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._writes = 0
        self._receiving: asyncio.Task[None] | None = None

    async def run(self) -> None:
        self._receiving = asyncio.create_task(self._receive(), name="knowledge-connection")
        try:
            await asyncio.wait([self._receiving])
        finally:
            self._receiving.cancel()
            await self._drop()

    async def finish(self) -> None:
        """Reads no more requests, waits a moment for those under way."""
        if self._receiving is not None:
            if self._tasks:
                await asyncio.wait(self._tasks.values(), timeout=DRAIN_SECONDS)
            self._receiving.cancel()

    async def _receive(self) -> None:
        try:
            while (request := await wire.read_request(self._reader)) is not None:
                self._dispatch(request)
                await self._writer.drain()  # who does not read its answers is not read either
        except FrameError as error:
            _log.warning("knowledge_client_dropped", reason=str(error))
        except ConnectionError:
            pass

    def _dispatch(self, request: wire.AnyRequest) -> None:
        if isinstance(request, wire.Cancel):
            if task := self._tasks.get(request.id):
                task.cancel()
            return
        writes = isinstance(request, wire.Write)
        if len(self._tasks) >= MAX_UNDER_WAY or (writes and self._writes >= MAX_WRITES):
            self._send(wire.Failed(request.id, "busy", "too many requests under way on one connection", "-"))
            return
        if request.id in self._tasks:
            raise FrameError(f"a second request with id {request.id}")
        self._writes += writes
        task = asyncio.create_task(self._answer(request), name="knowledge-request")
        self._tasks[request.id] = task
        task.add_done_callback(lambda _: self._done(request))

    def _done(self, request: wire.AnyRequest) -> None:
        self._tasks.pop(request.id, None)
        self._writes -= isinstance(request, wire.Write)

    async def _answer(self, request: wire.AnyRequest) -> None:
        collection = getattr(request, "collection", "-")
        try:
            self._send(await self._handle(request))
        except RetrievalError as error:
            self._send(wire.Failed(request.id, _kind(error), error.message, error.collection))
        except Exception:  # noqa: BLE001 - a fault of one request must neither hang its client nor hurt others
            _log.exception("knowledge_request_failed", request=type(request).__name__, collection=collection)
            self._send(wire.Failed(request.id, "failed", "internal error in the knowledge process", collection))

    async def _handle(self, request: wire.AnyRequest) -> wire.AnyResponse:
        if isinstance(request, wire.Yield):
            if self._give_way is not None:
                self._give_way()
            return wire.Number(request.id, int(self._give_way is not None))
        if isinstance(request, wire.Optimize) and self._give_way is None:
            raise RetrievalError("not while the knowledge process serves others", collection=request.collection)
        return await _handle(self._knowledge, request)

    def _send(self, answer: wire.Response) -> None:
        data = wire.frame(answer)
        if len(data) > wire.MAX_ANSWER:
            data = wire.frame(wire.Failed(answer.id, "failed", f"an answer of {len(data)} bytes is too large", "-"))
        self._writer.write(data)
        if self._writer.transport.get_write_buffer_size() > MAX_UNSENT:
            self._writer.transport.abort()

    async def _drop(self) -> None:
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._writer.close()
        with suppress(ConnectionError):
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await self._writer.wait_closed()
            except TimeoutError:  # it does not read what it asked for
                self._writer.transport.abort()


async def _handle(knowledge: Knowledge, request: wire.AnyRequest) -> wire.AnyResponse:
    match request:
        case wire.Search(id, collection, query, limit):
            return wire.Found(id, await knowledge.search(collection, query, limit))
        case wire.Embed(id, collection, text):
            return wire.Vector(id, await knowledge.embed(collection, text))
        case wire.Documents(id, collection):
            return wire.Digests(id, await knowledge.documents(collection))
        case wire.Count(id, collection):
            return wire.Number(id, await knowledge.count(collection))
    await _change(knowledge, request)
    return wire.Done(request.id)


async def _change(knowledge: Knowledge, request: wire.AnyRequest) -> None:
    match request:
        case wire.Write(_, collection, pieces):
            await knowledge.write(collection, pieces)
        case wire.Delete(_, collection, source):
            await knowledge.delete(collection, source)
        case wire.Recreate(_, collection):
            await knowledge.recreate(collection)
        case wire.Optimize(_, collection):
            await knowledge.optimize(collection)


def _kind(error: RetrievalError) -> Literal["busy", "mismatch", "failed"]:
    if isinstance(error, Busy):
        return "busy"
    return "mismatch" if isinstance(error, CollectionMismatch) else "failed"


def _bind(path: Path) -> socket.socket:
    """A listening socket that appears at `path` in one step, with mode 0600 from the start."""
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with socket_address(new) as address:
            listener.bind(address)
        new.chmod(0o600)
        new.rename(path)
        listener.listen(MAX_CONNECTIONS)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener
