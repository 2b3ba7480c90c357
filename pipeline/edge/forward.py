"""Requests whose session belongs to another shard, from the side that accepted them.

The body has been read and the caller is known; the owner decodes, admits and answers, and says how the request ended.
It is counted here, because here is who would know if the owner died.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, cast

import msgspec
from multidict import MultiMapping

from pipeline.core.errors import Cancelled, DeadlineExceeded, HeadgateError, ShardLost
from pipeline.core.outcomes import Place, Reason
from pipeline.core.ticket import Ticket
from pipeline.edge import head
from pipeline.edge.call import Response
from pipeline.edge.replies import EventReply, HttpCall, refusal
from pipeline.ingress import Ingress

WINDOW = 1 << 18  # bytes of an answer that may be on their way
GRACE = 1.0  # seconds after its deadline in which the owner must have said that it passed

_HEADERS = tuple((str(name), name) for name in (head.SESSION_ID, head.TIMEOUT, head.CLIENT_READ_TIMEOUT))


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """A request as one shard hands it to another. `arrived` is on the monotonic clock, which all processes share.
    `path` of what is not a prompt is method, path and query: `GET /v1/runs/x/events?after=3`."""

    path: str
    request_id: str
    headers: list[tuple[str, str]]
    caller: str
    priority: int
    arrived: float
    body: bytes


class Ended(msgspec.Struct, frozen=True, array_like=True):
    """How it ended at its owner."""

    reason: str
    place: int


class Road(Protocol):
    """The way to another shard's process."""

    shard: int

    def ready(self) -> Awaitable[None] | None:
        """None, or what to await until it can be used; raises ConnectionError when its end is gone."""
        ...

    def ask(self, asked: Asked, back: "Forwarded") -> int:
        """Sends a request and returns its number. `back` is told what becomes of it. Raises `Overloaded` when the other
        end takes no more."""
        ...

    def credit(self, number: int, amount: int) -> None:
        """So many bytes of the answer have been taken by the client."""
        ...

    def cancel(self, number: int) -> None:
        """Nobody waits for the answer any more."""
        ...


class Peers(Protocol):
    """The other shards. `alone`: there are none, and nothing need be asked."""

    alone: bool

    def road(self, session: str | None) -> Road | None:
        """Where a request of this session is to be served; None: here. Without one: where there is least to do."""
        ...

    def process(self, pid: int, shard: int) -> Road | None:
        """The way to a process that was or is this shard's, whoever takes the shard's requests now; None where it is
        this one, or cannot be reached."""
        ...

    def served(self, more: int) -> None:
        """So many more (or, negative, fewer) requests are being served here."""
        ...

    def roomier(self, connections: int) -> Callable[[socket.socket], bool] | None:
        """So many clients are connected here; where another shard has clearly fewer: what takes a new one's connection
        there. That returns False where it could not be taken."""
        ...


class Alone:
    """A process without others beside it."""

    alone = True

    def road(self, session: str | None) -> None:  # noqa: ARG002 - the protocol's signature
        return None

    def process(self, pid: int, shard: int) -> None:  # noqa: ARG002 - as above
        return None

    def served(self, more: int) -> None:
        pass

    def roomier(self, connections: int) -> None:  # noqa: ARG002 - the protocol's signature
        return None


class Routing(msgspec.Struct, frozen=True):
    """What a body says of where it is to go; anything else is looked at by whoever serves it."""

    model: str | None = None
    session_id: str | None = None
    timeout: float | None = None  # seconds, where the body says so
    stream: bool = False


class Forwarded:
    """A request at its owner's, as its client's side sees it."""

    def __init__(
        self, call: HttpCall, ticket: Ticket, ingress: Ingress, broken: Callable[[HeadgateError], bytes]
    ) -> None:
        self.deadline = float("inf")  # on the monotonic clock, with the grace
        self._call = call
        self._ticket = ticket
        self._ingress = ingress
        self._broken = broken
        self._road: Road | None = None
        self._number = 0
        self._reply: EventReply | None = None
        self._taken = 0
        self._over: asyncio.Future[Response] = call.edge.loop.create_future()

    async def response(self, road: Road, asked: Asked) -> Response:
        """Hands the request over and waits for the end of its answer. Raises `Overloaded`."""
        self._number = road.ask(asked, self)
        self._road = road
        self._call.ticket = None  # the owner knows the fields that it has because of its ticket
        self._call.server = f"X-Headgate-Shard: {road.shard}\r\nServer: headgate\r\n"
        self._ticket.owner = road.shard
        self._ticket.sink = cast(Any, self)  # only `fail` is ever called: what else there is goes the owner's way
        try:
            return await self._over
        finally:
            self._leave()
            self._ticket.sink = None

    # What the owner says.

    def whole(self, status: int, fields: str, body: bytes, ended: Ended) -> None:
        """The complete answer."""
        self._end(ended)
        if not self._over.done():
            self._over.set_result(self._call.reply(body, fields, status))

    def data(self, fields: str, frames: bytes) -> None:
        """More of a stream; `fields` are its header lines, with the first of it."""
        if self._ticket.ending is not None:
            return
        reply = self._reply
        if reply is None:
            reply = self._reply = self._call.events()
            reply.fields = fields
        try:
            pending = reply.send(frames)
        except ConnectionError:
            self._ingress.cancel(self._ticket, Reason.CLIENT_GONE)
            return
        if pending is None:
            self._took(len(frames))
        else:
            task = asyncio.ensure_future(pending)
            self._ticket.tasks.append(task)
            task.add_done_callback(partial(self._drained, len(frames)))

    def end(self, frames: bytes, ended: Ended) -> None:
        """The last of a stream."""
        self._end(ended)
        reply = self._reply
        if self._over.done() or reply is None:
            return
        if ended.reason == Reason.DONE:
            pending = self._last(reply, frames)
            if pending is not None:
                asyncio.ensure_future(pending).add_done_callback(lambda _: self._finish(reply))
                return
        else:
            reply.break_off(frames)
        self._finish(reply)

    def lost(self) -> None:
        """The owner has gone."""
        self._road = None
        self._ticket.owner = None  # nobody else tells how it went
        message = "The process that served this request has gone; try again"
        self._ingress.reject(self._ticket, ShardLost(message, retry_after=1.0))

    def overdue(self) -> None:
        """The owner has not said a word long after the deadline: it stands."""
        self._leave()
        self._ticket.owner = None
        self._ingress.reject(self._ticket, DeadlineExceeded("The deadline passed"))

    # What ends it on this side.

    def fail(self, error: HeadgateError) -> None:
        """The ticket has ended here: the client left, or the process stops, or the owner is gone."""
        self._leave()
        if self._over.done():
            return
        if self._reply is None or not self._reply.opened:
            self._over.set_result(refusal(self._call, error))
            return
        if not (isinstance(error, Cancelled) and error.reason == Reason.CLIENT_GONE):
            self._reply.break_off(self._broken(error))
        self._finish(self._reply)

    def _leave(self) -> None:
        road, self._road = self._road, None
        if road is not None:
            road.cancel(self._number)

    def _end(self, ended: Ended) -> None:
        self._road = None
        ticket = self._ticket
        ticket.sink = None
        if ticket.ending is None:
            ticket.end(Reason(ended.reason), self._ingress.now(), None, Place(ended.place))

    def _last(self, reply: EventReply, frames: bytes) -> Awaitable[None] | None:
        try:
            return reply.end(frames)
        except ConnectionError:
            return None

    def _finish(self, reply: EventReply) -> None:
        if not self._over.done():
            self._over.set_result(cast(Response, reply))

    def _drained(self, size: int, task: "asyncio.Future[None]") -> None:
        with suppress(ValueError):  # the ticket has ended, and let go of it
            self._ticket.tasks.remove(task)
        if not task.cancelled() and task.exception() is None:  # else the client has gone, as its handler will be told
            self._took(size)

    def _took(self, size: int) -> None:
        self._taken += size
        if self._taken >= WINDOW // 2 and self._road is not None:
            self._road.credit(self._number, self._taken)
            self._taken = 0


def headers_of(headers: MultiMapping[str]) -> list[tuple[str, str]]:
    """Those that dialects read."""
    return [(name, value) for name, key in _HEADERS if key in headers for value in headers.getall(key)]


def text_of(value: Any) -> str | None:
    """A field of a body that should be text, None for anything else and for nothing."""
    return value if isinstance(value, str) and value else None
