"""Requests to real servers on loopback."""

import asyncio
import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web

from pipeline.adapters.outside.hosts import AllowedHosts
from pipeline.adapters.outside.http import Requests
from pipeline.workflow.errors import StepFailed
from tests.adapters.outside.servers import listening


@asynccontextmanager
async def requests(*hosts: str, limit: int = 10_000, seconds: float = 10.0) -> AsyncIterator[Requests]:
    found = Requests(AllowedHosts(hosts or ["127.0.0.1"]), limit, seconds)
    try:
        yield found
    finally:
        await found.aclose()


async def hello(request: web.Request) -> web.Response:
    return web.Response(text=f"{request.method} {request.path}", headers={"X-Two": "a"})


def redirecting(*locations: str, status: int = 302) -> Any:
    """From /0 to the first, from /1 to the second, …"""

    async def handler(request: web.Request) -> web.Response:
        at = request.path.strip("/")
        if at.isdecimal() and int(at) < len(locations):
            return web.Response(status=status, headers={"Location": locations[int(at)]})
        return await hello(request)

    return handler


async def failing(port: Requests, url: str, **fields: Any) -> StepFailed:
    given = {"method": "GET", "headers": {}, "body": None, "seconds": None, **fields}
    with pytest.raises(StepFailed) as caught:
        await port.send(given["method"], url, given["headers"], given["body"], given["seconds"])
    return caught.value


async def test_an_answer():
    async with requests() as port, listening(hello) as (url, seen):
        status, headers, body = await port.send("GET", f"{url}/a?b=%20c#d", {"X-One": "1"}, None, 5.0)
    assert (status, body, headers["x-two"]) == (200, b"GET /a", "a")
    assert seen[0].raw_path == "/a?b=%20c"
    assert seen[0].headers["User-Agent"] == "headgate"
    assert seen[0].headers["X-One"] == "1"


@pytest.mark.parametrize("method", ["HEAD", "POST", "PUT", "PATCH", "DELETE"])
async def test_methods(method: str):
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=await request.read(), headers={"X-Method": request.method})

    async with requests() as port, listening(handler) as (url, _):
        _, headers, body = await port.send(method, url, {}, b"some", None)
        assert headers["x-method"] == method
        assert body == (b"" if method == "HEAD" else b"some")
        assert (await failing(port, url, method="CONNECT")).kind == "invalid_input"


async def test_hosts_that_are_not_allowed_hear_nothing():
    async with requests("other.example", "127.0.0.1:1") as port, listening(hello) as (url, seen):
        error = await failing(port, url)
    assert (error.kind, error.retryable) == ("not_allowed", False)
    assert not seen


async def test_redirects_within_what_is_allowed():
    async with requests() as port, listening(redirecting("/1", "/end")) as (url, seen):
        status, _, body = await port.send("POST", f"{url}/0", {"Content-Type": "text/plain"}, b"x", None)
    assert (status, body) == (200, b"GET /end")
    assert "Content-Type" not in seen[2].headers


async def test_a_redirect_that_keeps_the_method():
    async with requests() as port, listening(redirecting("/end", status=307)) as (url, seen):
        assert (await port.send("POST", f"{url}/0", {}, b"x", None))[2] == b"POST /end"
    assert seen[1].content_length == 1


async def test_a_redirect_to_elsewhere_is_not_followed():
    async with (
        listening(hello) as (other, seen),
        listening(redirecting(f"{other}/x")) as (url, _),
        requests(url.removeprefix("http://")) as port,
    ):
        error = await failing(port, f"{url}/0")
    assert error.kind == "not_allowed"
    assert not seen


@pytest.mark.parametrize("location", ["file:///etc/passwd", "gopher://127.0.0.1/", "http://u:p@127.0.0.1/", "//["])
async def test_redirects_to_what_may_not_be_called(location: str):
    async with requests() as port, listening(redirecting(location)) as (url, _):
        assert (await failing(port, f"{url}/0")).kind in {"invalid_input", "bad_answer", "not_allowed"}


async def test_another_host_gets_no_secrets():
    async with (
        listening(hello) as (other, seen),
        listening(redirecting(f"{other}/x", status=308)) as (url, first),
        requests() as port,
    ):
        secrets = {"Authorization": "Bearer x", "X-Api-Key": "y", "Idempotency-Key": "k", "Cookie": "z"}
        await port.send("PUT", f"{url}/0", secrets, b"x", None)
    assert first[0].headers["X-Api-Key"] == "y"
    assert not {"Authorization", "X-Api-Key", "Cookie"} & set(seen[0].headers)
    assert seen[0].headers["Idempotency-Key"] == "k"


async def test_redirects_end():
    async with requests() as port, listening(redirecting(*["/0"])) as (url, seen):
        assert (await failing(port, f"{url}/0")).kind == "too_many_redirects"
    assert len(seen) == 6


async def test_an_answer_that_is_too_large_is_not_read():
    async def endless(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while True:
                await response.write(b"x" * 65_536)
        except (ConnectionError, asyncio.CancelledError):
            return response

    async with requests(limit=1_000_000) as port, listening(endless) as (url, _):
        error = await failing(port, url)
    assert (error.kind, error.retryable) == ("too_large", False)


async def test_what_is_small_only_while_it_is_compressed():
    async def bomb(request: web.Request) -> web.Response:
        assert request.headers["Accept-Encoding"] == "identity"
        return web.Response(body=gzip.compress(b"x" * 5_000_000), headers={"Content-Encoding": "gzip"})

    async with requests() as port, listening(bomb) as (url, _):
        assert (await failing(port, url)).kind == "bad_answer"


async def test_an_answer_that_does_not_come():
    asked = asyncio.Event()

    async def silent(request: web.Request) -> web.Response:
        asked.set()
        await asyncio.Event().wait()
        return await hello(request)

    async with listening(silent) as (url, _):
        async with requests() as port:
            error = await failing(port, f"{url}/p?key=secret", seconds=0.05)
            assert (error.kind, error.retryable) == ("timeout", True)
            assert "secret" not in error.message
            assert (await failing(port, url, seconds=-1.0)).kind == "timeout"
            asked.clear()
            task = asyncio.create_task(port.send("GET", url, {}, None, None))
            await asked.wait()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        async with requests(seconds=0.05) as port:
            assert (await failing(port, url, seconds=60.0)).kind == "timeout"


async def test_nobody_there_and_nobody_who_speaks_http():
    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(b"220 mail ready\r\n")
        writer.close()

    server = await asyncio.start_server(rude, "127.0.0.1", 0)
    port_number = server.sockets[0].getsockname()[1]
    async with requests() as port:
        rude_error = await failing(port, f"http://127.0.0.1:{port_number}/")
        server.close()
        await server.wait_closed()
        gone = await failing(port, f"http://127.0.0.1:{port_number}/p?key=secret")
    for error in (rude_error, gone):
        assert (error.kind, error.retryable) == ("unreachable", True)
        assert "secret" not in error.message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("X-A", "1\r\nX-B: 2"),
        ("X-A", "1\n2"),
        ("X-A", "\0"),
        ("X-A", "x" * 9000),
        ("X A", "1"),
        ("X-A\r\nX-B", "1"),
        ("", "1"),
        ("X-\u00e9", "1"),
        ("Host", "evil.test"),
        ("content-length", "5"),
        ("Transfer-Encoding", "chunked"),
        ("Connection", "close"),
        ("Accept-Encoding", "gzip"),
    ],
)
async def test_headers_that_would_be_something_else(name: str, value: str):
    async with requests() as port, listening(hello) as (url, seen):
        error = await failing(port, url, headers={name: value})
    assert error.kind == "invalid_input"
    assert not seen
