"""An HTTP/1.1 client for chat completions that costs little and says exactly what happened.

Its clock is `time.monotonic`. That is the running loop's clock too, but uvloop's `time` only counts milliseconds.
"""

import asyncio
import errno
import ssl
from collections.abc import Mapping
from time import monotonic
from types import MappingProxyType
from typing import NamedTuple

from benchmarks.load.answer import Answer, End
from benchmarks.load.scenario import Leave
from benchmarks.load.wire_address import BadHeader, BadUrl, address, request_head
from benchmarks.load.wire_answer import Incoming
from benchmarks.load.wire_connection import Connection, Pool

__all__ = ["BadHeader", "BadUrl", "Wire"]

CONNECT_WITHIN = 10.0  # seconds
_OWN_SHORTAGE = frozenset({errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS})
_NO_FIELDS: Mapping[str, str] = MappingProxyType({})


class _Until(NamedTuple):
    """When the client gives up, and as what that counts."""

    at: float
    end: End

    @property
    def passed(self) -> bool:
        return monotonic() >= self.at


class Wire:
    """Asks one target. Must be made while a loop runs, and used in that loop.

    base_url          as OpenAI clients take it; raises BadUrl
    api_key, headers  sent with every request; raises BadHeader
    max_connections   open at once; a request that would need one more is UNREACHABLE
    max_idle          connections kept without a request
    max_answer_bytes  of an unstreamed answer, or of one event; a longer one is NONSENSE
    resend            whether a request is sent again whose kept connection was closed before a byte of an answer came
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        headers: Mapping[str, str] = _NO_FIELDS,
        max_connections: int = 20_000,
        max_idle: int = 4_000,
        max_answer_bytes: int = 8 << 20,
        resend: bool = True,
    ) -> None:
        self._address = address(base_url)
        self._head = request_head(self._address, api_key, headers)
        self._limit = max_answer_bytes
        self._resend = resend
        self._pool = Pool(max_connections, max_idle)
        self._loop = asyncio.get_running_loop()
        self._tls: ssl.SSLContext | None = None
        if self._address.tls:
            self._tls = ssl.create_default_context()
            self._tls.set_alpn_protocols(["http/1.1"])
        self.resent = 0

    @property
    def server(self) -> str:
        """The `Server` header that came last."""
        return self._pool.server

    @property
    def open_connections(self) -> int:
        return len(self._pool.open)

    @property
    def opened(self) -> int:
        """Connections ever made."""
        return self._pool.opened

    @property
    def local_ports(self) -> list[int]:
        """Of the open connections, by which the server's end of each can be found."""
        return [connection.local_port for connection in self._pool.open]

    @property
    def peak(self) -> int:
        """Most connections that were open at once."""
        return self._pool.peak

    async def ask(
        self,
        body: bytes,
        *,
        headers: bytes = b"",
        stream: bool,
        deadline: float | None,
        leave: Leave | None,
        leave_at: float | None,
    ) -> Answer:
        """One attempt. Raises nothing but CancelledError; then the connection is closed.

        `headers` are whole lines, each with its end. `stream`: what the body asks for. `deadline` and `leave_at` (for a
        Leave after `seconds`): seconds of the loop's clock; waiting for a connection counts. Only an answer of status
        200 is left at its head: a refusal is read.

        A request on a kept connection that ends before a byte of an answer came is sent again on a fresh one, unless
        `resend` is off: its server had closed it at the same moment.
        """
        incoming = Incoming(stream=stream, leave=leave, limit=self._limit)
        until = _until(deadline, leave_at)
        request = b"".join((self._head, headers, b"Content-Length: %d\r\n\r\n" % len(body), body))
        if until is not None and until.passed:
            return _gone(incoming, until.end)
        connection = self._pool.take()
        if connection is not None:
            await self._exchange(connection, request, incoming, leave, until)
            if not (self._resend and connection.silent and incoming.answer.end is End.BROKEN):
                return incoming.answer
            incoming.again()
            self.resent += 1
        connection = await self._connect(incoming, until)
        if connection is not None:
            await self._exchange(connection, request, incoming, leave, until)
        return incoming.answer

    async def aclose(self) -> None:
        """Closes every connection. Answers that are still awaited end as BROKEN."""
        for connection in list(self._pool.open):
            connection.connection_lost(None)
        await asyncio.sleep(0)  # the transports close in the loop's next round

    async def _exchange(
        self, connection: Connection, request: bytes, incoming: Incoming, leave: Leave | None, until: _Until | None
    ) -> None:
        if leave is not None and leave.after == "sent":
            connection.send_and_leave(request, incoming)
            return
        timer = None
        if until is not None:
            timer = self._loop.call_at(until.at, connection.give_up, incoming, until.end)
        try:
            await connection.send(request, incoming)
        except asyncio.CancelledError:
            connection.abort()
            raise
        finally:
            if timer is not None:
                timer.cancel()

    async def _connect(self, incoming: Incoming, until: _Until | None) -> Connection | None:
        """None: `incoming` says why."""
        pool, to = self._pool, self._address
        if pool.full:
            _unreachable(incoming, f"{pool.most} connections are open, as many as this client may have")
            return None
        connection = Connection(pool)
        limit = monotonic() + CONNECT_WITHIN
        limit = limit if until is None else min(limit, until.at)
        pool.connecting += 1
        try:
            async with asyncio.timeout_at(limit) as timer:
                await self._loop.create_connection(
                    lambda: connection, to.host, to.port, ssl=self._tls, server_hostname=to.host if to.tls else None
                )
        except asyncio.CancelledError:
            connection.abort()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it was, there is no connection
            connection.abort()
            if isinstance(error, OSError) and error.errno in _OWN_SHORTAGE:
                incoming.short(str(error))
            elif not timer.expired():
                _unreachable(incoming, str(error) or type(error).__name__)
            elif until is not None and until.at <= limit:
                _gone(incoming, until.end)
            else:
                _unreachable(incoming, f"no connection within {CONNECT_WITHIN:g} s")
            return None
        finally:
            pool.connecting -= 1
        return connection


def _until(deadline: float | None, leave_at: float | None) -> _Until | None:
    if leave_at is not None and (deadline is None or leave_at < deadline):
        return _Until(leave_at, End.LEFT)
    return None if deadline is None else _Until(deadline, End.TIMED_OUT)


def _gone(incoming: Incoming, end: End) -> Answer:
    incoming.now = monotonic()
    incoming.gone(end)
    return incoming.answer


def _unreachable(incoming: Incoming, detail: str) -> None:
    incoming.now = monotonic()
    incoming.unreachable(detail)
