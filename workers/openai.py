"""The worker for any server that speaks OpenAI's chat completions."""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable

import aiohttp

from config.schema import OpenAIWorker
from workers.base import DeltaBatch, GenerationRequest, Health
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai_dialect import StreamDecoder, decode_completion, encode_request
from workers.refusals import status_error
from workers.transport import HttpClient, settle

_MAX_BODY = 64 << 20  # bytes of an answer that is not streamed
_MAX_ERROR = 64 << 10  # bytes of an error's body
_ERROR_TIME = 1.0  # seconds for an error's body to arrive
_HEALTH_TIME = 2.0
_NO_LIST = frozenset({404, 405})  # a backend that can be called, but does not list its models
_SHORTEST_SECRET = 8  # characters; shorter header values are common words


class OpenAICompatible:
    """Passes requests on to `{base_url}/chat/completions` and answers back, each field as it is.

    `api_key` is the key itself, not a reference to it. `now` is the time of day, for dates in `Retry-After`.
    """

    def __init__(
        self, section: OpenAIWorker, *, api_key: str | None = None, now: Callable[[], float] = time.time
    ) -> None:
        self._section = section
        self._now = now
        base = section.base_url.rstrip("/")
        self._completions = f"{base}/chat/completions"
        self._models = f"{base}/models"
        self._headers = _headers(section, api_key)
        values = [*section.headers.values(), api_key or ""]
        self._secrets = tuple(value for value in values if len(value) >= _SHORTEST_SECRET)
        self._client = HttpClient(
            connect_timeout=section.connect_timeout_ms / 1000,
            max_connections=section.max_connections,
            keep_idle=section.idle_connection_ms / 1000,
        )

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        body = encode_request(request, model=self._section.model, ask_usage=self._section.stream_usage)
        headers = {**self._headers, "x-request-id": request.request_id}
        async with self._client.call("POST", self._completions, headers=headers, body=body) as response:
            if not 200 <= response.status < 300:
                raise await self._refusal(response)
            if not request.stream:
                yield decode_completion(await _whole(response.content), secrets=self._secrets)
                return
            _check_type(response)
            decoder = StreamDecoder(choices=request.parameters.n, secrets=self._secrets)
            read, feed = response.content.readany, decoder.feed
            while not decoder.done:
                data = await read()
                batch = feed(data) if data else decoder.end_of_stream()
                if batch is not None:
                    yield batch
                if decoder.error is not None:
                    raise decoder.error
            await settle(response.content)

    async def health(self) -> Health:
        """Whether the backend lists its models, or at least answers like a server that could."""
        try:
            async with asyncio.timeout(_HEALTH_TIME):
                async with self._client.call("GET", self._models, headers=self._headers) as response:
                    await settle(response.content)
                    ok = 200 <= response.status < 300 or response.status in _NO_LIST
                    return Health(ok, "" if ok else f"GET /models answered {response.status}")
        except TimeoutError:
            return Health(ok=False, detail=f"no answer within {_HEALTH_TIME:g} s")
        except WorkerError as error:
            return Health(ok=False, detail=error.message)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def _refusal(self, response: aiohttp.ClientResponse) -> WorkerError:
        body = bytearray()
        with contextlib.suppress(TimeoutError, aiohttp.ClientError):  # what has come is told then
            async with asyncio.timeout(_ERROR_TIME):
                while len(body) < _MAX_ERROR and (data := await response.content.readany()):
                    body += data
        kept = bytes(body[:_MAX_ERROR])
        return status_error(response.status, response.headers, kept, now=self._now(), secrets=self._secrets)


def _headers(section: OpenAIWorker, api_key: str | None) -> dict[str, str]:
    """In lower case, so that a header of the section takes the place of ours."""
    headers = {
        "content-type": "application/json",
        "accept": "text/event-stream, application/json",
        "accept-encoding": "identity",
        "user-agent": "headgate",
    }
    if api_key is not None:
        headers["authorization"] = f"Bearer {api_key}"
    return {**headers, **{name.lower(): value for name, value in section.headers.items()}}


def _check_type(response: aiohttp.ClientResponse) -> None:
    """An answer without a content type is given the benefit of the doubt."""
    given = response.headers.get("content-type")
    if given is not None and response.content_type != "text/event-stream":
        raise WorkerError(
            WorkerErrorKind.PROTOCOL, f"the backend answered {response.content_type}, not an event stream"
        )


async def _whole(content: aiohttp.StreamReader) -> bytes:
    parts: list[bytes] = []
    size = 0
    while data := await content.readany():
        parts.append(data)
        size += len(data)
        if size > _MAX_BODY:
            raise WorkerError(WorkerErrorKind.PROTOCOL, f"the backend's answer is larger than {_MAX_BODY} bytes")
    return b"".join(parts)
