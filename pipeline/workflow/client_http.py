"""The client's calls and streams: what is asked again, when, and what is told when it stays wrong."""

import asyncio
import random
import ssl
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from http import HTTPStatus
from typing import NamedTuple
from urllib.parse import urlsplit

import aiohttp
import msgspec
from yarl import URL

from pipeline.workflow.errors import Fault
from pipeline.workflow.event_stream import Frame, FrameDecoder, TooLong
from pipeline.workflow.views import ErrorDetail, WorkflowError

PATIENCE_S = 30.0
SILENCE_S = 45.0  # in an open stream: the server says something every ten seconds
_FIRST_DELAY_S = 0.2
_MAX_DELAY_S = 5.0
_CONNECT_S = 5.0
_FOR_NOW = frozenset({0, HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE})
_PERHAPS_DONE = frozenset({"no_answer", "shard_lost", "journal_unavailable"})

Query = Sequence[tuple[str, str]]


class WorkflowApiError(Exception):
    """The daemon said no, or nothing. `status` is its answer's (0: there was none), `code` a word for programs,
    `faults` all that is wrong with a definition or inputs, `retry_after` (seconds) when to come back."""

    def __init__(
        self,
        message: str,
        *,
        status: int = 0,
        code: str = "unreachable",
        faults: Sequence[Fault] = (),
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.status = status
        self.code = code
        self.faults = tuple(faults)
        self.retry_after = retry_after


class Answer(NamedTuple):
    status: int
    body: bytes


class Http:
    """One daemon. open → aclose."""

    def __init__(
        self, url: str, api_key: str | None, seconds: float, patience: float, tls: ssl.SSLContext | None
    ) -> None:
        self._url = _checked(url)
        self._headers = {} if api_key is None else {"Authorization": f"Bearer {api_key}"}
        self._seconds = seconds
        self._patience = patience
        self._tls = tls
        self._session: aiohttp.ClientSession | None = None

    def open(self) -> None:
        connector = aiohttp.TCPConnector(limit=0) if self._tls is None else aiohttp.TCPConnector(limit=0, ssl=self._tls)
        self._session = aiohttp.ClientSession(connector=connector, headers=self._headers)

    async def aclose(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        media: str = "application/json",
        *,
        query: Query = (),
        headers: Mapping[str, str] | None = None,
        again: bool = False,
    ) -> Answer:
        """`again`: doing it twice does no harm, so that it is repeated where nobody knows whether it was done. Raises
        `WorkflowApiError`."""
        sent = dict(headers or {})
        if body is not None:
            sent["Content-Type"] = media
        backing = Backing(self._patience)
        while True:
            try:
                return await self._once(method, path, query, body, sent)
            except WorkflowApiError as error:
                harmless = again or method == "GET" or error.code not in _PERHAPS_DONE
                for_now = error.status in {0, HTTPStatus.SERVICE_UNAVAILABLE}
                if not (for_now and harmless) or not await backing.wait(error.retry_after):
                    raise

    async def frames(self, path: str, after: int) -> AsyncGenerator[Frame | None, None]:
        """Events after number `after`; None whenever a stream has ended. Connects again until the server says that
        there is no more to come; gives up after `patience` seconds in which there was no stream."""
        backing = Backing(self._patience)
        while True:
            decoder = FrameDecoder()
            try:
                async with aclosing(self._stream(path, after, decoder)) as frames:
                    async for frame in frames:
                        after = int(frame.id) if frame.id.isdigit() else after
                        yield frame
            except _NothingMore:
                return
            except WorkflowApiError as error:
                if error.status not in _FOR_NOW or not await backing.wait(error.retry_after):
                    raise
                continue
            yield None
            backing = Backing(self._patience)
            await backing.wait(None if decoder.retry_ms is None else decoder.retry_ms / 1000)

    async def _once(
        self, method: str, path: str, query: Query, body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        limit = aiohttp.ClientTimeout(total=self._seconds, sock_connect=_CONNECT_S)
        url = self._at(path, query)
        try:
            async with self._open.request(method, url, data=body, headers=headers, timeout=limit) as response:
                answer = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error
        if response.status >= HTTPStatus.BAD_REQUEST:
            raise _refusal(response, answer)
        return Answer(response.status, answer)

    async def _stream(self, path: str, after: int, decoder: FrameDecoder) -> AsyncGenerator[Frame, None]:
        """One stream up to its end, however it comes: what is missing is asked for afterwards."""
        limit = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S, sock_read=SILENCE_S)
        headers = {"Accept": "text/event-stream", "Last-Event-ID": str(after)}
        try:
            async with self._open.get(self._at(path, ()), headers=headers, timeout=limit) as response:
                if response.status == HTTPStatus.NO_CONTENT:
                    raise _NothingMore
                if response.status != HTTPStatus.OK:
                    raise _refusal(response, await response.read())
                async for data in response.content.iter_any():
                    for frame in decoder.feed(data):
                        yield frame
        except TooLong as error:
            raise WorkflowApiError(str(error), status=502, code="bad_answer") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise self._unreachable(error) from error

    @property
    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise RuntimeError("the context must be open")
        return self._session

    def _at(self, path: str, query: Query) -> URL:
        url = URL(self._url + path, encoded=True)
        return url.with_query(list(query)) if query else url

    def _unreachable(self, error: Exception) -> WorkflowApiError:
        """`unreachable` means that the call was never made."""
        reason = str(error) or "it took too long"
        code = "unreachable" if isinstance(error, aiohttp.ClientConnectorError) else "no_answer"
        return WorkflowApiError(f"no answer from the daemon at {self._url}: {reason}", code=code)


class _NothingMore(Exception):
    """The run has ended, and all of its events have been seen."""


class Backing:
    """Waits longer each time, for `patience` seconds altogether."""

    def __init__(self, patience: float) -> None:
        self._until = asyncio.get_running_loop().time() + patience
        self._delay = _FIRST_DELAY_S

    async def wait(self, least: float | None) -> bool:
        """At least so long; False, without waiting, when patience would be over by then."""
        delay = max(least or 0.0, self._delay) * random.uniform(1.0, 1.25)  # noqa: S311 - nobody need not guess it
        if asyncio.get_running_loop().time() + delay > self._until:
            return False
        self._delay = min(self._delay * 2, _MAX_DELAY_S)
        await asyncio.sleep(delay)
        return True


def _refusal(response: aiohttp.ClientResponse, answer: bytes) -> WorkflowApiError:
    try:
        detail = msgspec.json.decode(answer, type=WorkflowError).error
    except msgspec.MsgspecError:
        detail = ErrorDetail(f"{response.url.origin()} answered {response.status}", "server_error", "bad_answer")
    told = response.headers.get("Retry-After", "")
    return WorkflowApiError(
        detail.message,
        status=response.status,
        code=detail.code,
        faults=detail.errors or (),
        retry_after=float(told) if told.isdigit() else None,
    )


def _checked(url: str) -> str:
    """Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname or "@" in parts.netloc:
        raise ValueError(f"{url!r} is no address of a daemon: expected http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1")
