"""The simulated backend behind a gateway, started and ended as the gateway is: bounded, and with its log in a file."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.peers.gateway import Backend, CannotStart
from benchmarks.peers.interrupt import Tick
from benchmarks.peers.process import Server
from benchmarks.service import Service
from benchmarks.simulated.starting import Listening, command

_LIMIT = 20.0


@contextmanager
def simulated(service: Service, folder: Path, tick: Tick) -> Iterator[Backend]:
    """A fresh one, for as long as the context lasts. Raises CannotStart, Interrupted."""
    server = Server(command(service), os.environ, folder / "backend.log")
    try:
        yield Backend(_url(server, tick), service)
    finally:
        server.stop()


def _url(server: Server, tick: Tick) -> str:
    """It prints a line of JSON when it listens."""
    deadline = time.monotonic() + _LIMIT
    while server.status is None and time.monotonic() < deadline:
        for line in server.log.read_bytes().splitlines(keepends=True):
            if line.startswith(b'{"urls"') and line.endswith(b"\n"):
                return msgspec.json.decode(line, type=Listening).urls[0]
        tick()
    raise CannotStart(f"the simulated backend did not start; its last lines:\n{server.last_lines()}")
