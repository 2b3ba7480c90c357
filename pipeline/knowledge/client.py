"""The knowledge process as seen from a shard or from `headgate ingest`: a Retriever over its Unix socket.

Imports nothing heavy: a shard at rest stays small.
"""

import asyncio
import itertools
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

from pipeline.adapters.retrievers.stored import Embedded
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge import wire
from pipeline.knowledge.errors import Busy, Disconnected, FrameError
from pipeline.knowledge.places import socket_address
from workers.base import Passage

R = TypeVar("R", bound=wire.Response)

MAX_QUERY_CHARS = 8_192  # neither the embedder nor the word search looks further

_ERRORS = {"busy": Busy, "mismatch": CollectionMismatch, "failed": RetrievalError}


class KnowledgeClient:
    """A `Retriever`; its other methods are for ingesting.

    Connects when it is first asked, and again after the knowledge process was started anew. A call fails at once with
    `Disconnected` when there is no such process or it goes away; time limits are the caller's (every call is safe to
    cancel, which takes a waiting query out of the process' queue).
    """

    def __init__(self, socket_path: Path) -> None:
        self._path = socket_path
        self._ids = itertools.count(1)
        self._connecting = asyncio.Lock()
        self._link: _Link | None = None

    async def connect(self) -> None:
        """Raises `Disconnected` when no knowledge process serves."""
        await self._connected("-")

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        request = wire.Search(next(self._ids), collection, wire.clean(query[:MAX_QUERY_CHARS]), limit)
        return (await self._ask(request, collection, wire.Found)).passages

    async def embed(self, collection: str, text: str) -> Embedded:
        """The vector of a query, by the collection's embedder."""
        request = wire.Embed(next(self._ids), collection, wire.clean(text[:MAX_QUERY_CHARS]))
        return (await self._ask(request, collection, wire.Vector)).embedded

    async def write(self, collection: str, pieces: Sequence[wire.Piece]) -> None:
        """Embeds and stores pieces of one document, see `CollectionStore.write`; at most `wire.MAX_REQUEST` bytes."""
        await self._ask(wire.Write(next(self._ids), collection, list(pieces)), collection, wire.Done)

    async def delete(self, collection: str, source: str) -> None:
        await self._ask(wire.Delete(next(self._ids), collection, source), collection, wire.Done)

    async def documents(self, collection: str) -> dict[str, str]:
        request = wire.Documents(next(self._ids), collection)
        return (await self._ask(request, collection, wire.Digests)).documents

    async def count(self, collection: str) -> int:
        return (await self._ask(wire.Count(next(self._ids), collection), collection, wire.Number)).value

    async def recreate(self, collection: str) -> None:
        await self._ask(wire.Recreate(next(self._ids), collection), collection, wire.Done)

    async def optimize(self, collection: str) -> None:
        await self._ask(wire.Optimize(next(self._ids), collection), collection, wire.Done)

    async def request_yield(self) -> bool:
        """Asks a temporary process to end; False when it is not one."""
        return bool((await self._ask(wire.Yield(next(self._ids)), "-", wire.Number)).value)

    async def aclose(self) -> None:
        if self._link is not None:
            link, self._link = self._link, None
            await link.aclose()

    async def _ask(self, request: wire.Request, collection: str, expected: type[R]) -> R:
        link = await self._connected(collection)
        answer = await link.ask(request, collection)
        if isinstance(answer, wire.Failed):
            raise _ERRORS[answer.kind](answer.message, collection=answer.collection)
        if not isinstance(answer, expected):
            raise RetrievalError(f"the knowledge process answered {type(answer).__name__}", collection=collection)
        return answer

    async def _connected(self, collection: str) -> "_Link":
        async with self._connecting:
            if self._link is None or self._link.lost:
                try:
                    with socket_address(self._path) as address:
                        reader, writer = await asyncio.open_unix_connection(address)
                except OSError as error:
                    reason = (error.strerror or str(error)).lower()
                    raise Disconnected(
                        f"the knowledge process cannot be reached at {self._path}: {reason}", collection=collection
                    ) from error
                self._link = _Link(reader, writer)
            return self._link


class _Link:
    """One connection, many requests under way."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.lost = False
        self._writer = writer
        self._waiting: dict[int, asyncio.Future[wire.AnyResponse | None]] = {}  # None: the connection is lost
        self._task = asyncio.create_task(self._receive(reader), name="knowledge-client")

    async def ask(self, request: wire.Request, collection: str) -> wire.AnyResponse:
        waiting: asyncio.Future[wire.AnyResponse | None] = asyncio.get_running_loop().create_future()
        self._waiting[request.id] = waiting
        try:
            self._writer.write(wire.frame(request))
            await self._writer.drain()
            answer = await waiting
        except asyncio.CancelledError:
            if not self.lost:
                self._writer.write(wire.frame(wire.Cancel(request.id)))
            raise
        except ConnectionError:
            answer = None
        finally:
            self._waiting.pop(request.id, None)
        if answer is None:
            raise Disconnected("the knowledge process went away before it answered", collection=collection)
        return answer

    async def aclose(self) -> None:
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task
        self._lose()  # a task that had not begun did not come to it
        with suppress(ConnectionError):
            await self._writer.wait_closed()

    async def _receive(self, reader: asyncio.StreamReader) -> None:
        try:
            while (answer := await wire.read_response(reader)) is not None:
                waiting = self._waiting.get(answer.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(answer)
        except (FrameError, ConnectionError):
            pass  # the same as its end
        finally:
            self._lose()

    def _lose(self) -> None:
        self.lost = True
        self._writer.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_result(None)
