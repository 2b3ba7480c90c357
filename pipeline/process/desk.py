"""The supervisor's own HTTP server, on a Unix socket in the data folder: metrics and state of the whole daemon."""

import os
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
from aiohttp import web

from pipeline.knowledge.places import socket_address
from pipeline.observe.exposition import CONTENT_TYPE, Exposition


class ProcessStatus(msgspec.Struct, frozen=True):
    """`uptime_s` is since the process's last start, 0.0 while it does not run; `pid` is then 0."""

    name: str
    state: str
    pid: int
    restarts: int
    uptime_s: float


class DaemonStatus(msgspec.Struct, frozen=True):
    """`requests` counts what was offered and how it ended, over all routes."""

    version: str
    address: str
    draining: bool
    uptime_s: float
    processes: list[ProcessStatus]
    requests: dict[str, int]


class Desk:
    """GET /metrics and GET /status. The socket is for this user only."""

    def __init__(self, path: Path, exposition: Exposition, status: Callable[[], DaemonStatus]) -> None:
        self._path = path
        self._exposition = exposition
        self._status = status
        application = web.Application()
        application.add_routes([web.get("/metrics", self._metrics), web.get("/status", self._show)])
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1.0)

    async def open(self) -> None:
        """The data folder's lock must be held: a socket that is there was left by a supervisor that was killed."""
        self._path.unlink(missing_ok=True)
        sock = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            with socket_address(self._path) as address:
                sock.bind(address)
        finally:
            os.umask(before)
        await self._runner.setup()
        await web.SockSite(self._runner, sock).start()

    async def close(self) -> None:
        await self._runner.cleanup()
        with suppress(FileNotFoundError):
            self._path.unlink()

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(body=self._exposition.render(), headers={"Content-Type": CONTENT_TYPE})

    async def _show(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._status()), content_type="application/json")
