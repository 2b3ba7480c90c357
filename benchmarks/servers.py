"""Starts the servers that are measured, reads what they cost, and ends them."""

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from benchmarks.load import environment as environments
from benchmarks.load.processes import cpu_seconds, family

START_LIMIT = 20.0


class Server:
    """A running server: its port, and its processes with all their children. A Headgate also has the file that it was
    configured by, and its data folder."""

    def __init__(
        self, process: "subprocess.Popen[str]", port: int, *, config: Path | None = None, data: Path | None = None
    ) -> None:
        self.process = process
        self.port = port
        self._config = config
        self._data = data

    @property
    def config(self) -> Path:
        assert self._config is not None
        return self._config

    @property
    def data(self) -> Path:
        assert self._data is not None
        return self._data

    def pids(self) -> list[int]:
        return family([self.process.pid])

    def cpu(self) -> float:
        """CPU seconds, user and system, of all its processes so far."""
        return sum(cpu_seconds(pid) for pid in self.pids())

    def role(self, module: str) -> int:
        """The pid of the child that runs `module`."""
        for pid in self.roles(module):
            return pid
        raise LookupError(f"no process of {self.process.pid} runs {module}")

    def roles(self, module: str) -> list[int]:
        """The pids of all children that run `module`."""
        return [pid for pid in self.pids() if module in _command(pid)]


def _command(pid: int) -> str:
    """Empty when it has gone."""
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise LookupError(f"no VmRSS of {pid}")


@contextmanager
def bare(mode: str) -> Iterator[Server]:
    """The yardstick in `mode` (see `benchmarks.bare`)."""
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.bare", mode], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        yield Server(process, int(process.stdout.readline()))
    finally:
        end(process)


@contextmanager
def headgate(config: str, *, data: Path | None = None, shards: int = 1) -> Iterator[Server]:
    """`headgate serve` with everything on; its log goes to a file, as JSON, as it would in production.

    `data` is its data folder; without one it gets an empty one.
    """
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as folder:
        port = free_port()
        path, log = Path(folder) / "pipeline.toml", Path(folder) / "log"
        head = f'[server]\nport = {port}\nshards = {shards}\ndata_dir = "{data or folder}"\n[admin]\nport = 0\n'
        path.write_text(head + config)
        with log.open("w") as stderr:
            command = [sys.executable, "-m", "pipeline.cli", "serve", "--config", str(path)]
            process = subprocess.Popen(command, stdout=stderr, stderr=stderr, text=True)
            try:
                wait_ready(process, port)
                while " serves on " not in log.read_text() and process.poll() is None:  # all shards, not only one
                    time.sleep(0.02)
                yield Server(process, port, config=path, data=Path(data or folder))
            except TimeoutError as error:
                raise TimeoutError(f"{error}; its log:\n{log.read_text()}") from None
            finally:
                end(process)


def wait_ready(process: "subprocess.Popen[str]", port: int) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline and process.poll() is None:
        with suppress(OSError, urllib.error.URLError), urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz") as r:
            if r.status == 200:
                return
        time.sleep(0.02)
    raise TimeoutError(f"the server did not become ready in {START_LIMIT} s")


def end(process: "subprocess.Popen[str]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(15)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environment() -> dict[str, object]:
    """What a figure depends on besides the code."""
    facts: dict[str, object] = msgspec.to_builtins(environments.environment())
    return facts


def write_json(path: Path, data: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(data, indent=1) + "\n")
