"""TLS on the public listener of a real daemon: served, exchanged while it runs, refused when it does not fit."""

import asyncio
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests import certificates
from tests.certificates import Files
from tests.edge.wire import Wire, get
from tests.process.daemon import COMMAND, ROOT, Daemon, chat, configured, started

pytestmark = pytest.mark.slow

SERVER = 'tls_certificate = "cert.pem"\ntls_key = "key.pem"\n'


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Files, Files]:
    folder = tmp_path_factory.mktemp("certificates")
    return certificates.made(folder, "first"), certificates.made(folder, "second", kind=certificates.RSA)


@asynccontextmanager
async def serving(folder: Path, files: Files, shards: int = 2) -> AsyncIterator[Daemon]:
    files.to(folder)
    async with started(configured(folder, server=SERVER), shards=shards) as daemon:
        line = await daemon.announced()
        found = re.search(r"https://\S+", line)
        assert found, line + daemon.stderr
        daemon.address = found[0]
        yield daemon


@asynccontextmanager
async def connected(daemon: Daemon, files: Files) -> AsyncIterator[Wire]:
    port = int(daemon.address.rpartition(":")[2])
    wire = Wire(*await asyncio.open_connection("127.0.0.1", port, ssl=files.client))
    try:
        yield wire
    finally:
        wire.reset()


async def healthy(wire: Wire) -> bool:
    await wire.send(get("/healthz"))
    return (await wire.answer()).status == 200


async def reached(daemon: Daemon, files: Files) -> bool:
    """Over several new connections, so that in all likelihood both shards have been asked."""
    for _ in range(6):
        async with connected(daemon, files) as wire:
            if not await healthy(wire):
                return False
    return True


async def told(daemon: Daemon, event: str) -> None:
    async with asyncio.timeout(10):
        while not daemon.logged(event):
            await asyncio.sleep(0.02)


async def test_a_certificate_is_exchanged_without_touching_open_connections(tmp_path, pairs):
    first, second = pairs
    async with serving(tmp_path, first) as daemon, AsyncExitStack() as open_ones:
        old = [await open_ones.enter_async_context(connected(daemon, first)) for _ in range(6)]
        assert all([await healthy(wire) for wire in old])

        (tmp_path / "cert.pem").write_text(second.certificate.read_text())  # but not its key yet
        daemon.signal(signal.SIGHUP)
        await told(daemon, "reload_refused")
        (problem,) = daemon.logged("reload_refused")[0]["problems"]
        assert problem.startswith("server.tls_key: found a key that does not match the certificate; expected ")
        assert await reached(daemon, first)

        second.to(tmp_path)
        daemon.signal(signal.SIGHUP)
        await told(daemon, "reload_applied")
        assert daemon.logged("reload_applied")[0]["changed"] == ["server.tls_certificate", "server.tls_key"]
        assert await reached(daemon, second)
        with pytest.raises(ssl.SSLCertVerificationError):
            await reached(daemon, first)
        assert all([await healthy(wire) for wire in old])
        daemon.signal(signal.SIGTERM)
        assert await daemon.ended() == 0


async def test_a_shard_that_starts_while_the_files_do_not_fit_has_the_pair_in_force(tmp_path, pairs):
    first, second = pairs
    async with serving(tmp_path, first) as daemon:
        second.to(tmp_path).key.write_text("not yet")
        ready = len(daemon.logged("process_ready"))
        for name, pid in (await daemon.pids()).items():
            if name.startswith("shard"):
                os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(10):
            while len(daemon.logged("process_ready")) < ready + 2:
                await asyncio.sleep(0.02)
        assert await reached(daemon, first)


async def test_clients_and_commands_are_served_by_the_right_shard(tmp_path, pairs):
    first, _ = pairs
    async with serving(tmp_path, first) as daemon:
        await _one_session_has_one_shard(daemon, first)
        for trusted in (True, False):
            environment = {k: v for k, v in os.environ.items() if k != "SSL_CERT_FILE"}
            environment |= {"SSL_CERT_FILE": str(first.certificate)} if trusted else {}
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", COMMAND, "ask", "--url", f"{daemon.address}/v1", "hello over TLS"),
                cwd=ROOT,
                env=environment,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            out, _ = await process.communicate()
            assert (process.returncode == 0) is trusted
            assert (b"hello over TLS" in out) is trusted


async def _one_session_has_one_shard(daemon: Daemon, files: Files) -> None:
    """Its requests come over connections to both."""
    shards = set()
    for number in range(12):
        connector = aiohttp.TCPConnector(ssl=files.client)
        async with aiohttp.ClientSession(connector=connector, headers={"X-Session-Id": "one"}) as session:
            body = chat(f"number {number}")
            async with session.post(f"{daemon.address}/v1/chat/completions", json=body) as response:
                assert f"number {number}" in await response.text()
                shards.add(response.headers["X-Headgate-Shard"])
    assert len(shards) == 1


async def test_a_start_says_what_is_wrong_with_the_pair(tmp_path, pairs):
    first, second = pairs
    Files(first.certificate, second.key).to(tmp_path)
    async with started(configured(tmp_path, server=SERVER)) as daemon:
        assert not await daemon.announced()
        assert await daemon.ended() != 0
        assert "server.tls_key" in daemon.stderr
        assert "does not match" in daemon.stderr


async def test_an_expired_certificate_is_served_with_a_warning(tmp_path):
    async with serving(tmp_path, certificates.expired(tmp_path), shards=1) as daemon:
        (line,) = daemon.logged("certificate_not_valid")
        assert line["key"] == "server.tls_certificate"
