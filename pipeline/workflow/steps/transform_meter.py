"""Limits of what a transform may take, and the threads for large ones."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

from pipeline.workflow.errors import StepFailed

T = TypeVar("T")

SECONDS = 10.0
REGEX_SECONDS = 1.0
BRIEF = 0.002  # what a small input may take on the event loop, before it goes to a thread as well
MAX_CHARS = 16_777_216  # of a text that goes in or comes out
MAX_ITEMS = 1_000_000  # of a list that comes out
_SMALL_CHARS = 50_000
_SMALL_ITEMS = 1000
_LOOK = 256  # items between two looks at the clock


class Work:
    """What one operation may still take. All of it raises `StepFailed`."""

    __slots__ = ("_deadline", "_seconds", "_seen")

    def __init__(self, seconds: float = SECONDS) -> None:
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._seen = 0

    @property
    def left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def tick(self) -> None:
        self._seen += 1
        if self._seen % _LOOK == 0 and time.monotonic() > self._deadline:
            raise self.late()

    def late(self) -> StepFailed:
        return StepFailed("timeout", f"the transform took longer than {self._seconds:g} s")

    def each(self, items: Iterable[T]) -> Iterator[T]:
        for item in items:
            self.tick()
            yield item

    def chars(self, count: int) -> None:
        """To be asked before a text of this length is made."""
        if count > MAX_CHARS:
            raise StepFailed("too_large", f"the result would have more than {MAX_CHARS} characters")

    def items(self, count: int) -> None:
        if count > MAX_ITEMS:
            raise StepFailed("too_large", f"the result would have more than {MAX_ITEMS} items")


def is_small(value: Any) -> bool:
    """Whether a value is so small that its work need not go to a thread. Looks at no more than `_SMALL_ITEMS` parts."""
    left, chars = _SMALL_ITEMS, _SMALL_CHARS
    waiting = [value]
    while waiting:
        one = waiting.pop()
        left -= 1
        if isinstance(one, str):
            chars -= len(one)
        elif isinstance(one, list | dict):
            if len(one) > left:
                return False
            waiting.extend(one.values() if isinstance(one, dict) else one)
        if left < 0 or chars < 0:
            return False
    return True


async def apart(run_id: str, function: Callable[[Work], T], seconds: float = SECONDS) -> T:
    """In a thread; a run has one at a time. It ends by its own clock, also after its step was cancelled."""
    loop = asyncio.get_running_loop()
    line = _lines.setdefault(loop, {})
    before, ended = line.get(run_id), loop.create_future()
    line[run_id] = ended
    try:
        if before is not None:
            await asyncio.shield(before)
        work = _threads().submit(lambda: function(Work(seconds)))
    except BaseException:
        _pass_on(line, run_id, ended, before)
        raise
    work.add_done_callback(lambda _: _in_loop(loop, partial(_pass_on, line, run_id, ended, None)))
    return await asyncio.wrap_future(work)


_Line = dict[str, asyncio.Future[None]]  # by run: done when the last one that asked has had its thread
_lines: WeakKeyDictionary[asyncio.AbstractEventLoop, _Line] = WeakKeyDictionary()


def _in_loop(loop: asyncio.AbstractEventLoop, then: Callable[[], None]) -> None:
    with suppress(RuntimeError):  # it is closed
        loop.call_soon_threadsafe(then)


def _pass_on(line: _Line, run_id: str, ended: asyncio.Future[None], before: asyncio.Future[None] | None) -> None:
    """`before`: it gave up while that one was not done."""
    if before is not None and not before.done():
        before.add_done_callback(lambda _: _pass_on(line, run_id, ended, None))
        return
    if not ended.done():
        ended.set_result(None)
    if line.get(run_id) is ended:
        del line[run_id]


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="transform")
