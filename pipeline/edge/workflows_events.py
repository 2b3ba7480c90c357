"""A run's events as a stream that a client can come back to: server-sent events, the entry's number as `id`.

They are sent in slices, each once the one before has been taken: what a client does not read waits in one place for
all, and not with each connection. One that takes nothing for a while loses its connection, and comes back for the rest.
"""

import asyncio
from collections.abc import Awaitable, Iterator, Sequence
from http import HTTPStatus
from typing import cast

from pipeline.core.errors import HeadgateError, InvalidRequest
from pipeline.edge.call import Events, Response
from pipeline.edge.relayed import RelayedEvents
from pipeline.edge.replies import EVENTS_FIELDS, EventReply
from pipeline.edge.sse import COMMENT
from pipeline.edge.workflows_calls import LAST_EVENT_ID, Request, fields, number, one
from pipeline.workflow.events import QUIET_S, Seen, Watch
from pipeline.workflow.journal import Rewound, Signalled, StateChanged
from pipeline.workflow.service import Service
from pipeline.workflow.views import Token

RETRY_MS = 1000
NUMBER_MAX = 10**15 - 1
SLICE = 1 << 15  # bytes that are sent at a time
UNSENT = 1 << 16  # bytes that may be on their way to another shard
STALLED_S = 60.0  # in which a client takes nothing, until its connection is closed

_BEGIN = b"retry: %d\n\n" % RETRY_MS
_OF_RUN = (StateChanged, Signalled, Rewound)


class Streams:
    """All open streams of one edge. `quiet` seconds without news bring a comment, so that nobody on the way takes the
    connection for a dead one. `stalled`: seconds in which a client must take something of what it is sent."""

    def __init__(self, service: Service, quiet: float = QUIET_S, stalled: float = STALLED_S) -> None:
        self._service = service
        self._quiet = quiet
        self._stalled = stalled
        self._open: dict[Watch, bool] = {}  # and whether it is over a connection of this process
        self._leaving = False

    async def answer(self, request: Request, *, here: bool, own: bool) -> Response:
        """`own`: over a connection of this process. `here`: whoever executes the run. Raises `Elsewhere`,
        `UnknownRun`, `JournalFailed`, `InvalidRequest`."""
        call, (run_id,) = request.call, request.target.names
        after = _after(request)
        leaving = self._leaving and own
        quiet = 0.0 if leaving else self._quiet
        watch = await self._service.watching(run_id, request.caller.name, after, here=here, quiet=quiet)
        if watch is None:  # nothing more will come: the one answer after which browsers do not ask again
            return call.reply(b"", "", HTTPStatus.NO_CONTENT)
        self._open[watch] = own
        try:
            if request.target.method == "HEAD":
                return call.reply(b"", EVENTS_FIELDS)
            return await self._stream(request, watch, leaving=leaving)
        finally:
            watch.close()
            del self._open[watch]

    def leave(self) -> None:
        """The process goes: its clients are to come back, to another. Who still asks here is told what there is."""
        self._leaving = True
        for watch, own in list(self._open.items()):
            if own:
                watch.close()

    def close(self) -> None:
        """Ends all streams in good order."""
        self._leaving = True
        for watch in list(self._open):
            watch.close()

    async def _stream(self, request: Request, watch: Watch, *, leaving: bool) -> Response:
        events = cast("EventReply | RelayedEvents", request.call.events())
        if isinstance(events, RelayedEvents):
            events.narrow(UNSENT)
        try:
            await self._taken(events.send(_BEGIN), watch)
            await self._tell(events, watch, leaving=leaving)
            await self._taken(events.end(b""), watch)
        except TimeoutError:
            events.abort()
        return cast(Response, events)

    async def _tell(self, events: Events, watch: Watch, *, leaving: bool) -> None:
        """Raises TimeoutError where the client takes nothing."""
        try:
            while (batch := await anext(watch, None)) is not None and (batch or not leaving):
                for piece in slices(batch) if batch else (COMMENT,):
                    pending = events.send(piece)
                    if pending is not None:
                        await self._taken(pending, watch)
                        await watch.progress()
                    if watch.closed:
                        return
        except HeadgateError:  # the journal cannot be read now: the client asks again, and is told when to
            pass

    async def _taken(self, pending: Awaitable[None] | None, watch: Watch) -> None:
        """Until the client has taken most of what it was sent. Raises TimeoutError."""
        if pending is None:
            return
        async with asyncio.timeout(self._stalled) as patience:
            watch.hurry = lambda: patience.reschedule(0.0)
            try:
                await pending
            finally:
                watch.hurry = None


def slices(batch: Sequence[Seen]) -> Iterator[bytes]:
    """The events' frames, so many bytes at a time."""
    ready = bytearray()
    for seen in batch:
        ready += _head(seen)
        json, at = seen.json, 0
        while len(ready) + len(json) - at > SLICE:
            upto = at + max(SLICE - len(ready), 0)
            ready += json[at:upto]
            at = upto
            yield bytes(ready)
            ready.clear()
        ready += json[at:] if at else json
        ready += b"\n\n"
    yield bytes(ready)


def _head(seen: Seen) -> bytes:
    if isinstance(seen.entry, Token):
        return b"event: token\ndata: "
    return b"id: %d\nevent: %b\ndata: " % (seen.number, b"run" if isinstance(seen.entry, _OF_RUN) else b"step")


def _after(request: Request) -> int:
    """What the client has seen. Browsers send `Last-Event-ID` when they come back, and cannot at first: then the query
    says it."""
    asked = number(one(fields(request.target, "after"), "after"), "after", 0, NUMBER_MAX, 0)
    told = request.call.headers.getall(LAST_EVENT_ID, [])
    if len(told) > 1:
        raise InvalidRequest(f"Invalid header {LAST_EVENT_ID}: it may be given once", param=str(LAST_EVENT_ID))
    if told and told[0]:
        return number(told[0], str(LAST_EVENT_ID), 0, NUMBER_MAX, 0)
    return asked
