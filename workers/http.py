"""What the workers have in common that call their backend over HTTP: one replica, and how a call to it goes.

A dialect adds what differs: the request's path and body, and how its answer is read. That part does no I/O.
"""

import asyncio
import contextlib
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from functools import partial
from typing import Protocol

import aiohttp
import msgspec
from aiohttp.streams import EmptyStreamReader

from config.schema import HttpWorker
from config.secrets import is_reference
from workers.base import DeltaBatch, GenerationRequest, Health, Spout
from workers.errors import WorkerError, WorkerErrorKind
from workers.refusals import status_error
from workers.tap import Tap, drawn
from workers.transport import HttpClient, settle

_MAX_BODY = 64 << 20  # bytes of an answer that is not streamed
_MAX_ERROR = 64 << 10  # bytes of an error's body
_ERROR_TIME = 1.0  # seconds for an error's body to arrive
_HEALTH_TIME = 2.0
_SHORTEST_SECRET = 8  # characters; shorter header values are common words


class Decoder(Protocol):
    """One streamed answer: what came off the wire → batches.

    After each `feed`: `done` says that the backend ended the answer, `error` that it cannot go on; deltas that came
    before the error are in the batch.
    """

    done: bool
    error: WorkerError | None

    def feed(self, data: bytes) -> DeltaBatch | None:
        """What `data` completes; None when that is nothing. Does not raise."""
        ...

    def end_of_stream(self) -> DeltaBatch | None:
        """The stream ended without the dialect's own end: sets `done` where that is good enough, else `error`."""
        ...


class Exchange(msgspec.Struct, frozen=True, eq=False):
    """One call in a dialect. `path` follows the replica's address. `decoder` reads the answer where it is streamed,
    `whole` where it is one body; that raises `WorkerError`."""

    path: str
    body: bytes
    decoder: Decoder
    whole: Callable[[bytes], DeltaBatch]
    headers: Mapping[str, str] = {}
    content_type: str = "text/event-stream"  # of a stream


class HttpBackend(ABC):
    """A replica at `url`. `resolve` turns a secret's reference into the secret; `now` is the time of day, for dates in
    `Retry-After`."""

    section: HttpWorker

    def __init__(
        self,
        section: HttpWorker,
        url: str,
        *,
        resolve: Callable[[str], str],
        now: Callable[[], float] = time.time,
    ) -> None:
        self.section = section
        self._url = url
        self._now = now
        self._api_key = None if section.api_key is None else resolve(section.api_key)
        given = {
            name.lower(): resolve(value) if is_reference(value) else value for name, value in section.headers.items()
        }
        # In lower case, so that a header of the section takes the place of ours.
        self._headers = {**_HEADERS, **self.credentials(self._api_key), **given}
        values = [*given.values(), self._api_key or ""]
        self.secrets = tuple(value for value in values if len(value) >= _SHORTEST_SECRET)
        self._client = HttpClient(
            connect_timeout=section.connect_timeout_ms / 1000,
            max_connections=section.max_connections,
            keep_idle=section.idle_connection_ms / 1000,
            ca_file=section.ca_file,
        )

    @abstractmethod
    def exchange(self, request: GenerationRequest) -> Exchange:
        """How `request` is put to the backend. Raises `WorkerError` for what its dialect cannot say."""

    def credentials(self, api_key: str | None) -> Mapping[str, str]:
        """Header fields, in lower case."""
        return {} if api_key is None else {"authorization": f"Bearer {api_key}"}

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> WorkerError:
        """The error for an answer whose status is not 2xx; `body` may be cut."""
        return status_error(status, headers, body, now=self._now(), secrets=self.secrets)

    async def health(self) -> Health:
        """Whether the backend answers like a server that could be called."""
        try:
            async with asyncio.timeout(_HEALTH_TIME):
                return await self.look()
        except TimeoutError:
            return Health(ok=False, detail=f"no answer within {_HEALTH_TIME:g} s")
        except WorkerError as error:
            return Health(ok=False, detail=error.message)

    @abstractmethod
    async def look(self) -> Health:
        """One look at the backend, for `health`, which bounds its time. May raise `WorkerError`."""

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        async with aclosing(drawn(partial(self.pour, request))) as batches:
            async for batch in batches:
                yield batch

    async def pour(self, request: GenerationRequest, spout: Spout) -> None:
        """See `PouringWorker`."""
        exchange = self.exchange(request)
        headers = {**self._headers, **exchange.headers, "x-request-id": request.request_id}
        url = self._url + exchange.path
        async with self._client.call("POST", url, headers=headers, body=exchange.body) as response:
            if not 200 <= response.status < 300:
                raise await self._refused(response)
            if not request.stream:
                spout.put(exchange.whole(await whole(response.content)))
                return
            _check_type(response, exchange.content_type)
            await _poured(response.content, exchange.decoder, spout)

    async def ask(self, method: str, path: str, body: bytes | None = None, *, request_id: str | None = None) -> bytes:
        """The body of a 2xx answer. Raises `WorkerError`."""
        async with self.asking(method, path, body, request_id=request_id) as response:
            if not 200 <= response.status < 300:
                raise await self._refused(response)
            return await whole(response.content)

    @contextlib.asynccontextmanager
    async def asking(
        self, method: str, path: str, body: bytes | None = None, *, request_id: str | None = None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose head has arrived, whatever its status. Raises `WorkerError`."""
        headers = self._headers if request_id is None else {**self._headers, "x-request-id": request_id}
        async with self._client.call(method, self._url + path, headers=headers, body=body) as response:
            yield response

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _refused(self, response: aiohttp.ClientResponse) -> WorkerError:
        body = bytearray()
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):  # what has come is told then
            async with asyncio.timeout(_ERROR_TIME):
                while len(body) < _MAX_ERROR and (data := await response.content.readany()):
                    body += data
        return self.refusal(response.status, response.headers, bytes(body[:_MAX_ERROR]))


async def _poured(content: aiohttp.StreamReader, decoder: Decoder, spout: Spout) -> None:
    """A streamed answer to its end. Raises `WorkerError`."""
    feed, put = decoder.feed, spout.put

    def take(data: bytes) -> bool:
        batch = feed(data)
        more = batch is None or put(batch)
        if decoder.done or decoder.error is not None:
            tap.over = True
            return False
        return more

    if isinstance(content, EmptyStreamReader):  # of 204, say
        decoder.end_of_stream()
        raise decoder.error or WorkerError(WorkerErrorKind.CUT, "the backend's stream is empty", retryable=True)
    tap = Tap(content, take)
    while not decoder.done:
        if not await tap.run():
            batch = decoder.end_of_stream()
            if batch is not None:
                put(batch)
        if decoder.error is not None:
            raise decoder.error
        if not decoder.done and not await spout.room():
            return
    await settle(content)


async def whole(content: aiohttp.StreamReader) -> bytes:
    """A body to its end. Raises `WorkerError` where that is too long."""
    parts: list[bytes] = []
    size = 0
    while data := await content.readany():
        parts.append(data)
        size += len(data)
        if size > _MAX_BODY:
            raise WorkerError(WorkerErrorKind.PROTOCOL, f"the backend's answer is larger than {_MAX_BODY} bytes")
    return b"".join(parts)


_HEADERS = {
    "content-type": "application/json",
    "accept": "text/event-stream, application/json",
    "accept-encoding": "identity",
    "user-agent": "headgate",
}


def _check_type(response: aiohttp.ClientResponse, expected: str) -> None:
    """An answer without a content type is given the benefit of the doubt."""
    given = response.headers.get("content-type")
    if given is not None and response.content_type != expected:
        what = "not an event stream" if expected == "text/event-stream" else f"not {expected}"
        raise WorkerError(WorkerErrorKind.PROTOCOL, f"the backend answered {response.content_type}, {what}")
