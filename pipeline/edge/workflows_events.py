"""A run's events as a stream that a client can come back to: server-sent events, the entry's number as `id`."""

from http import HTTPStatus

from pipeline.core.errors import HeadgateError, InvalidRequest
from pipeline.edge.call import Response
from pipeline.edge.replies import EVENTS_FIELDS
from pipeline.edge.sse import COMMENT
from pipeline.edge.workflows_calls import LAST_EVENT_ID, Request, fields, number, one
from pipeline.workflow.events import QUIET_S, Seen, Watch
from pipeline.workflow.journal import Rewound, Signalled, StateChanged
from pipeline.workflow.service import Service
from pipeline.workflow.views import Token

RETRY_MS = 1000
NUMBER_MAX = 10**15 - 1

_BEGIN = b"retry: %d\n\n" % RETRY_MS
_OF_RUN = (StateChanged, Signalled, Rewound)


class Streams:
    """All open streams of one edge. `quiet` seconds without news bring a comment, so that nobody on the way takes the
    connection for a dead one."""

    def __init__(self, service: Service, quiet: float = QUIET_S) -> None:
        self._service = service
        self._quiet = quiet
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
        events = request.call.events()
        frames = _BEGIN
        try:
            while True:
                pending = events.send(frames)
                if pending is not None:
                    await pending
                batch = await anext(watch, None)
                if batch is None or (leaving and not batch):
                    break
                frames = b"".join([frame(seen) for seen in batch]) or COMMENT
        except HeadgateError:  # the journal cannot be read now: the client asks again, and is told when to
            pass
        pending = events.end(b"")
        if pending is not None:
            await pending
        return events  # type: ignore[return-value]  # streams of calls are responses too


def frame(seen: Seen) -> bytes:
    if isinstance(seen.entry, Token):
        return b"event: token\ndata: " + seen.json + b"\n\n"
    name = b"run" if isinstance(seen.entry, _OF_RUN) else b"step"
    return b"id: %d\nevent: %b\ndata: %b\n\n" % (seen.number, name, seen.json)


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
