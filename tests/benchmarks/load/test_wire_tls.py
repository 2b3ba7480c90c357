"""TLS, with a certificate that only SSL_CERT_FILE makes trusted."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.load.answer import End
from benchmarks.load.scenario import Leave
from tests.benchmarks.load.asking import OK, ask, wired
from tests.servers import LAST_CHUNK, chunk, events, head, http_chunk


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("tls")
    key, cert = folder / "key.pem", folder / "cert.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test"
    names = "subjectAltName=IP:127.0.0.1"
    subprocess.run([*command.split(), "-addext", names, "-keyout", key, "-out", cert], check=True, capture_output=True)
    return cert, key


class Server:
    """Answers each request with `data`. `gone` is set when a client has closed its connection."""

    def __init__(self) -> None:
        self.data = OK
        self.gone = asyncio.Event()
        self.requests = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                top = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(top.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]))
                self.requests += 1
                writer.write(self.data)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.gone.set()
        finally:
            writer.close()


@asynccontextmanager
async def serving(certificate: tuple[Path, Path]) -> AsyncIterator[Server]:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*certificate)
    scripted = Server()
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0, ssl=context)
    scripted.port = server.sockets[0].getsockname()[1]
    try:
        yield scripted
    finally:
        server.close()


async def test_an_unknown_certificate_is_refused(certificate: tuple[Path, Path]):
    async with serving(certificate) as server, wired(f"https://127.0.0.1:{server.port}/v1") as wire:
        answer = await ask(wire)
        assert (answer.end, answer.sent, server.requests) == (End.UNREACHABLE, 0.0, 0)
        assert "self-signed certificate" in answer.detail


async def test_a_certificate_for_another_host_is_refused(
    certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with serving(certificate) as server, wired(f"https://localhost:{server.port}/v1") as wire:
        answer = await ask(wire)
        assert (answer.end, server.requests) == (End.UNREACHABLE, 0)
        assert "ostname mismatch" in answer.detail


async def test_no_tls_where_it_was_asked_for():
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with wired(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1") as wire:
        answer = await ask(wire)
    server.close()
    assert (answer.end, answer.sent) == (End.UNREACHABLE, 0.0)
    assert answer.detail


async def test_answers_over_tls(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with serving(certificate) as server, wired(f"https://127.0.0.1:{server.port}/v1") as wire:
        assert [(await ask(wire)).end for _ in range(3)] == [End.WHOLE] * 3
        assert (wire.opened, server.requests) == (1, 3)
        stream = b"".join([http_chunk(events(chunk("a"), chunk("b"), chunk(finish="stop"))), LAST_CHUNK])
        server.data = head(Transfer_Encoding="chunked") + stream
        answer = await ask(wire, stream=True)
        assert (answer.end, answer.tokens, wire.opened) == (End.WHOLE, 2, 1)


@pytest.mark.parametrize("after", ["sent", "first_token", "cancelled", "deadline"])
async def test_leaving_over_tls(certificate: tuple[Path, Path], after: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[0]))
    async with serving(certificate) as server, wired(f"https://127.0.0.1:{server.port}/v1") as wire:
        assert (await ask(wire)).end is End.WHOLE
        server.data = head(Transfer_Encoding="chunked")
        if after in ("sent", "first_token"):
            server.data += http_chunk(events(chunk("a"), done=False))
            assert (await ask(wire, stream=True, leave=Leave(share=1, after=after))).end is End.LEFT
        elif after == "deadline":
            assert (await ask(wire, stream=True, patience=0.05)).end is End.TIMED_OUT
        else:
            asking = asyncio.ensure_future(ask(wire, stream=True))
            while server.requests < 2:
                await asyncio.sleep(0.001)
            asking.cancel()
            await asyncio.wait([asking])
        await asyncio.wait_for(server.gone.wait(), 1)
        assert server.requests == 2
