"""Requests of steps to other hosts."""

import asyncio
import re
import ssl
from collections.abc import Mapping

import aiohttp
from yarl import URL

from pipeline.adapters.outside.hosts import AllowedHosts
from pipeline.workflow.errors import StepFailed

_REDIRECTS = 5
_MOVED = frozenset({301, 302, 303, 307, 308})
_AT_ONCE = 100  # connections
_PIECE = 1 << 16
_AGENT = "headgate"
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}").fullmatch  # RFC 9110, 5.6.2
_VALUE = re.compile(r"[\t\x20-\x7e\x80-\U0010ffff]{0,8192}").fullmatch
# What frames a message or belongs to the connection, and so to whoever sends it.
_OURS = frozenset(
    {
        "accept-encoding",
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
_KEPT = frozenset({"accept", "content-type", "idempotency-key"})  # of the headers, when another host is to get them

Answer = tuple[int, dict[str, str], bytes]


class Requests:
    """Calls allowed hosts. `limit` is of an answer's body, in bytes, `seconds` of a whole call with its redirects.

    Each call has a connection of its own: on a kept one a POST may meet a server that has just closed it, and nobody
    could tell whether it was done.
    """

    def __init__(self, hosts: AllowedHosts, limit: int, seconds: float) -> None:
        self._hosts = hosts
        self._limit = limit
        self._seconds = seconds
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float | None
    ) -> Answer:
        """See `pipeline.workflow.ports.Outside`."""
        target = self._hosts.checked(url)
        if method not in _METHODS:
            raise StepFailed("invalid_input", f"method: expected one of {', '.join(sorted(_METHODS))}")
        sent = checked_headers(headers)
        allowed = self._seconds if seconds is None else min(seconds, self._seconds)
        try:
            async with asyncio.timeout(max(allowed, 0.0)):
                return await self._follow(method, target, sent, body)
        except TimeoutError as error:
            message = f"{_named(target)} did not answer within {allowed:.3g} s"
            raise StepFailed("timeout", message, retryable=True) from error
        except aiohttp.ClientError as error:
            raise _unreachable(target, error) from error
        except (ValueError, OSError) as error:  # what a name server or the parser of answers may raise beside
            raise _unreachable(target, error) from error

    async def aclose(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _follow(self, method: str, url: URL, headers: dict[str, str], body: bytes | None) -> Answer:
        """Redirects too, as far as they lead to allowed hosts."""
        for _ in range(_REDIRECTS + 1):
            status, found, content = await self._once(method, url, headers, body)
            location = found.get("location")
            if status not in _MOVED or location is None:
                return status, found, content
            method, url, headers, body = self._moved(status, location, method, url, headers, body)
        raise StepFailed("too_many_redirects", f"{_named(url)}: more than {_REDIRECTS} redirects")

    def _moved(  # noqa: PLR0917 - the request that there is
        self, status: int, location: str, method: str, url: URL, headers: dict[str, str], body: bytes | None
    ) -> tuple[str, URL, dict[str, str], bytes | None]:
        """The request that a redirect asks for (RFC 9110, 15.4). Another host gets none of the step's own headers."""
        try:
            target = url.join(URL(location))
        except ValueError as error:
            raise StepFailed("bad_answer", f"{_named(url)} redirects to what is no address") from error
        if url.scheme == "https" and target.scheme == "http":
            raise StepFailed("not_allowed", f"{_named(url)} redirects from https to http")
        target = self._hosts.checked(target)
        if target.origin() != url.origin():
            headers = {name: value for name, value in headers.items() if name.lower() in _KEPT}
        if status == 303 or (status in {301, 302} and method == "POST"):
            headers = {name: value for name, value in headers.items() if name.lower() != "content-type"}
            return "HEAD" if method == "HEAD" else "GET", target, headers, None
        return method, target, headers, body

    async def _once(self, method: str, url: URL, headers: dict[str, str], body: bytes | None) -> Answer:
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=_AT_ONCE, force_close=True),
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                # Not compressed: a small answer must not become a large one here.
                headers={"User-Agent": _AGENT, "Accept-Encoding": "identity"},
                auto_decompress=False,
            )
        request = self._session.request(method, url, headers=headers, data=body, allow_redirects=False)
        async with request as response:
            if response.headers.get("Content-Encoding", "identity").lower() != "identity" and method != "HEAD":
                raise StepFailed("bad_answer", f"{_named(url)} answers compressed, although it was told not to")
            content = bytearray()
            async for piece in response.content.iter_chunked(_PIECE):
                content += piece
                if len(content) > self._limit:
                    message = f"{_named(url)} answers with more than the {self._limit} bytes of max_value_bytes"
                    raise StepFailed("too_large", message)
            found: dict[str, str] = {}
            for name, value in response.headers.items():
                key = name.lower()
                found[key] = f"{found[key]}, {value}" if key in found else value
            return response.status, found, bytes(content)


def checked_headers(headers: Mapping[str, str]) -> dict[str, str]:
    """Raises `StepFailed` for what would be another header, or another request."""
    for name, value in headers.items():
        field = f"headers.{name[:60]!r}"
        if _TOKEN(name) is None:
            raise StepFailed("invalid_input", f"{field}: not a header's name", details={"field": field})
        if name.lower() in _OURS:
            raise StepFailed("invalid_input", f"{field}: this header is not a step's to set", details={"field": field})
        if _VALUE(value) is None:
            message = f"{field}: a header's value is at most 8192 characters and has no line breaks"
            raise StepFailed("invalid_input", message, details={"field": field})
    return dict(headers)


def _named(url: URL) -> str:
    """Without its query: keys stand there."""
    return str(url.with_query(None))[:300]


def _unreachable(url: URL, error: Exception) -> StepFailed:
    certificate = isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.CertificateError)
    reason = str(getattr(error, "os_error", None) or error) or type(error).__name__
    message = f"{_named(url)} cannot be called: {reason}"[:600]
    return StepFailed("unreachable", message, retryable=not certificate)
