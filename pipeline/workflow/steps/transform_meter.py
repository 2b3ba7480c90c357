"""Limits of what a transform may take, and the threads for large ones."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

from pipeline.workflow.errors import StepFailed

T = TypeVar("T")

SECONDS = 10.0
BRIEF = 0.02  # what a small input may take on the event loop, before it goes to a thread as well
MAX_CHARS = 16_777_216  # of a text that goes in or comes out
MAX_ITEMS = 1_000_000  # of a list that comes out
_SMALL_CHARS = 50_000
_SMALL_ITEMS = 1000
_LOOK = 256  # items between two looks at the clock


class Work:
    """What one operation may still take. All of it raises `StepFailed`."""

    __slots__ = ("_deadline", "_seen")

    def __init__(self, seconds: float = SECONDS) -> None:
        self._deadline = time.monotonic() + seconds
        self._seen = 0

    @classmethod
    def brief(cls) -> "Work":
        return cls(BRIEF)

    @property
    def left(self) -> float:
        return max(0.001, self._deadline - time.monotonic())

    def tick(self) -> None:
        self._seen += 1
        if self._seen % _LOOK == 0 and time.monotonic() > self._deadline:
            raise self.late()

    def late(self) -> StepFailed:
        return StepFailed("timeout", f"the transform took longer than {SECONDS:g} s")

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


async def apart(function: Callable[..., T], step: Any, value: Any) -> T:
    """In a thread. It ends by its own clock, also after its step was cancelled."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), lambda: function(step, value, Work()))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(2, thread_name_prefix="transform")
