"""The simulated backend behind a gateway."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from benchmarks.peers.gateway import Backend, CannotStart
from benchmarks.peers.interrupt import Tick
from benchmarks.peers.process import Server
from benchmarks.service import Service

_LIMIT = 20.0


class _Urls(msgspec.Struct):
    urls: list[str]


@contextmanager
def simulated(service: Service, folder: Path, tick: Tick) -> Iterator[Backend]:
    """A fresh one, for as long as the context lasts. Raises CannotStart, Interrupted."""
    settings = msgspec.structs.asdict(service)
    options = [text for key, value in settings.items() for text in (f"--{key.replace('_', '-')}", _said(value))]
    arguments = [sys.executable, "-m", "benchmarks.backend", "--port", "0", *options]
    server = Server(arguments, os.environ, folder / "backend.log")
    try:
        yield Backend(_url(server, tick), service)
    finally:
        server.stop()


def _said(value: object) -> str:
    return "none" if value is None else str(value).lower()


def _url(server: Server, tick: Tick) -> str:
    """It prints a line of JSON when it listens."""
    deadline = time.monotonic() + _LIMIT
    while server.status is None and time.monotonic() < deadline:
        for line in server.log.read_bytes().splitlines(keepends=True):
            if line.startswith(b'{"urls"') and line.endswith(b"\n"):
                return msgspec.json.decode(line, type=_Urls).urls[0]
        tick()
    raise CannotStart(f"the simulated backend did not start; its last lines:\n{server.last_lines()}")
