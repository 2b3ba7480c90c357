"""The processes: the daemon and the backend behind it, started, killed, and ended."""

import asyncio
import re
import signal
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from benchmarks.load.environment import ROOT
from benchmarks.load.processes import family
from benchmarks.peers.gateway import bare_environment
from benchmarks.service import Service
from benchmarks.simulated.starting import command

START_LIMIT = 60.0
_LINE = 1 << 20  # bytes of a line of the log
_KEPT = 400  # lines of the log that are kept, requests left out
# What a daemon may leave.
_DATA = re.compile(r"headgate\.lock|knowledge\.lock|collections(/.*)?|models(/.*)?|workflows\.db([.-].*)?")
_LIMIT = aiohttp.ClientTimeout(total=10)


class NotStarted(Exception):
    """Raised when a process did not come up; the message says which and what it said."""


class Daemon:
    """`headgate serve` with its log read as it comes. `events` counts its lines by level and name, `lines` holds the
    last ones, requests left out; `ever` are the pids of all its processes that were seen."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        self.port = port
        self.config = folder / "pipeline.toml"
        self.events: Counter[str] = Counter()
        self.lines: deque[str] = deque(maxlen=_KEPT)
        self.ever: set[int] = set()
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._session: aiohttp.ClientSession | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def status(self) -> int | None:
        return None if self._process is None else self._process.returncode

    async def start(self) -> None:
        """Raises NotStarted."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pipeline.cli", "serve", "--config", str(self.config)),
            cwd=ROOT,
            env=bare_environment(self.folder / "tmp"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
            limit=_LINE,
        )
        self._reading = asyncio.ensure_future(self._read())
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(self.folder / "data" / "supervisor.sock")), timeout=_LIMIT
        )
        if not await self._comes_up():
            raise NotStarted("the daemon did not become ready; it said:\n" + "\n".join(self.lines))

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            assert self._process is not None
            self._process.send_signal(number)

    def pids(self) -> list[int]:
        """All its processes that live."""
        found = family([self.pid]) if self.status is None else []
        self.ever.update(found)
        return found

    async def processes(self) -> dict[str, int]:
        """The ready ones by name, with their pids. Empty where the supervisor does not say."""
        with suppress(aiohttp.ClientError, TimeoutError, msgspec.MsgspecError):
            status = msgspec.json.decode(await self._get("status"), type=_Status)
            return {process.name: process.pid for process in status.processes if process.state == "ready"}
        return {}

    async def metrics(self) -> str:
        """Raises aiohttp.ClientError, TimeoutError."""
        return (await self._get("metrics")).decode()

    async def end(self, limit: float) -> float | None:
        """SIGTERM; how long it took, None where it had to be killed."""
        assert self._process is not None
        began = time.monotonic()
        self.pids()
        self.signal(signal.SIGTERM)
        took: float | None
        try:
            await asyncio.wait_for(self._process.wait(), limit)
            took = time.monotonic() - began
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
            took = None
        await self._close()
        return took

    def left_behind(self) -> Iterator[str]:
        """Files, in what is the daemon's alone."""
        for top in ("data", "tmp"):
            for path in sorted((self.folder / top).rglob("*")):
                name = str(path.relative_to(self.folder / top))
                if top == "tmp" or not _DATA.fullmatch(name):
                    yield f"{top}/{name}"

    async def _close(self) -> None:
        if self._session is not None:
            await self._session.close()
        if self._reading is not None:
            self._reading.cancel()
            with suppress(asyncio.CancelledError):
                await self._reading

    async def _get(self, what: str) -> bytes:
        assert self._session is not None
        async with self._session.get(f"http://supervisor/{what}") as response:
            response.raise_for_status()
            return await response.read()

    async def _comes_up(self) -> bool:
        until = time.monotonic() + START_LIMIT
        async with aiohttp.ClientSession(timeout=_LIMIT) as session:
            while time.monotonic() < until and self.status is None:
                with suppress(aiohttp.ClientError, TimeoutError):
                    async with session.get(f"{self.url}/readyz") as response:
                        if response.status == 200:
                            return True
                await asyncio.sleep(0.05)
        return False

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for line in self._process.stderr:
            self._note(line.decode(errors="replace").rstrip("\n"))

    def _note(self, line: str) -> None:
        try:
            told: dict[str, Any] = msgspec.json.decode(line, type=dict[str, Any])
        except msgspec.MsgspecError:
            self.events["(no JSON)"] += 1
            self.lines.append(line)
            return
        if told.get("event") == "request":
            self.events["request"] += 1
            return
        name = f"{told.get('level')} {'(library)' if 'logger' in told else told.get('event')}"
        self.events[name] += 1
        self.lines.append(line)


class _Process(msgspec.Struct):
    name: str
    state: str
    pid: int


class _Status(msgspec.Struct):
    processes: list[_Process]


class Backend:
    """A simulated backend on a port of its own, which it has again after it was killed."""

    def __init__(self, port: int, service: Service) -> None:
        self.port = port
        self._service = service
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Raises NotStarted."""
        arguments = command(self._service)
        arguments[arguments.index("--port") + 1] = str(self.port)
        self._process = await asyncio.create_subprocess_exec(
            *arguments, cwd=ROOT, stdout=asyncio.subprocess.PIPE, start_new_session=True
        )
        assert self._process.stdout is not None
        if not await self._process.stdout.readline():
            raise NotStarted(f"the simulated backend did not start on port {self.port}")

    async def kill(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    async def at_work(self) -> int:
        """Calls that it works on or that wait there."""
        async with aiohttp.ClientSession(timeout=_LIMIT) as session, session.get(f"{self.url}/sim") as response:
            state = msgspec.json.decode(await response.read(), type=_AtWork)
            return state.in_flight + state.waiting


class _AtWork(msgspec.Struct):
    in_flight: int
    waiting: int
