"""HTTP towards model backends: one pool of connections a worker, and every way a call can break as a `WorkerError`."""

import asyncio
import contextlib
import functools
import io
import os
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from typing import Any

import aiohttp
from aiohttp.client_proto import ResponseHandler
from aiohttp.http_exceptions import ContentEncodingError

from workers.errors import WorkerError, WorkerErrorKind

_LARGE = 1 << 20  # bytes of a request that are sent in pieces, so that other work gets its turn in between
_READ_AHEAD = 1 << 16  # bytes of an answer; once twice as many wait to be read, the backend is held back
_UNSENDABLE = "cannot call the backend: its address or a header is invalid"
_SETTLE = 0.05  # seconds a complete answer may take to end as HTTP before its connection is given up


class StaleConnectionError(aiohttp.ClientConnectionError):
    """A pooled connection turned out to be closed by its server before a byte of an answer came over it."""


class BrokenFramingError(aiohttp.ClientPayloadError):
    """The body of an answer broke HTTP's own rules, such as a chunk size that is no number."""


class Wire(ResponseHandler):
    """aiohttp's protocol for one connection, with four things that it leaves to chance.

    - A request on a reused connection that fails before a byte was heard raises `StaleConnectionError`: the server had
      closed it while idle, so asking again on another connection repeats nothing.
    - An answer that cannot be parsed on raises in whoever reads it; aiohttp leaves the reader waiting.
    - `close` aborts: aiohttp's goes on sending the rest of a request that nobody waits for any more.
    - A connection on which something unasked came in is not used again: that would be taken for the next answer.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(loop)
        self._exchanges = 0
        self._heard = False
        self.tap: Callable[[bytes], None] | None = None  # of the answer that is being read, see `workers.tap`
        self.gathered: list[bytes] = []  # of its body, not taken yet

    def set_response_params(self, **parameters: Any) -> None:
        """Called by aiohttp once a request, when it takes the connection."""
        self._exchanges += 1
        self._heard = False
        self.tap = None
        self.gathered = []
        super().set_response_params(**parameters)

    def data_received(self, data: bytes) -> None:
        self._heard = True
        super().data_received(data)
        tap = self.tap
        if tap is not None and self.gathered:
            pieces, self.gathered = self.gathered, []
            tap(pieces[0] if len(pieces) == 1 else b"".join(pieces))

    def pause(self) -> None:
        """Reads no more for now. What has been read goes through the parser all the same: paused as well, it would stop
        after each piece of a body."""
        if self.transport is not None:
            self.transport.pause_reading()

    def resume(self) -> None:
        if self.transport is not None:
            self.transport.resume_reading()

    def is_connected(self) -> bool:
        return super().is_connected() and not self.should_close

    def set_exception(self, exc: BaseException, *cause: BaseException) -> None:
        if self._exchanges > 1 and not self._heard and isinstance(exc, aiohttp.ClientConnectionError):
            exc = StaleConnectionError(str(exc))
        elif not isinstance(exc, aiohttp.ClientConnectionError):
            self._tell_reader(BrokenFramingError("the answer's body is malformed"))
        super().set_exception(exc, *cause)

    def close(self) -> None:
        self._tell_reader(aiohttp.ClientConnectionError("connection closed"))
        self.abort()

    def _tell_reader(self, error: Exception) -> None:
        payload = self._payload
        if payload is not None and not payload.is_eof() and payload.exception() is None:
            payload.set_exception(error)


class _Connector(aiohttp.BaseConnector):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        # Not public, and nor is what follows; each of these things has a test that fails should this stop working.
        self._factory = functools.partial(Wire, loop=self._loop)  # type: ignore[assignment] # partial is invariant

    def drop_idle(self) -> None:
        """Closes the connections that are kept and not in use."""
        for kept in self._conns.values():
            for wire, _ in kept:
                wire.close()
        self._conns.clear()


class _TcpConnector(_Connector, aiohttp.TCPConnector):
    pass


class _UnixConnector(_Connector, aiohttp.UnixConnector):
    pass


class HttpClient:
    """Calls to one backend. Connections are made when needed, on the loop of the first call, and kept while idle.

    Times are in seconds. There is no limit on a call as a whole, nor on the wait for one of `max_connections`: those
    are the caller's. Proxies named in the environment are not used, cookies not kept, redirects not followed. Where
    there is a `unix_socket`, which gives its path when it is first needed, all connections go there.
    """

    _connector: _Connector

    def __init__(
        self,
        *,
        connect_timeout: float,
        max_connections: int,
        keep_idle: float,
        ca_file: str | None = None,
        unix_socket: Callable[[], str] | None = None,
    ) -> None:
        self._ca_file = ca_file
        self._unix_socket = unix_socket
        self._connect_timeout = connect_timeout
        self._max_connections = max_connections
        self._keep_idle = keep_idle
        self._session: aiohttp.ClientSession | None = None
        self._closed = False

    @contextlib.asynccontextmanager
    async def call(
        self, method: str, url: str, *, headers: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose head has arrived. Raises `WorkerError`, also for what breaks inside of the block.

        On leaving the block the connection goes back to the pool if the answer was read to its end, else it is closed
        at once: that is how a call is aborted.
        """
        with failures():
            response = await self._answer(method, url, headers, body)
            try:
                yield response
            finally:
                response.close()

    async def aclose(self) -> None:
        """Closes all connections; calls in progress raise."""
        self._closed = True
        if self._session is not None:
            await self._session.close()

    async def _answer(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        """A server that has closed one idle connection has often closed them all: the second try is on a new one."""
        try:
            return await self._request(method, url, headers, body)
        except StaleConnectionError:
            self._connector.drop_idle()
            return await self._request(method, url, headers, body)

    async def _request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> aiohttp.ClientResponse:
        data = io.BytesIO(body) if body is not None and len(body) > _LARGE else body
        try:
            return await self._open().request(method, url, data=data, headers=headers, allow_redirects=False)
        except aiohttp.ClientError:
            raise
        except ValueError as error:
            raise WorkerError(WorkerErrorKind.UNREACHABLE, _UNSENDABLE) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._closed:
            raise WorkerError(WorkerErrorKind.UNREACHABLE, "the worker is closed")
        if self._session is None:
            self._connector = self._connect()
            self._session = aiohttp.ClientSession(
                connector=self._connector,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._connect_timeout),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_AHEAD,
            )
        return self._session

    def _connect(self) -> _Connector:
        options = {"limit": self._max_connections, "keepalive_timeout": self._keep_idle}
        if self._unix_socket is not None:
            return _UnixConnector(path=self._unix_socket(), **options)
        return _TcpConnector(ssl=_trust(self._ca_file), **options)


def _trust(ca_file: str | None) -> ssl.SSLContext | bool:
    """Raises `WorkerError`."""
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise WorkerError(WorkerErrorKind.UNREACHABLE, "cannot call the backend: its ca_file cannot be used") from error


async def settle(content: aiohttp.StreamReader) -> None:
    """Waits shortly for the end of an answer that is complete in its own terms: its connection can then serve again."""
    if not content.is_eof():
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):
            async with asyncio.timeout(_SETTLE):
                await content.wait_eof()


@contextlib.contextmanager
def failures() -> Iterator[None]:
    """Turns what aiohttp and the sockets below raise into `WorkerError`."""
    try:
        yield
    except (aiohttp.ClientError, OSError) as error:
        raise _worker_error(error) from error


def _worker_error(error: Exception) -> WorkerError:
    kind, message, retryable = _explain(error)
    return WorkerError(kind, message, retryable=retryable)


def _explain(error: Exception) -> tuple[WorkerErrorKind, str, bool]:
    match error:
        case aiohttp.ClientConnectorError():
            return WorkerErrorKind.UNREACHABLE, f"cannot connect to the backend: {_reason(error)}", True
        case aiohttp.ConnectionTimeoutError():
            return WorkerErrorKind.UNREACHABLE, "cannot connect to the backend: timed out", True
        case aiohttp.InvalidURL():
            return WorkerErrorKind.UNREACHABLE, _UNSENDABLE, False
        case aiohttp.ClientResponseError() | BrokenFramingError():
            return WorkerErrorKind.PROTOCOL, "the backend's answer is not valid HTTP", False
        case aiohttp.ClientPayloadError() if isinstance(error.__cause__, ContentEncodingError):
            return WorkerErrorKind.PROTOCOL, "the backend's answer cannot be decompressed", False
        case _:
            return WorkerErrorKind.RESET, "the connection to the backend broke", True


def _reason(error: aiohttp.ClientConnectorError) -> str:
    """Why, without the backend's address: that is the operator's business, and this reaches clients."""
    number = error.os_error.errno
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name does not resolve"
    if isinstance(error, aiohttp.ClientSSLError):
        return "no valid TLS"
    return os.strerror(number) if number else "none of its addresses answers"
