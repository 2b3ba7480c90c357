"""Stream: gives out each answer as it becomes ready, one write for whatever is ready together."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

from pipeline.core.errors import StageFailed
from pipeline.core.messages import PostOutput
from pipeline.core.outcomes import Place, Reason
from pipeline.core.ports import Answer
from pipeline.core.queue import StageQueue
from pipeline.core.ticket import Ticket
from pipeline.stages.base import Clock, Stage
from pipeline.stages.post import FilterChain
from workers.base import Delta, DeltaBatch

_LESS = 0.75  # of the load from which on deltas gather, they go on to do so: it falls because they do
# Stands for "the backend" where an awaitable says what to wait for.
_BACKEND: Awaitable[None] = cast("Awaitable[None]", object())


class StreamStage(Stage[PostOutput, None]):
    """The last stage: ends its requests as `completed`, or as what the backend or the client made of them.

    An answer that waits for its backend is called back when there is more; only one that waits for its client gets a
    task. Either is in the stage until its request ends.

    What comes is written at once while the event loop has time to spare. Once it is busy for `flush_load` of the time
    (0.0 to 1.0, by the CPU time of its thread), what comes within `flush` seconds after a first delta goes out
    together with it; the first delta of an answer and the last never wait. `spent` is that CPU time in seconds.
    """

    place = Place.STREAM

    def __init__(
        self,
        inbox: StageQueue[PostOutput],
        concurrency: int,
        clock: Clock,
        *,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        super().__init__(inbox, None, concurrency, clock)
        self.flush = 0.0
        self.flush_load = 1.0
        self.gathers = False  # the event loop is busy
        self._spent = spent
        self._seen: tuple[float, float] | None = None
        self._gathered: list[Writing] = []

    def tick(self, now: float) -> None:
        super().tick(now)
        spent, before = self._spent(), self._seen
        if before is None or now > before[0]:
            self._seen = (now, spent)
        if before is not None and now > before[0]:
            load = (spent - before[1]) / (now - before[0])
            self.gathers = self.flush > 0.0 and load >= (self.flush_load * (_LESS if self.gathers else 1.0))

    def later(self, writing: "Writing") -> None:
        """Goes on with an answer soon, together with others."""
        if not self._gathered:
            self.loop.call_later(self.flush, self._go_on)
        self._gathered.append(writing)

    def _go_on(self) -> None:
        gathered, self._gathered = self._gathered, []
        for writing in gathered:
            writing.gathered()

    def handle(self, message: PostOutput) -> None:
        writing = Writing(message, self)
        writing.go_on()
        if writing.ticket.ending is None:
            writing.ticket.streaming = True
            self.active += 1

    def left(self) -> None:
        """An answer that had to wait has ended."""
        self.active -= 1
        self.nudge()


class Writing:
    """Writes one answer into its sink."""

    __slots__ = (
        "_began",
        "_begun",
        "_channel",
        "_filters",
        "_finishing",
        "_gathers",
        "_message",
        "_sink",
        "_stage",
        "ticket",
    )

    def __init__(self, message: PostOutput, stage: StreamStage) -> None:
        self.ticket: Ticket = message.request.ticket
        if self.ticket.sink is None:
            raise StageFailed("The request has no sink")
        self._message = message
        self._sink = self.ticket.sink
        self._channel = message.before.channel
        self._filters = message.filters
        self._stage = stage
        self._began = stage.clock()
        self._begun = False
        self._finishing = False
        self._gathers = False  # deltas, for a moment

    def ready(self) -> None:
        """There is more in the channel."""
        stage, channel = self._stage, self._channel
        if not stage.gathers or channel.closed or len(channel) >= channel.high_water:
            self.go_on()
            return
        self._gathers = True
        channel.when_pressed(self.gathered)
        stage.later(self)

    def gathered(self) -> None:
        """The moment is over."""
        if self._gathers:
            self._gathers = False
            self.go_on()

    def go_on(self) -> None:
        """Writes until something must be waited for, and sees to it that it is called again then. Never raises."""
        try:
            while self.ticket.ending is None:
                pending = self._write() if self._begun and not self._finishing else self._begin_or_end()
                if pending is _BACKEND:
                    self._channel.when_ready(self.ready)
                    return
                if pending is not None:
                    self._wait_for_client(pending)
                    return
        except ConnectionError:
            self._client_gone()
        except Exception as error:  # noqa: BLE001 - one request's failure must not be another's
            self._stage.fail(self.ticket, error)

    def _write(self) -> Awaitable[None] | None:
        """Writes what is ready. The hot path: once for each batch of each answer."""
        channel = self._channel
        if not channel.ready:
            return _BACKEND
        batches = channel.take_ready()  # raises what the backend call failed with
        if not batches:
            self._finishing = True
            return self._sink.finish(self.ticket.usage)
        answer = plain(batches) if self._filters is None else self._filtered(self._filters, batches)
        return self._sink.write(answer) if answer.deltas or answer.body else None

    def _filtered(self, filters: FilterChain, batches: Sequence[DeltaBatch]) -> Answer:
        answer = filters.run(batches)
        if filters.ended:
            self._channel.abandon()  # and so stop the backend call
            self._channel.close()
        return answer

    def _begin_or_end(self) -> Awaitable[None] | None:
        if not self._begun:
            self._begun = True
            return self._sink.begin(self._message)
        now = self._stage.clock()
        self.ticket.service[Place.STREAM] = now - self._began
        if self._stage.trace is not None:
            self._stage.trace(self.ticket, Place.STREAM)
        self.ticket.end(Reason.DONE, now)
        return None

    def _wait_for_client(self, pending: Awaitable[None]) -> None:
        task = asyncio.ensure_future(pending)
        self.ticket.tasks.append(task)
        task.add_done_callback(self._client_ready)

    def _client_ready(self, task: "asyncio.Future[None]") -> None:
        error = None if task.cancelled() else task.exception()
        if task.cancelled() or self.ticket.ending is not None:
            return
        if isinstance(error, ConnectionError):
            self._client_gone()
        elif error is not None:
            self._stage.fail(self.ticket, error)
        else:
            self.ticket.tasks.remove(task)
            self.go_on()

    def _client_gone(self) -> None:
        self.ticket.cancel(Reason.CLIENT_GONE, self._stage.clock())


def plain(batches: Sequence[DeltaBatch]) -> Answer:
    """What arrived, as an answer without filters."""
    if len(batches) == 1:
        batch = batches[0]
        return Answer(batch.deltas, False, batch.body, batch.frames)
    deltas: list[Delta] = []
    frames: list[bytes] = []
    body = b""
    for batch in batches:
        deltas += batch.deltas
        frames.append(batch.frames)
        body = body or batch.body
    return Answer(tuple(deltas), False, body, b"".join(frames) if all(frames) else b"")
