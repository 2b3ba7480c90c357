"""A thread that works off what an event loop gives it, all that is there at a time."""

import asyncio
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any

from pipeline.workflow.errors import JournalFailed

_MOST = 512  # pieces of work at a time

_Waiting = tuple[asyncio.Future[Any], Any]


class Worker:
    """`handle` is called in the thread with pieces of work in the order in which they came; it returns for each what
    comes of it, an exception where it failed. Their results reach the event loop together. To be used from one event
    loop."""

    def __init__(self, name: str, handle: Callable[[Sequence[Any]], list[Any]], at_end: Callable[[], None]) -> None:
        self._handle = handle
        self._at_end = at_end
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ended = asyncio.Event()
        self._closed = False
        self.because = ""  # it is closed

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._ended.clear()
        threading.Thread(target=self._work, name=self._name, daemon=True).start()

    async def do(self, work: Any) -> Any:
        """Work whose waiter is cancelled before it is begun is not done."""
        if self._closed:
            raise JournalFailed(self.because or "The journal is closed")
        future: asyncio.Future[Any] = self._running().create_future()
        self._queue.put((future, work))
        return await future

    async def stop(self) -> None:
        """After all that it was given."""
        if self._loop is None:
            return
        if not self._closed:
            self._closed = True
            self._queue.put(None)
        await self._ended.wait()

    def _work(self) -> None:
        try:
            more = True
            while more:
                more = self._round()
            self._at_end()
        finally:
            self._tell(self._ended.set)

    def _round(self) -> bool:
        waiting, more = self._taken()
        waiting = [one for one in waiting if not one[0].cancelled()]
        if not waiting:
            return more
        try:
            results = self._handle([work for _, work in waiting])
        except Exception as error:  # noqa: BLE001 - a bug: none may wait for ever because of it
            results = [error] * len(waiting)
        self._tell(_deliver, [future for future, _ in waiting], results)
        return more

    def _taken(self) -> tuple[list[_Waiting], bool]:
        waiting: list[_Waiting] = []
        one = self._queue.get()
        while one is not None:
            waiting.append(one)
            if len(waiting) == _MOST or self._queue.empty():
                return waiting, True
            one = self._queue.get()
        return waiting, False

    def _running(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise JournalFailed("The journal is closed")
        return self._loop

    def _tell(self, call: Callable[..., Any], *args: Any) -> None:
        try:
            self._running().call_soon_threadsafe(call, *args)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


def _deliver(futures: list[asyncio.Future[Any]], results: list[Any]) -> None:
    for future, result in zip(futures, results, strict=True):
        if future.cancelled():
            continue
        if isinstance(result, Exception):
            future.set_exception(result)
        else:
            future.set_result(result)
