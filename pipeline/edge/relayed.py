"""Requests that another shard accepted, from the side of the one that their session belongs to."""

import asyncio
from collections.abc import Awaitable
from typing import Protocol

from multidict import CIMultiDict

from pipeline.core.outcomes import Ending, Reason
from pipeline.core.ticket import Ticket
from pipeline.edge.call import Call, Edge, Response, ticket_fields
from pipeline.edge.forward import WINDOW, Asked, Ended
from pipeline.edge.replies import EVENTS_FIELDS


class Back(Protocol):
    """The way back to the shard that accepted a request."""

    def whole(self, number: int, status: int, fields: str, body: bytes, ended: Ended) -> None: ...

    def data(self, number: int, fields: str, frames: bytes) -> None: ...

    def end(self, number: int, frames: bytes, ended: Ended) -> None: ...


class RelayedCall(Call):
    """A request over another shard's connection. `cancelled` is set once nobody waits for its answer, `orphaned` where
    that is because the shard that accepted it has gone."""

    __slots__ = ("accepted_by", "asked", "back", "cancelled", "number", "orphaned", "stream")

    def __init__(self, number: int, asked: Asked, accepted_by: int, back: Back, edge: Edge) -> None:
        super().__init__(CIMultiDict(asked.headers), asked.request_id, edge)
        self.number = number
        self.accepted_by = accepted_by
        self.orphaned = False
        self.asked = asked
        self.back = back
        self.stream: RelayedEvents | None = None
        self.cancelled = False

    @property
    def path(self) -> str:
        return self.asked.path

    def reply(self, body: bytes, fields: str, status: int = 200) -> "RelayedReply":
        return RelayedReply(body, fields if self.ticket is None else fields + ticket_fields(self.ticket), status)

    def events(self) -> "RelayedEvents":
        self.stream = RelayedEvents(self)
        return self.stream

    def finish(self, response: Response, ticket: Ticket) -> None:
        """Sends the end of the answer, and how the request ended."""
        if self.cancelled:
            return
        ending = ticket.ending or Ending(Reason.STAGE_ERROR, ticket.place)
        ended = Ended(ending.reason.value, ending.place)
        if isinstance(response, RelayedReply):
            self.back.whole(self.number, response.status, response.fields, response.body, ended)
        elif self.stream is not None:
            if not self.stream.opened:
                self.stream.send(b"")
            self.back.end(self.number, self.stream.last, ended)


class RelayedReply:
    """A complete answer."""

    def __init__(self, body: bytes, fields: str, status: int) -> None:
        self.body = body
        self.fields = fields
        self.status = status

    def force_close(self) -> None:
        """The connection is not ours."""


class RelayedEvents:
    """See `pipeline.edge.call.Events`. The client is behind when a window of bytes has not been taken yet."""

    def __init__(self, call: RelayedCall) -> None:
        self.fields = EVENTS_FIELDS
        self.opened = False
        self.last = b""
        self.aborted = False
        self._call = call
        self._credit = WINDOW
        self._room: asyncio.Future[None] | None = None

    @property
    def paused(self) -> bool:
        return self._credit <= 0

    def send(self, frames: bytes) -> Awaitable[None] | None:
        call = self._call
        if call.cancelled:
            raise ConnectionResetError("the client has gone")
        fields = ""
        if not self.opened:
            self.opened = True
            fields = self.fields if call.ticket is None else self.fields + ticket_fields(call.ticket)
        call.back.data(call.number, fields, frames)
        self._credit -= len(frames)
        if self._credit > 0:
            return None
        self._room = call.edge.loop.create_future()
        return self._room

    def end(self, frames: bytes) -> Awaitable[None] | None:
        self.last = frames
        return None

    def break_off(self, frames: bytes) -> None:
        self.last = frames

    def force_close(self) -> None:
        """The connection is not ours."""

    def abort(self) -> None:
        """Whoever has the connection closes it."""
        self.aborted = True

    def narrow(self, window: int) -> None:
        """Of bytes that have not been taken, so many at most. To be called before anything is sent."""
        self._credit = min(self._credit, window)

    def credit(self, amount: int) -> None:
        """So many bytes have been taken."""
        self._credit += amount
        room = self._room
        if room is not None and self._credit > 0:
            self._room = None
            if not room.done():
                room.set_result(None)
