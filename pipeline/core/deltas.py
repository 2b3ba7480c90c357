"""The one channel of the project: carries a request's deltas from its worker to its client."""

import asyncio
from collections.abc import Callable

from workers.base import DeltaBatch


class DeltaChannel:
    """Bounded, single producer, single consumer, per request.

    The producer puts batches and waits when `high_water` deltas are waiting (at most one batch more can be in it);
    the consumer takes all that is ready. The producer ends it with `close` or `fail`; a consumer that goes away calls
    `abandon`, which the producer sees at its next `put` or, while it waits there, in `room`. Belongs to one event
    loop.
    """

    __slots__ = (
        "_abandoned",
        "_batches",
        "_closed",
        "_error",
        "_loop",
        "_pressed",
        "_room",
        "_size",
        "_taker",
        "high_water",
    )

    def __init__(self, high_water: int, loop: asyncio.AbstractEventLoop) -> None:
        self.high_water = high_water
        self._batches: list[DeltaBatch] = []
        self._size = 0
        self._closed = False
        self._abandoned = False
        self._error: Exception | None = None
        self._loop = loop
        self._taker: Callable[[], None] | None = None
        self._pressed: Callable[[], None] | None = None
        self._room: asyncio.Future[None] | None = None

    def __len__(self) -> int:
        """Deltas waiting."""
        return self._size

    @property
    def closed(self) -> bool:
        return self._closed

    # The producer's side.

    def put(self, batch: DeltaBatch) -> bool:
        """Adds a batch; False when the high-water mark is reached or the consumer is gone: call `room` before the
        next."""
        if self._abandoned:
            return False
        self._batches.append(batch)
        self._size += len(batch.deltas)
        if self._taker is not None:
            self._wake()
        if self._size < self.high_water:
            return True
        if self._pressed is not None:
            self._press()
        return self._size < self.high_water

    async def room(self) -> bool:
        """Waits until there is room; False when the consumer is gone and nothing more will be taken. Safe to cancel."""
        while self._size >= self.high_water and not self._abandoned:
            self._room = self._loop.create_future()
            try:
                await self._room
            finally:
                self._room = None
        return not self._abandoned

    def close(self) -> None:
        """The answer is complete."""
        self._end(None)

    def fail(self, error: Exception) -> None:
        """The answer broke off: the consumer gets what is waiting, then `error`."""
        self._end(error)

    # The consumer's side.

    @property
    def ready(self) -> bool:
        """Whether `take` would return, or raise, without waiting."""
        return bool(self._batches) or self._closed

    async def take(self) -> list[DeltaBatch]:
        """All that is waiting, at least one batch; an empty list once closed and drained. Raises what `fail` was given.

        Safe to cancel: nothing is lost.
        """
        while not self.ready:
            ready = asyncio.Event()
            self.when_ready(ready.set)
            await ready.wait()
        return self.take_ready()

    def when_ready(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, from within the producer's `put`, `close` or `fail`, as soon as the channel is
        `ready`. Only to be used while it is not; must not raise.

        A task that waits would cost a turn of the event loop for each batch. What arrives together is one batch anyway.
        """
        self._taker = callback

    def when_pressed(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, as soon as the high-water mark is reached or the answer has ended: for a consumer that
        lets some gather. Until the next `take_ready`; must not raise."""
        self._pressed = callback

    def take_ready(self) -> list[DeltaBatch]:
        """`take` without waiting; only when `ready`."""
        batches = self._batches
        if not batches and self._error is not None:
            raise self._error
        self._batches = []
        self._size = 0
        self._pressed = None
        room = self._room
        if room is not None and not room.done():
            room.set_result(None)
        return batches

    def abandon(self) -> None:
        """The consumer takes no more: `put` and `room` tell the producer so. Idempotent."""
        if self._abandoned:
            return
        self._abandoned = True
        self._taker = self._pressed = None
        self._batches = []
        self._size = 0
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    def _end(self, error: Exception | None) -> None:
        if self._closed:
            return
        self._closed = True
        self._error = error
        if self._taker is not None:
            self._wake()
        elif self._pressed is not None:
            self._press()

    def _press(self) -> None:
        callback, self._pressed = self._pressed, None
        if callback is not None:
            callback()

    def _wake(self) -> None:
        callback, self._taker = self._taker, None
        if callback is not None:
            callback()
