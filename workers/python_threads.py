"""Code that blocks, in threads of its own, for an event loop that must not wait for it."""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

AHEAD = 16  # items that a thread makes before they are taken


class Handed:
    """An iterator that runs in a thread, its items taken here.

    The thread is at most `AHEAD` items in front. After `close` it ends with the item it is at; nobody waits for it,
    since code that blocks cannot be interrupted, nor does the end of the process. `over` is called here when it ended.
    """

    def __init__(self, items: Iterator[Any], over: "Callable[[Handed], None]" = lambda _: None) -> None:
        self._iterator = items
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._places = threading.Semaphore(AHEAD)
        self._ready: deque[Any] = deque()
        self._wake = asyncio.Event()
        self._ended = False
        self._error: BaseException | None = None
        self.closed = False

    def start(self) -> None:
        """Raises RuntimeError when there can be no more threads."""
        threading.Thread(target=self._run, name="headgate worker", daemon=True).start()

    async def take(self) -> list[Any]:
        """What is ready, at least one item; empty at the end. Raises what the iterator raised."""
        while not self._ready:
            if self._ended:
                if self._error is not None:
                    raise self._error
                return []
            self._wake.clear()
            await self._wake.wait()
        items = list(self._ready)
        self._ready.clear()
        self._places.release(len(items))
        return items

    def close(self) -> None:
        self.closed = True
        self._places.release()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            while self._wanted():
                try:
                    item = next(self._iterator)
                except StopIteration:
                    break
                self._tell(self._put, item)
            if (close := getattr(self._iterator, "close", None)) is not None:
                close()
        except BaseException as raised:  # noqa: BLE001 - whoever takes is told
            error = raised
        self._tell(self._end, error)

    def _wanted(self) -> bool:
        self._places.acquire()
        return not self.closed

    def _tell(self, what: Callable[[Any], None], value: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(what, value)

    def _put(self, item: Any) -> None:
        self._ready.append(item)
        self._wake.set()

    def _end(self, error: BaseException | None) -> None:
        self._ended = True
        self._error = error
        self._wake.set()
        self._over(self)


def once(function: Callable[[], Any]) -> Iterator[Any]:
    """The result of one call, as an iterator."""
    yield function()
