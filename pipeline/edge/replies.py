"""Answers as bytes: head and body, or head and chunks, put together here and written in as few writes as possible.

They go through aiohttp's writer and so through its flow control; what they leave out is the way from header objects to
header bytes, which costs a third of what aiohttp needs for a small request. Header lines come with their line ends, and
from us: nothing that a client sent gets into them unchecked.
"""

from collections.abc import Awaitable
from http import HTTPStatus
from typing import cast

from aiohttp import ClientConnectionResetError, HttpVersion10, web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.helpers import rfc822_formatted_time
from aiohttp.http import StreamWriter

from pipeline.core.errors import HeadgateError
from pipeline.edge.call import Call, Edge, Response, ticket_fields
from pipeline.edge.error_bodies import error_body
from pipeline.edge.errors import error_fields
from pipeline.edge.sse import eager

JSON_FIELD = "Content-Type: application/json\r\n"
EVENTS_FIELDS = (
    "Content-Type: text/event-stream; charset=utf-8\r\n"
    "Cache-Control: no-cache\r\n"
    "X-Accel-Buffering: no\r\n"  # asks nginx not to gather what it forwards
)

_REASONS = {status.value: status.phrase for status in HTTPStatus}


class HttpCall(Call):
    """A request over a connection of this process. `fields` are the header lines that the answer has in any case,
    `server` those that tell who answers."""

    __slots__ = ("fields", "request", "server")

    def __init__(self, request: web.BaseRequest, request_id: str, fields: str, server: str, edge: Edge) -> None:
        super().__init__(request.headers, request_id, edge)
        self.request = request
        self.fields = fields
        self.server = server

    @property
    def path(self) -> str:
        return self.request.path

    def reply(self, body: bytes, fields: str, status: int = 200) -> "Reply":
        return Reply(self, body, fields, status)

    def events(self) -> "EventReply":
        return EventReply(self)


class _Reply(web.StreamResponse):
    """What aiohttp's protocol asks of a response: `prepare`, `write_eof`, `keep_alive`, `force_close`."""

    def __init__(self, call: HttpCall) -> None:  # none of what the base class would set up is used
        self._call = call
        self._keep_alive = call.request.keep_alive

    async def prepare(self, request: web.BaseRequest) -> AbstractStreamWriter | None:  # noqa: ARG002 - aiohttp passes it
        return None

    def _head(self, status: int, fields: str) -> bytes:
        request, ticket = self._call.request, self._call.ticket
        if ticket is not None:
            fields += ticket_fields(ticket)
        connection = ""
        if not self._keep_alive:
            connection = "Connection: close\r\n"
        elif request.version == HttpVersion10:
            connection = "Connection: keep-alive\r\n"
        return (
            f"HTTP/1.1 {status} {_REASONS[status]}\r\n{fields}{self._call.fields}{self._call.server}"
            f"Date: {rfc822_formatted_time()}\r\n{connection}\r\n"
        ).encode()


class Reply(_Reply):
    """An answer that is complete."""

    def __init__(self, call: HttpCall, body: bytes, fields: str = JSON_FIELD, status: int = 200) -> None:
        super().__init__(call)
        self._fields = fields
        self._content = body
        self._code = status

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's signature
        body = self._content
        request = self._call.request
        length = "" if self._code == HTTPStatus.NO_CONTENT else f"Content-Length: {len(body)}\r\n"
        head = self._head(self._code, self._fields + length)
        await request.writer.write(head if request.method == "HEAD" else head + body)


class EventReply(_Reply):
    """See `pipeline.edge.call.Events`. Where a stream breaks off and the client is not reading, its connection
    closes."""

    def __init__(self, call: HttpCall) -> None:
        super().__init__(call)
        self.fields = EVENTS_FIELDS
        self.opened = False
        self._chunked = call.request.version != HttpVersion10
        self._finished = False
        self._protocol = call.request.protocol
        self._transport = call.request.transport  # closed, should it be lost

    @property
    def paused(self) -> bool:
        return self._call.request.protocol.writing_paused

    def send(self, frames: bytes) -> Awaitable[None] | None:
        request = self._call.request
        if not self.opened:
            return eager(request.writer.write(self._framed(frames)))
        # Once for each batch of each answer: what aiohttp's writer does, without its coroutine.
        transport, protocol = self._transport, self._protocol
        if transport is None or transport.is_closing():
            raise ClientConnectionResetError("the client has gone")
        transport.write(b"%x\r\n%b\r\n" % (len(frames), frames) if self._chunked else frames)
        return request.writer.drain() if protocol.writing_paused else None

    def end(self, frames: bytes) -> Awaitable[None] | None:
        return eager(self._call.request.writer.write(self._last(frames)))

    def break_off(self, frames: bytes) -> None:
        if self.paused:
            self.force_close()
        if not self._finished:
            writer = cast(StreamWriter, self._call.request.writer)
            eager(writer.write(self._last(frames), drain=False))

    def abort(self) -> None:
        """Closes the connection at once: what the client has not taken is let go of."""
        self._finished = True
        self.force_close()
        if self._transport is not None:
            self._transport.abort()

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing: `end`, `break_off` or `abort` have been called."""

    def _last(self, frames: bytes) -> bytes:
        self._finished = True
        framed = self._framed(frames)
        return framed + b"0\r\n\r\n" if self._chunked else framed

    def _framed(self, frames: bytes) -> bytes:
        if self._chunked and frames:  # a chunk of nothing would be the last
            frames = b"%x\r\n%b\r\n" % (len(frames), frames)
        return frames if self.opened else self._open() + frames

    def _open(self) -> bytes:
        self.opened = True
        if self._call.edge.draining or not self._chunked:
            self._keep_alive = False
        return self._head(200, self.fields + ("Transfer-Encoding: chunked\r\n" if self._chunked else ""))


def refusal(call: Call, error: HeadgateError) -> Response:
    """The answer to a request that failed before its answer began."""
    body = error_body(call.path, error, call.request_id)
    return call.reply(body, JSON_FIELD + error_fields(error), error.status)
