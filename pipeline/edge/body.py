"""Reading a request's body within its limits of size and time."""

import asyncio

from aiohttp import StreamReader, hdrs, web
from aiohttp.web_protocol import RequestPayloadError

from config.schema import ServerSection
from pipeline.core.errors import HeadgateError, SlowClient, TooLarge
from pipeline.edge.errors import MalformedHttp, UnknownExpectation, UnsupportedMedia

_FORMS = ("application/x-www-form-urlencoded", "multipart/form-data")


class BodyReader:
    """Reads bodies; one for all connections of an edge."""

    def __init__(self, server: ServerSection) -> None:
        self.configure(server)
        self._arriving: set[asyncio.Timeout] = set()
        self._interruption: HeadgateError | None = None

    def configure(self, server: ServerSection) -> None:
        """For bodies that are not being read yet; of those that are, the size is what it is by then."""
        self._limit = server.max_body_bytes
        self._seconds = server.body_timeout_ms / 1000

    async def read(self, request: web.BaseRequest, wanted: str = "application/json") -> bytes:
        """The whole body. What the head already rules out is refused before the client is told to go on sending, and
        what is `wanted` instead.

        Raises `UnsupportedMedia`, `TooLarge`, `SlowClient`, `MalformedHttp`, `UnknownExpectation`, or what `interrupt`
        was given.
        """
        _check_media(request, wanted)
        content = request.content
        if content.is_eof():
            body = content.read_nowait()
            if len(body) > self._limit:
                raise self._too_large()
            return body
        if (request.content_length or 0) > self._limit:
            raise self._too_large()
        await _expect(request)
        limit = asyncio.timeout(self._seconds)
        self._arriving.add(limit)
        try:
            async with limit:
                return await self._collect(content)
        except TimeoutError:
            slow = SlowClient(f"The request's body did not arrive within {self._seconds:g} s")
            raise self._interruption or slow from None
        except RequestPayloadError as error:
            raise MalformedHttp(f"The request's body broke off: {error}") from error
        finally:
            self._arriving.discard(limit)

    def interrupt(self, error: HeadgateError) -> None:
        """Ends every reading that is going on with `error`: the server stops."""
        self._interruption = error
        for limit in self._arriving:
            if not limit.expired():
                limit.reschedule(0.0)

    async def _collect(self, content: StreamReader) -> bytes:
        blocks: list[bytes] = []
        size = 0
        while block := await content.readany():
            size += len(block)
            if size > self._limit:
                raise self._too_large()
            blocks.append(block)
        return b"".join(blocks)

    def _too_large(self) -> TooLarge:
        return TooLarge(f"The request's body is larger than the {self._limit} bytes that this server takes")


def _check_media(request: web.BaseRequest, wanted: str) -> None:
    """Compressed bodies are refused, not unpacked: a small one could become any size. Whatever else calls itself is
    read as JSON, as OpenAI does, but for forms, which are a mistake that is hard to see."""
    encoding = request.headers.get(hdrs.CONTENT_ENCODING, "identity")
    if encoding.lower() != "identity":
        raise UnsupportedMedia(f"The request's body is encoded as {encoding[:40]!r}; send it as it is")
    media = request.headers.get(hdrs.CONTENT_TYPE, "").partition(";")[0].strip().lower()
    if media in _FORMS:
        raise UnsupportedMedia(f"The request's body is a form ({media}); send Content-Type: {wanted}")


async def _expect(request: web.BaseRequest) -> None:
    expectation = request.headers.get(hdrs.EXPECT)
    if expectation is None:
        return
    if expectation.lower() != "100-continue":
        raise UnknownExpectation(f"Unknown expectation: {expectation[:40]!r}")
    await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    request.writer.output_size = 0  # what follows is the first answer: errors may still become one
