"""The one bounded queue of the project."""

import asyncio
import enum
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

T = TypeVar("T")
Entry = tuple[float, T]  # an item with the time it was put


class Put(enum.Enum):
    """What became of a `try_put`."""

    ACCEPTED = enum.auto()
    FULL = enum.auto()
    CLOSED = enum.auto()


class QueueStatistics(NamedTuple):
    """`oldest` is the age of the oldest waiting item in seconds, 0.0 when empty; the last three count since
    creation."""

    depth: int
    capacity: int
    reserved: int
    oldest: float
    offered: int
    taken: int
    shed: int


class Order(Protocol[T]):
    """The discipline of a queue: what waits, and what of it comes next."""

    def __len__(self) -> int: ...

    def append(self, entry: Entry[T], /) -> None: ...

    def take(self, limit: int) -> list[Entry[T]]:
        """Removes and returns up to `limit` entries, the next ones first; perhaps none although some wait."""
        ...

    def withdraw(self, match: Callable[[T], bool]) -> list[T]:
        """Removes and returns all items that `match`."""
        ...

    def drop(self, ticket: Any) -> bool:
        """Removes the item that belongs to the request of `ticket`; False when none does."""
        ...

    def oldest(self) -> float | None:
        """When the item that waits longest was put; None where nothing waits."""
        ...


class Fifo(deque[Entry[T]]):
    """First in, first out."""

    def take(self, limit: int) -> list[Entry[T]]:
        if len(self) <= limit:
            entries = list(self)
            self.clear()
            return entries
        return [self.popleft() for _ in range(limit)]

    def withdraw(self, match: Callable[[T], bool]) -> list[T]:
        out = [item for _, item in self if match(item)]
        if out:
            kept = [entry for entry in self if not match(entry[1])]
            self.clear()
            self.extend(kept)
        return out

    def drop(self, ticket: Any) -> bool:
        for index, (_, item) in enumerate(self):
            if item.request.ticket is ticket:  # type: ignore[attr-defined] # the items of the flow are messages
                del self[index]
                return True
        return False

    def oldest(self) -> float | None:
        return self[0][0] if self else None


class StageQueue(Generic[T]):
    """A bounded queue in front of a stage: many producers that never wait, one consumer that does. `order` is its
    discipline, first in first out where none is given.

    Places are either held by waiting items or *reserved*: whoever holds a reservation is sure that its later `try_put`
    is accepted. depth + reserved never exceeds capacity. Times come from the caller's clock.
    Not thread-safe; belongs to one event loop.
    """

    __slots__ = (
        "_closed",
        "_loop",
        "_taker",
        "_vacancy",
        "capacity",
        "offered",
        "reserved",
        "shed",
        "taken",
        "waiting",
    )

    def __init__(self, capacity: int, order: Order[T] | None = None) -> None:
        if capacity < 1:
            raise ValueError(f"a queue needs a capacity of at least 1, not {capacity}")
        self.capacity = capacity
        self.reserved = 0
        self.offered = 0
        self.taken = 0
        self.shed = 0
        self.waiting: Order[T] = Fifo() if order is None else order  # to be looked at only
        self._loop: asyncio.AbstractEventLoop | None = None
        self._taker: asyncio.Future[None] | None = None
        self._vacancy: Callable[[], None] | None = None
        self._closed = False

    def __len__(self) -> int:
        return len(self.waiting)

    @property
    def closed(self) -> bool:
        return self._closed

    @property
    def vacancies(self) -> int:
        """Places neither held nor reserved."""
        return self.capacity - len(self.waiting) - self.reserved

    def try_put(self, item: T, now: float, *, reserved: bool = False) -> Put:
        """Appends `item`, or says at once why not. With `reserved` a place held by `reserve` is used up either way."""
        self.offered += 1
        if reserved:
            self.reserved -= 1
        if self._closed:
            self.shed += 1
            return Put.CLOSED
        if not reserved and len(self.waiting) + self.reserved >= self.capacity:
            self.shed += 1
            return Put.FULL
        self.waiting.append((now, item))
        taker = self._taker
        if taker is not None and not taker.done():
            taker.set_result(None)
        return Put.ACCEPTED

    def reserve(self) -> bool:
        """Holds a place for a later `try_put(…, reserved=True)`; False when there is none."""
        if self._closed or len(self.waiting) + self.reserved >= self.capacity:
            return False
        self.reserved += 1
        return True

    def hold(self) -> None:
        """`reserve` for a caller who has just seen a vacancy."""
        self.reserved += 1

    def release(self) -> None:
        """Gives a reserved place back unused."""
        self.reserved -= 1
        self._vacated()

    def on_vacancy(self, callback: Callable[[], None]) -> None:
        """`callback` is called, once, when a place becomes free. For the one stage that reserves here; it must not
        raise."""
        self._vacancy = callback

    def pass_by(self, *, reserved: bool = False) -> Put:
        """Books an item that its consumer takes at this moment, because it is idle and nothing waits."""
        self.offered += 1
        if reserved:
            self.reserved -= 1
        if self._closed:
            self.shed += 1
            return Put.CLOSED
        self.taken += 1
        if self._vacancy is not None:
            self._vacated()
        return Put.ACCEPTED

    async def take(self, limit: int) -> list[tuple[float, T]]:
        """Up to `limit` items, the next ones first, each with the time it was put; waits while there is none.

        An empty list means closed and drained. Safe to cancel: nothing is lost. One consumer at a time.
        """
        while not self.waiting and not self._closed:
            await self.wait()
        return self.take_ready(limit)

    def wait(self) -> "asyncio.Future[None]":
        """A future that is done at the next put, or when the queue is closed. For its one consumer, when it is
        empty."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        self._taker = self._loop.create_future()
        return self._taker

    def take_ready(self, limit: int) -> list[tuple[float, T]]:
        """`take` of what is there."""
        items = self.waiting.take(limit)
        if not items:
            return items
        self.taken += len(items)
        if self._vacancy is not None:
            self._vacated()
        return items

    def withdraw(self, match: Callable[[T], bool]) -> list[T]:
        """Removes and returns the waiting items that `match`: their requests have ended elsewhere."""
        out = self.waiting.withdraw(match)
        if out:
            self._vacated()
        return out

    def drop(self, ticket: Any) -> None:
        """Removes what waits for the request of `ticket`, if anything does: it has ended elsewhere."""
        if self.waiting.drop(ticket):
            self._vacated()

    def close(self) -> None:
        """No more puts. What waits can still be taken; then `take` returns an empty list."""
        self._closed = True
        if self._taker is not None and not self._taker.done():
            self._taker.set_result(None)

    def statistics(self, now: float) -> QueueStatistics:
        since = self.waiting.oldest()
        oldest = 0.0 if since is None else now - since
        return QueueStatistics(
            len(self.waiting), self.capacity, self.reserved, oldest, self.offered, self.taken, self.shed
        )

    def _vacated(self) -> None:
        callback, self._vacancy = self._vacancy, None
        if callback is not None:
            callback()
