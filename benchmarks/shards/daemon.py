"""The daemon that is measured, and what it says of its shards."""

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Self

import aiohttp
import msgspec
import psutil

from benchmarks.bare import TOKENS
from benchmarks.servers import Server

SHARD = "pipeline.process.shard"  # the module that a shard runs

ECHO = f"""
[[workers]]
name = "json"
kind = "echo"
concurrency = 256
[[workers]]
name = "tick"
kind = "echo"
concurrency = 256
tokens = {TOKENS}
[[workers]]
name = "paced"
kind = "echo"
concurrency = 256
tokens = 10
tokens_per_s = 100.0
[[routes]]
name = "json"
worker = "json"
[[routes]]
name = "tick"
worker = "tick"
[[routes]]
name = "paced"
worker = "paced"
"""
_LIMIT = aiohttp.ClientTimeout(total=10)
_POLL = 0.02


class NotReached(Exception):
    """Raised when something did not come about in time; the message says what."""


class _Process(msgspec.Struct):
    name: str
    state: str
    pid: int


class _Status(msgspec.Struct):
    processes: list[_Process]


class _Model(msgspec.Struct):
    id: str


class _Models(msgspec.Struct):
    data: list[_Model]


class Desk:
    """The supervisor's socket: state and metrics, without asking a shard. An async context manager."""

    def __init__(self, server: Server) -> None:
        connector = aiohttp.UnixConnector(str(server.data / "supervisor.sock"))
        self._session = aiohttp.ClientSession(connector=connector, timeout=_LIMIT)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def shards(self) -> dict[int, int]:
        """The pid of each shard that is ready."""
        async with self._session.get("http://supervisor/status") as response:
            status = msgspec.json.decode(await response.read(), type=_Status)
        found = {}
        for process in status.processes:
            kind, _, number = process.name.partition(" ")
            if kind == "shard" and process.state == "ready":
                found[int(number)] = process.pid
        return found

    async def metrics(self) -> bytes:
        async with self._session.get("http://supervisor/metrics") as response:
            return await response.read()

    async def until(self, wanted: Callable[[Mapping[int, int]], bool], limit: float, what: str) -> float:
        """Seconds until the shards are as wanted. Raises NotReached."""
        began = time.monotonic()
        while time.monotonic() - began < limit:
            if wanted(await self.shards()):
                return time.monotonic() - began
            await asyncio.sleep(_POLL)
        raise NotReached(f"{what} within {limit:g} s")


def accepted(server_port: int, shards: Mapping[int, int]) -> dict[int, int]:
    """Which shard holds the server's end of each connection: by the client's port. The kernel knows."""
    found = {}
    for shard, pid in shards.items():
        for each in psutil.Process(pid).net_connections("tcp"):
            if each.laddr.port == server_port and each.raddr:
                found[each.raddr.port] = shard
    return found


async def models(port: int, key: str | None = None) -> set[str]:
    """What one shard, whichever accepts, says that it serves."""
    connector = aiohttp.TCPConnector(force_close=True)
    fields = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession(connector=connector, timeout=_LIMIT) as session,
        session.get(f"http://127.0.0.1:{port}/v1/models", headers=fields) as response,
    ):
        return {model.id for model in msgspec.json.decode(await response.read(), type=_Models).data}


async def in_force(
    port: int, wanted: Iterable[str], *, limit: float = 5.0, looks: int = 8, key: str | None = None
) -> None:
    """Returns when `looks` new connections in a row were told exactly these routes. Raises NotReached."""
    names, until, agreed = set(wanted), time.monotonic() + limit, 0
    while agreed < looks:
        agreed = agreed + 1 if await models(port, key) == names else 0
        if not agreed:
            if time.monotonic() > until:
                raise NotReached(f"not all shards serve {', '.join(sorted(names))} {limit:g} s after the reload")
            await asyncio.sleep(_POLL)
