"""Connections that are kept, and one exchange at a time over each."""

import asyncio
from time import monotonic
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from benchmarks.load.answer import End
from benchmarks.load.wire_answer import Incoming

GRACE = 5.0  # seconds that the end of the body may come after [DONE]
MOST_HEAD = 64 << 10  # bytes of a head, and of all else in an answer that is not its body

_GONE = frozenset({End.LEFT, End.TIMED_OUT})


class Pool:
    """The connections of one client. Those without a request are `kept` and taken again, the last one first.

    `peak`: most that were open at once; `opened`: all that ever were. `server`: the last `Server` header.
    """

    def __init__(self, most: int, most_kept: int) -> None:
        self.most = most
        self.opened = 0
        self.peak = 0
        self.connecting = 0
        self.server = ""
        self.open: set[Connection] = set()
        self._most_kept = most_kept
        self._kept: dict[Connection, None] = {}  # an ordered set: any of them may be closed by its server

    @property
    def full(self) -> bool:
        return len(self.open) + self.connecting >= self.most

    def take(self) -> "Connection | None":
        return self._kept.popitem()[0] if self._kept else None

    def keep(self, connection: "Connection") -> bool:
        """Whether there was room."""
        if len(self._kept) >= self._most_kept:
            return False
        self._kept[connection] = None
        return True

    def came(self, connection: "Connection") -> None:
        self.open.add(connection)
        self.opened += 1
        self.peak = max(self.peak, len(self.open))

    def went(self, connection: "Connection") -> None:
        self.open.discard(connection)
        self._kept.pop(connection, None)


class Connection(asyncio.Protocol):
    """Sends a request and reads its answer into an Incoming. Without a request nothing may come: then it is closed."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser: HttpResponseParser | None = None
        self._incoming: Incoming | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._grace: asyncio.TimerHandle | None = None
        self._complete = False  # the answer has come as far as HTTP is concerned
        self._lasting = False  # and another may follow
        self._touched = False  # something came since the request was sent
        self._size = 0  # bytes since the last of a body
        self.silent = False  # the connection ended, and not a byte had come since the request was sent

    @property
    def local_port(self) -> int:
        """0 while there is no connection."""
        return 0 if self._transport is None else int(self._transport.get_extra_info("sockname")[1])

    def send(self, request: bytes, incoming: Incoming) -> asyncio.Future[None]:
        """The future is done when the Incoming is `over`."""
        self._incoming, self._complete, self._touched, self._size = incoming, False, False, 0
        waiter = self._waiter = self._loop.create_future()
        incoming.now = incoming.answer.sent = monotonic()
        if self._transport is None:  # lost in the very moment it was made
            self._lost("")
        else:
            self._transport.write(request)
        return waiter

    def send_and_leave(self, request: bytes, incoming: Incoming) -> None:
        """Closes as soon as all is sent: `close` first writes what has to be written, `abort` would drop it."""
        incoming.now = incoming.answer.sent = monotonic()
        if self._transport is None:
            incoming.lost("")
            return
        self._transport.write(request)
        self._transport.close()
        incoming.now = monotonic()
        incoming.gone(End.LEFT)

    def give_up(self, incoming: Incoming, end: End) -> None:
        """The client leaves, or its time is up. Nothing happens if that answer is over; another's may be under way."""
        if self._incoming is incoming:
            incoming.now = monotonic()
            incoming.gone(end)
            self._finish(incoming)

    def abort(self) -> None:
        """At once; nobody waits for what may still come."""
        self._release()
        self._forget()

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are no subclass of it
        self._parser = HttpResponseParser(self)
        self._pool.came(self)

    def data_received(self, data: bytes) -> None:
        incoming = self._incoming
        if incoming is None or self._parser is None:
            self._forget()
            return
        incoming.now = monotonic()
        self._touched = True
        self._size += len(data)
        wrong = None
        try:
            self._parser.feed_data(data)
        except HttpParserError as error:
            wrong = str(error)
        except HttpParserUpgrade:
            wrong = "it wants another protocol"
        incoming.settle(complete=self._complete)
        if wrong is not None:  # after a whole answer it only costs the connection
            self._lasting = False
            incoming.malformed(wrong)
        if self._size > MOST_HEAD and not self._complete:
            incoming.nonsense(f"more than {MOST_HEAD} bytes without any of a body")
        if incoming.over:
            self._finish(incoming)
        elif incoming.awaits_end and self._grace is None:
            self._grace = self._loop.call_later(GRACE, self._no_end)

    def eof_received(self) -> None:
        # At once: `connection_lost` comes only when the request is written, if ever.
        self._lost("")
        self._forget()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost("" if exc is None else str(exc) or type(exc).__name__)
        self._forget()

    # What the parser calls.

    def on_message_begin(self) -> None:
        if self._complete:
            raise _Surplus

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._incoming is not None:
            self._incoming.header(name, value)

    def on_headers_complete(self) -> None:
        if self._incoming is not None and self._parser is not None:
            self._incoming.head(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        self._size = 0
        if self._incoming is not None:
            self._incoming.body(data)

    def on_message_complete(self) -> None:
        if self._parser is not None and self._parser.get_status_code() >= 200:
            self._complete = True
            self._lasting = self._parser.should_keep_alive()

    def _no_end(self) -> None:
        incoming = self._incoming
        if incoming is not None:
            incoming.now = monotonic()
            incoming.no_end(GRACE)
            self._finish(incoming)

    def _lost(self, why: str) -> None:
        incoming = self._incoming
        if incoming is not None:
            incoming.now = monotonic()
            self.silent = not self._touched
            incoming.lost(why)
            self._finish(incoming)

    def _finish(self, incoming: Incoming) -> None:
        self._release()
        self._pool.server = incoming.server or self._pool.server
        left = incoming.answer.end in _GONE  # perhaps in the middle of a read that held the whole answer
        if left or not self._may_stay() or not self._pool.keep(self):
            self._forget()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def _release(self) -> None:
        self._incoming = None
        if self._grace is not None:
            self._grace.cancel()
            self._grace = None

    def _may_stay(self) -> bool:
        """What is not written yet would stand before the next request."""
        transport = self._transport
        return (
            self._complete
            and self._lasting
            and transport is not None
            and not transport.is_closing()
            and not transport.get_write_buffer_size()
        )

    def _forget(self) -> None:
        self._pool.went(self)
        transport, self._transport = self._transport, None
        self._parser = None  # it holds this object's methods: a cycle
        if transport is not None:
            transport.abort()


class _Surplus(Exception):
    """Raised to the parser when another message begins before it was asked for."""
