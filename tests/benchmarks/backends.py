"""A simulated backend in a process of its own, and clients that can misbehave."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import aiohttp
import msgspec

from benchmarks.service import Service
from tests.process.daemon import ROOT

LONG = {"first_token_ms": 60_000}  # longer than any test
COMMAND = (sys.executable, "-m", "benchmarks.backend")


class Process:
    """`urls` are those of the replicas, without `/v1`."""

    def __init__(self, popen: "subprocess.Popen[str]") -> None:
        assert popen.stdout is not None
        self.popen = popen
        self.urls: list[str] = json.loads(popen.stdout.readline())["urls"]

    def resident(self) -> int:
        return int(Path(f"/proc/{self.popen.pid}/statm").read_text().split()[1]) * 4096

    def end(self, number: signal.Signals = signal.SIGTERM, limit: float = 5.0) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(limit)


@contextmanager
def backend_process(*options: str) -> Iterator[Process]:
    with subprocess.Popen([*COMMAND, "--port", "0", *options], stdout=subprocess.PIPE, text=True, cwd=ROOT) as popen:
        try:
            yield Process(popen)
        finally:
            popen.kill()


class Simulated:
    """One replica, as a load generator sees it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.base_url = f"{url}/v1"
        self.session = session
        self.port = int(url.rpartition(":")[2])

    async def get(self, path: str = "/sim") -> dict[str, Any]:
        async with self.session.get(self.url + path) as answer:
            assert answer.status == 200
            return await answer.json()

    async def set(self, **values: Any) -> None:
        async with self.session.patch(f"{self.url}/sim", json=values) as answer:
            assert answer.status == 200, await answer.text()

    async def clear(self) -> None:
        """Everything as at the start."""
        async with self.session.post(f"{self.url}/sim/reset") as answer:
            assert answer.status == 200
        await self.set(**msgspec.to_builtins(Service()))

    async def rows(self, run: str) -> list[list[Any]]:
        return (await self.get(f"/sim/runs/{run}"))["rows"]

    async def until(self, condition: Callable[[dict[str, Any]], bool], limit: float = 5.0) -> dict[str, Any]:
        async with asyncio.timeout(limit):
            while not condition(state := await self.get()):
                await asyncio.sleep(0.005)
        return state

    async def busy(self, in_flight: int, waiting: int = 0) -> dict[str, Any]:
        """Waits until as many are worked on and wait."""
        return await self.until(lambda state: (state["in_flight"], state["waiting"]) == (in_flight, waiting))

    async def ask(self, text: str = "hello", **fields: Any) -> aiohttp.ClientResponse:
        """The whole answer, read."""
        body = {"model": "m", "messages": [{"role": "user", "content": text}], **fields}
        async with self.session.post(f"{self.base_url}/chat/completions", json=body) as answer:
            await answer.read()
            return answer


@asynccontextmanager
async def simulated(url: str) -> AsyncIterator[Simulated]:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        yield Simulated(url, session)


class RawClient:
    """One request over a socket of its own, that can be dropped at any time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self._writer = writer

    @classmethod
    async def ask(cls, port: int, text: str, **fields: Any) -> Self:
        client = cls(*await asyncio.open_connection("127.0.0.1", port, limit=1 << 16))
        body = json.dumps({"messages": [{"role": "user", "content": text}], **fields}).encode()
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
        client._writer.write(head.encode() + body)
        return client

    async def status(self) -> int:
        return int((await self.reader.readuntil(b"\r\n\r\n"))[9:12])

    async def drop(self) -> None:
        self._writer.transport.abort()
        with suppress(ConnectionError):
            await self._writer.wait_closed()
