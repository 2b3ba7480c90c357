"""Stream: gives out each answer as it becomes ready, one write for whatever is ready together."""

import asyncio
from collections.abc import Awaitable, Coroutine, Sequence
from typing import Any

from pipeline.core.errors import StageFailed
from pipeline.core.messages import PostOutput
from pipeline.core.outcomes import Place, Reason
from pipeline.core.ports import Answer
from pipeline.core.ticket import Ticket
from pipeline.stages.base import Clock, Stage, Trace
from workers.base import DeltaBatch


class StreamStage(Stage[PostOutput, None]):
    """The last stage: ends its requests as `completed`, or as what the backend or the client made of them.

    An answer that is ready as a whole is written without a task; one that has to wait, for its backend or for its
    client, gets a task until it ends.
    """

    place = Place.STREAM

    def handle(self, message: PostOutput) -> Coroutine[Any, Any, None] | None:
        writing = _Writing(message, self._clock, self.trace)
        try:
            pending = writing.go_on()
        except ConnectionError:
            writing.client_gone()
            return None
        if pending is None:
            return None
        if isinstance(pending, Coroutine):  # would be left unawaited if the request ended before its task began
            pending = asyncio.ensure_future(pending)
            message.request.ticket.tasks.append(pending)
        return writing.rest(pending)


class _Writing:
    """Writes one answer into its sink."""

    __slots__ = (
        "_began",
        "_begun",
        "_channel",
        "_clock",
        "_filters",
        "_finishing",
        "_message",
        "_sink",
        "_ticket",
        "_trace",
    )

    def __init__(self, message: PostOutput, clock: Clock, trace: Trace | None) -> None:
        ticket: Ticket = message.request.ticket
        if ticket.sink is None:
            raise StageFailed("The request has no sink")
        self._message = message
        self._ticket = ticket
        self._sink = ticket.sink
        self._channel = message.before.channel
        self._filters = message.filters
        self._clock = clock
        self._trace = trace
        self._began = clock()
        self._begun = False
        self._finishing = False

    def go_on(self) -> Awaitable[None] | None:
        """Writes until something must be waited for, which is returned; None when the answer has ended."""
        while self._ticket.ending is None:
            pending = self._step()
            if pending is not None:
                return pending
        return None

    async def rest(self, pending: Awaitable[None] | None) -> None:
        try:
            while pending is not None:
                await pending
                pending = self.go_on()
        except ConnectionError:
            self.client_gone()

    def client_gone(self) -> None:
        self._ticket.cancel(Reason.CLIENT_GONE, self._clock())

    def _step(self) -> Awaitable[None] | None:
        if not self._begun:
            self._begun = True
            return self._sink.begin(self._message)
        if self._finishing:
            self._complete()
            return None
        channel = self._channel
        if not channel.ready:
            return channel.wait()
        batches = channel.take_ready()  # raises what the backend call failed with
        if not batches:
            self._finishing = True
            return self._sink.finish(self._ticket.usage)
        return self._write(batches)

    def _write(self, batches: Sequence[DeltaBatch]) -> Awaitable[None] | None:
        filters = self._filters
        answer = plain(batches) if filters is None else filters.run(batches)
        if filters is not None and filters.ended:
            self._channel.abandon()  # and so stop the backend call
            self._channel.close()
        if answer.deltas or answer.body:
            return self._sink.write(answer)
        return None

    def _complete(self) -> None:
        now = self._clock()
        self._ticket.service[Place.STREAM] = now - self._began
        if self._trace is not None:
            self._trace(self._ticket, Place.STREAM)
        self._ticket.end(Reason.DONE, now)


def plain(batches: Sequence[DeltaBatch]) -> Answer:
    """What arrived, as an answer without filters."""
    if len(batches) == 1:
        batch = batches[0]
        return Answer(batch.deltas, body=batch.body)
    deltas = tuple(delta for batch in batches for delta in batch.deltas)
    return Answer(deltas, body=next((batch.body for batch in batches if batch.body), b""))
