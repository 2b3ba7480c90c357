"""A real daemon in processes of its own, for tests."""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
COMMAND = "from pipeline.cli import main; main()"

ECHO = """
[[workers]]
name = "echo"
kind = "echo"
{worker}

[[routes]]
name = "echo"
worker = "echo"
"""


def configured(folder: Path, text: str = "", *, worker: str = "", server: str = "") -> Path:
    """A configuration file that serves from one shard on a free port; `text` replaces the echo worker and its route."""
    path = folder / "pipeline.toml"
    given = re.findall(r"^\s*(\w+)\s*=", server, re.MULTILINE)
    usual = [f"{key} = {value}" for key, value in (("port", 0), ("shards", 1)) if key not in given]
    text = text or ECHO.format(worker=worker)
    admin = "" if "[admin]" in text else "[admin]\nport = 0\n"
    path.write_text("\n".join(["[server]", f'data_dir = "{folder / "data"}"', *usual, server, admin]) + text)
    return path


class Daemon:
    """A started `headgate serve`."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path, log: Path) -> None:
        self.process = process
        self.address = ""
        self._folder = folder
        self._log = log

    @property
    def log(self) -> list[dict[str, Any]]:
        whole = self._log.read_text().rpartition("\n")[0]  # the last line may be on its way
        return [json.loads(line) for line in whole.splitlines() if line.startswith("{")]

    @property
    def stderr(self) -> str:
        return self._log.read_text()

    def logged(self, event: str) -> list[dict[str, Any]]:
        return [line for line in self.log if line["event"] == event]

    async def announced(self) -> str:
        """Waits for the line that says where it serves; returns it, or '' when the daemon has ended without."""
        assert self.process.stdout is not None
        line = (await self.process.stdout.readline()).decode()
        if found := re.search(r"http://\S+", line):
            self.address = found[0]
        return line

    async def status(self) -> dict[str, Any]:
        connector = aiohttp.UnixConnector(str(self._folder / "data" / "supervisor.sock"))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://x/status") as response:
            return await response.json()

    async def pids(self) -> dict[str, int]:
        return {process["name"]: process["pid"] for process in (await self.status())["processes"]}

    async def metrics(self) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
        async with aiohttp.ClientSession() as session, session.get(self.address + "/metrics") as response:
            families = text_string_to_metric_families(await response.text())
            return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}

    async def until_ready(self, within: float = 10.0) -> float:
        """How long it took until /readyz agreed."""
        began = time.monotonic()
        async with asyncio.timeout(within), aiohttp.ClientSession() as session:
            while True:
                with suppress(aiohttp.ClientError):
                    async with session.get(self.address + "/readyz") as response:
                        if response.status == 200:
                            return time.monotonic() - began
                await asyncio.sleep(0.01)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    async def ended(self, within: float = 10.0) -> int:
        async with asyncio.timeout(within):
            return await self.process.wait()


@asynccontextmanager
async def started(
    path: Path, *, shards: int | None = None, command: str = COMMAND, **environment: str
) -> AsyncIterator[Daemon]:
    """Runs a daemon; kills what is left of it afterwards. `shards` overrides what the file says."""
    if shards is not None:
        environment["HEADGATE__SERVER__SHARDS"] = str(shards)
    log = path.parent / "log"
    with log.open("ab") as stderr:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", command, "serve", "--config", str(path)),
            cwd=ROOT,
            env=os.environ | environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=stderr,
        )
    daemon = Daemon(process, path.parent, log)
    try:
        yield daemon
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
            try:
                await daemon.ended(5)
            except TimeoutError:
                process.kill()
                await process.wait()


@asynccontextmanager
async def serving(path: Path, *, shards: int | None = None) -> AsyncIterator[Daemon]:
    """The same, ready."""
    async with started(path, shards=shards) as daemon:
        line = await daemon.announced()
        assert daemon.address, daemon.stderr
        assert line.startswith("Headgate ")
        await daemon.until_ready()
        yield daemon


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def gone(pids: Iterable[int], within: float) -> bool:
    """Whether all these processes end within that time."""
    waiting = list(pids)
    until = time.monotonic() + within
    while time.monotonic() < until:
        waiting = [pid for pid in waiting if alive(pid)]
        if not waiting:
            return True
        await asyncio.sleep(0.01)
    return False


def chat(text: str = "hello there", *, stream: bool = False, model: str = "echo") -> dict[str, Any]:
    return {"model": model, "stream": stream, "messages": [{"role": "user", "content": text}]}


async def frames(response: aiohttp.ClientResponse) -> list[str]:
    """The data of all events of a stream."""
    data = (await response.read()).decode()
    return [line.removeprefix("data: ") for line in data.splitlines() if line.startswith("data: ")]
