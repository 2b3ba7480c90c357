"""One connection: aiohttp's HTTP protocol, held to the limits that aiohttp does not have.

aiohttp bounds lines and fields of a head, idle time, and what a client pipelines. Added here: the size of a whole head
and its time from the first byte, a limit on clients that do not take what is written, errors in JSON, a cheap
answer to connections beyond the limit, the head gate. What is overridden are the callbacks of `asyncio.Protocol` and
aiohttp's `handle_error`; of aiohttp's private state it reads whether a connection is idle and what was parsed. Requests
that the gate refuses aiohttp never sees: for these the count of requests and the idle time are kept here as there.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader
from aiohttp.web_protocol import RequestHandler, RequestPayloadError, _ErrInfo

from config.schema import ServerSection
from pipeline.core.errors import HeadgateError, Overloaded, SlowClient, StageFailed
from pipeline.core.outcomes import Place, Reason
from pipeline.edge.errors import HeadTooLarge, MalformedHttp, error_json, refusal_bytes
from pipeline.edge.gate import HeadGate, Refused

LINGER_S = 1.0  # how long a refused client may go on sending before it is cut off
HEADER_LINES_MAX = 128
REFUSALS_MAX = 256  # refused connections that wait for their answer; more are closed at once
_UNKNOWN = -(1 << 62)  # of a count of bytes; never made good by what still comes


class Limits:
    """The bounds of a connection, and the answers for when they are passed. All connections share them, so that they
    can be changed while connections are open."""

    def __init__(self, server: ServerSection) -> None:
        self.configure(server)

    def configure(self, server: ServerSection) -> None:
        self.head_bytes = server.max_head_bytes
        self.head_seconds = server.head_timeout_ms / 1000
        self.idle_seconds = server.idle_timeout_ms / 1000
        self.body_seconds = server.body_timeout_ms / 1000
        self.connections = server.max_connections
        self.head_too_large = HeadTooLarge(f"The request's head is larger than {self.head_bytes} bytes")
        self.head_too_slow = SlowClient(f"The request's head did not arrive within {self.head_seconds:g} s")
        self.too_many = Overloaded(
            "The server has no connection left; try again later",
            place=Place.INGRESS.label,
            reason=Reason.QUEUE_FULL,
            retry_after=1.0,
        )


class Connection(RequestHandler):
    """`made` is called once it is there."""

    __slots__ = (
        "_after_head",
        "_body",
        "_gate",
        "_head_timer",
        "_limits",
        "_received",
        "_stalled",
        "_unwanted",
        "made",
    )

    def __init__(self, manager: web.Server, limits: Limits, gate: HeadGate | None, **options: Any) -> None:
        super().__init__(manager, **options)
        self._limits = limits
        self._gate = gate
        self._received = 0  # bytes of a head that is not complete yet
        self._body: StreamReader = EMPTY_PAYLOAD  # of the last request
        self._after_head = 0  # bytes received since its head; as many as its body has, or some are of another request
        self._unwanted = 0  # bytes still to come of a body whose request the head gate has refused
        self._head_timer: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None
        self.made: Callable[[Connection], None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self.made is not None:
            self.made(self)

    @property
    def idle(self) -> bool:
        """Whether no request is being handled or waiting to be, and another may come."""
        if self._close or self._force_close or self._unwanted:
            return False
        waiter = self._waiter
        return self._request_count == 0 if waiter is None else not waiter.done()

    @property
    def fresh(self) -> bool:
        """Whether it has brought no request yet."""
        return self._request_count == 0

    def surrender(self) -> socket.socket | None:
        """The connection's socket, for another process to go on with, where nothing is under way on it: none of its
        bytes have been read and none are left to be written. The connection has then ended here, silently."""
        transport = self.transport
        if transport is None or not self.idle or self._received or self._paused or transport.is_closing():
            return None
        if transport.get_extra_info("sslcontext") is not None or transport.get_write_buffer_size():
            return None
        sock: socket.socket = transport.get_extra_info("socket").dup()
        transport.pause_reading()
        transport.abort()
        return sock

    def data_received(self, data: bytes) -> None:
        if self._unwanted:
            data = self._forget(data)
            if not data:
                return
        gate = self._gate
        if gate is not None and gate.ingress.gate_closed and self._gated(gate, data):
            return
        self._received += len(data)
        before = self._request_count
        body_comes = not self._body.is_eof()
        super().data_received(data)
        if self._request_count != before:
            self._head_complete(data, self._request_count - before)
        elif self.idle:
            self._head_incomplete(data)
        else:
            self._after_head += len(data)
            if body_comes:
                self._received = 0

    def pause_writing(self) -> None:
        """The client takes less than it is sent: not for ever."""
        super().pause_writing()
        if self.transport is not None:
            self._stalled = self._loop.call_later(self._limits.idle_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        _cancel(self._stalled)

    def connection_lost(self, exc: BaseException | None) -> None:
        _cancel(self._stalled)
        _cancel(self._head_timer)
        self._body = EMPTY_PAYLOAD  # which knows the connection: nothing is left to the collector
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,  # noqa: ARG002 - aiohttp passes it; the error has its own
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to a head that could not be parsed; other errors have become answers before they get here."""
        if isinstance(exc, ConnectionError) or request.writer.output_size > 0:
            raise ConnectionError("the client has gone, or got a part of its answer")
        error = _head_error(exc, message, self._limits)
        response = web.Response(status=error.status, body=error_json(error), content_type="application/json")
        response.headers.update({"Server": "headgate", "Connection": "close"})
        response.force_close()
        return response

    def _gated(self, gate: HeadGate, data: bytes) -> bool:
        """Whether the head gate refused the request that begins with `data`: only where that is certain to be the
        beginning of one, and no other answer waits to be taken."""
        if self._received or self._after_head != self._body.total_bytes or self._paused or not self.idle:
            return False
        refused = gate.refuse(data)
        if refused is not None:
            self._request_count += 1
            self._answer(refused)
        return refused is not None

    def _answer(self, refused: Refused) -> None:
        if self.transport is None:
            return
        if not refused.keep and refused.missing:
            self._last_words(refused.answer)
            return
        self.transport.write(refused.answer)
        if not refused.keep:
            self.force_close()
            return
        self._next_keepalive_close_time = self._loop.time() + self._limits.idle_seconds
        if refused.missing:
            self._unwanted = refused.missing
            self._head_timer = self._loop.call_later(self._limits.body_seconds, self.force_close)

    def _forget(self, data: bytes) -> bytes:
        """Takes what comes of a body that nobody wants; returns what is behind it."""
        forgotten = min(self._unwanted, len(data))
        self._unwanted -= forgotten
        if not self._unwanted:
            _cancel(self._head_timer)
            self._head_timer = None
            if self._gate is not None and self._gate.ingress.draining and forgotten == len(data):
                self.force_close()
        return data[forgotten:]

    def _head_complete(self, data: bytes, heads: int) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None
        if self._received + self._after_head > self._limits.head_bytes:
            self._refuse_large_heads()
        # What came behind its head counts for one that came alone and in one piece.
        end = data.find(b"\r\n\r\n") if heads == 1 and self._received == len(data) else -1
        self._after_head = _UNKNOWN if end < 0 else len(data) - end - 4
        self._body = self._messages[-1][1]
        self._received = 0
        self._break_body()

    def _head_incomplete(self, data: bytes) -> None:
        if self._received > self._limits.head_bytes:
            self._refuse(self._limits.head_too_large)
        elif self._head_timer is None:
            if not data.strip(b"\r\n"):  # empty lines before a head don't count (RFC 9112, section 2.2)
                self._received -= len(data)
                return
            self._head_timer = self._loop.call_later(self._limits.head_seconds, self._head_overdue)

    def _head_overdue(self) -> None:
        if self.idle:
            self._refuse(self._limits.head_too_slow)

    def _refuse_large_heads(self) -> None:
        for position, (message, _) in enumerate(self._messages):
            if not isinstance(message, _ErrInfo) and _head_size(message) > self._limits.head_bytes:
                error = self._limits.head_too_large
                self._messages[position] = (_ErrInfo(error.status, error, error.message), EMPTY_PAYLOAD)

    def _break_body(self) -> None:
        """What cannot be parsed may be the rest of a body that is being read: aiohttp would let its reader wait."""
        broken = self._messages[-1][0] if self._messages else None
        if not isinstance(broken, _ErrInfo):
            return
        if len(self._messages) > 1:
            body = self._messages[-2][1]
        elif self._current_request is not None:
            body = self._current_request.content
        else:
            return
        if not body.is_eof():
            self._messages.pop()
            body.set_exception(RequestPayloadError(_first_line(broken.message)))
            body.feed_eof()
            self.close()

    def _refuse(self, error: HeadgateError) -> None:
        self._last_words(refusal_bytes(error))

    def _last_words(self, answer: bytes) -> None:
        """Answers where no request is being handled. What still comes in is read and forgotten for a while: closing at
        once would reset the connection, and the answer could be lost."""
        transport = self.transport
        self.close()
        if transport is not None:
            self._head_timer = _answer_and_linger(transport, answer)


class ConnectionServer(web.Server):
    """aiohttp's low-level server with connections of ours: there is no router and no middleware on the way."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
        limits: Limits,
        gate: HeadGate | None,
    ) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._limits = limits
        self._gate = gate

    def __call__(self) -> Connection:
        limits = self._limits
        return Connection(
            self,
            limits,
            self._gate,
            loop=self._loop,
            access_log=None,
            keepalive_timeout=limits.idle_seconds,
            max_line_size=limits.head_bytes,
            max_field_size=limits.head_bytes,
            max_headers=HEADER_LINES_MAX,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )

    @property
    def open(self) -> int:
        return len(self._connections)


class Refusal(asyncio.Protocol):
    """A connection beyond the limit: whatever it sends first is answered with 503. `count` is told its first bytes."""

    def __init__(self, limits: Limits, waiting: set["Refusal"], count: Callable[[bytes], None]) -> None:
        self._limits = limits
        self._waiting = waiting
        self._count = count
        self._answered = False
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        if len(self._waiting) >= REFUSALS_MAX:
            self._transport.abort()
            return
        self._waiting.add(self)
        self._timer = asyncio.get_running_loop().call_later(LINGER_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport is None or self._answered:
            return
        self._answered = True
        self._count(data)
        _cancel(self._timer)
        self._timer = _answer_and_linger(self._transport, refusal_bytes(self._limits.too_many))

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol has it
        self._waiting.discard(self)
        _cancel(self._timer)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()


def _answer_and_linger(transport: asyncio.Transport, answer: bytes) -> asyncio.TimerHandle:
    transport.write(answer)
    if transport.can_write_eof():
        transport.write_eof()
    else:  # TLS has no half of a connection: it says goodbye, and the loop forgets what still comes in
        transport.close()
    return asyncio.get_running_loop().call_later(LINGER_S, transport.abort)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()


def _head_size(message: RawRequestMessage) -> int:
    """Bytes of a head on the wire, about: method, target, version and header lines."""
    fields = sum([len(name) + len(value) + 4 for name, value in message.raw_headers])
    return len(message.method) + len(message.path) + 14 + fields


def _head_error(error: BaseException | None, message: str | None, limits: Limits) -> HeadgateError:
    if isinstance(error, HeadgateError):
        return error
    if isinstance(error, LineTooLong) or (message or "").startswith("Too many headers"):
        return limits.head_too_large
    if isinstance(error, HttpProcessingError):
        return MalformedHttp(f"The request is not HTTP as it should be: {_first_line(message or str(error))}")
    return StageFailed("The server failed on this request")


def _first_line(message: str) -> str:
    """Without the excerpt of what was received, which the parser puts below."""
    return message.partition("\n")[0].rstrip(":")
