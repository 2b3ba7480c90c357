"""Takes the body of an answer where it comes in, instead of waking a task for each piece of it.

A task that reads costs two turns of the event loop for each piece. Here the connection hands over what one read brought
in one go, all in the call that the event loop made for that read.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import aiohttp

from workers.base import DeltaBatch, Spout
from workers.transport import Wire


class _Tapped(aiohttp.StreamReader):
    """What an answer's reader becomes: it keeps nothing itself. The connection knows what has come and not been
    taken."""

    __slots__ = ()

    def feed_data(self, data: bytes, size: int = 0) -> bool:  # noqa: ARG002 - aiohttp's signature
        self._protocol.gathered.append(data)  # type: ignore[attr-defined] # it is a Wire
        return False

    def begin_http_chunk_receiving(self) -> None:
        pass

    def end_http_chunk_receiving(self) -> None:
        pass


class Tap:
    """`take` gets the body of an answer piece by piece, each as large as what came in together; it returns whether it
    wants more at once, and must not raise. `content` is not to be read by anybody else from here on."""

    def __init__(self, content: aiohttp.StreamReader, take: Callable[[bytes], bool]) -> None:
        wire = content._protocol  # noqa: SLF001 - not public, and tested
        if not isinstance(wire, Wire):
            raise TypeError(f"the answer came over a {type(wire).__name__}")
        self._content = content
        self._wire = wire
        self._take = take
        self.over = False  # to be set by `take` where it wants nothing more at all: the connection is not held back
        self._open = True
        self._paused = False
        if not content.at_eof():
            wire.gathered = [content.read_nowait(), *wire.gathered]
        content.__class__ = _Tapped

    async def run(self) -> bool:
        """Until `take` wants no more (True: there may be more when this is called again), or the body ends (False).
        Raises what the connection broke with."""
        wire, content = self._wire, self._content
        self._open = True
        wire.tap = self._taken
        try:
            pieces, wire.gathered = wire.gathered, []
            for piece in pieces:
                if piece:
                    self._taken(piece)
            if self._open and self._paused:
                self._paused = False
                wire.resume()
            if self._open and not content.is_eof():
                error = content.exception()
                if error is not None:
                    raise error
                await self._until_ended()
        finally:
            if wire.tap == self._taken:  # else it serves another call already
                wire.tap = None
        return not self._open

    def _taken(self, data: bytes) -> None:
        if not self._open:
            self._wire.gathered.append(data)
            return
        if self._take(data):
            return
        self._open = False
        if not (self.over or self._paused or self._content.is_eof()):
            self._paused = True
            self._wire.pause()
        waiter = self._content._waiter  # noqa: SLF001 - the one that `_until_ended` waits for
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    async def _until_ended(self) -> None:
        """The reader's own way of waiting: it is woken at the end of the body, and by what breaks it."""
        await self._content._wait("tap")  # noqa: SLF001 - as above


class _Queue:
    """A spout for somebody who takes one batch after another. One may wait."""

    def __init__(self) -> None:
        self.batches: list[DeltaBatch] = []
        self.ready = asyncio.Event()
        self._taken = asyncio.Event()

    def put(self, batch: DeltaBatch) -> bool:
        self.batches.append(batch)
        self._taken.clear()
        self.ready.set()
        return False

    async def room(self) -> bool:
        await self._taken.wait()
        return True

    def take(self) -> list[DeltaBatch]:
        batches, self.batches = self.batches, []
        self.ready.clear()
        self._taken.set()
        return batches


async def drawn(pour: Callable[[Spout], Coroutine[Any, Any, None]]) -> AsyncGenerator[DeltaBatch, None]:
    """What `pour` puts, one by one. Closing the generator cancels it."""
    queue = _Queue()
    task = asyncio.ensure_future(pour(queue))
    task.add_done_callback(lambda _: queue.ready.set())
    try:
        while not task.done() or queue.batches:
            await queue.ready.wait()
            for batch in queue.take():
                yield batch
        await task
    finally:
        task.cancel()
        await asyncio.wait((task,))
        if not task.cancelled():
            task.exception()  # seen, also where nobody waited for it
