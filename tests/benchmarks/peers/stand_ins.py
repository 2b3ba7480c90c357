"""Gateways that behave as told. They are real processes; the ones that answer are the simulated backend itself."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.peers.gateway import Backend, CannotPrepare, Running, launch
from benchmarks.peers.interrupt import Tick
from benchmarks.servers import free_port

ANSWERS = [sys.executable, "-m", "benchmarks.backend", "--first-token-ms", "0"]
WAITS_FOR_LOAD = """
import json, os, signal, subprocess, sys, time, urllib.request
port = sys.argv[1]
server = subprocess.Popen([sys.executable, "-m", "benchmarks.backend", "--port", port, "--first-token-ms", "0"])
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
while True:
    time.sleep(0.02)
    try:
        counts = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/sim"))["counts"]
    except OSError:
        continue
    if counts["arrivals"] > 20:
        print("out of memory, says the stand-in", flush=True)
        server.kill()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def tick() -> None:
    time.sleep(0.02)


def alive(pid: int) -> bool:
    """A zombie is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in {"Z", "X"}
    except (FileNotFoundError, ProcessLookupError):
        return False


def until(holds: Callable[[], bool], within: float = 10.0) -> None:
    deadline = time.monotonic() + within
    while not holds():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


class StandIn:
    """Runs `arguments` with its port behind them. `unready`: why it cannot be prepared."""

    version = "1.2.3"

    def __init__(self, name: str, arguments: list[str], *, limit: float = 10.0, unready: str | None = None) -> None:
        self.name = name
        self.running: list[Running] = []
        self._arguments = arguments
        self._limit = limit
        self._unready = unready

    def prepare(self, tick: Tick) -> None:
        if self._unready is not None:
            raise CannotPrepare(self._unready)

    def start(self, backend: Backend, folder: Path, tick: Tick) -> Running:
        port = free_port()
        url = f"http://127.0.0.1:{port}/v1"
        arguments = [*self._arguments, str(port)]
        running = launch(
            arguments, os.environ, folder / "stand-in.log", tick, base_url=url, model="sim", limit=self._limit
        )
        self.running.append(running)
        return running
