"""One phase of one scenario before one gateway: all of it fresh, because calls left running would spoil the next."""

import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from benchmarks.peers.backend import simulated
from benchmarks.peers.gateway import Backend, Gateway, Running
from benchmarks.peers.interrupt import TICK, Interrupt, Interrupted
from benchmarks.peers.plan import Point
from benchmarks.peers.process import Server
from benchmarks.report.errors import CannotRead
from benchmarks.report.files import read, write
from benchmarks.report.model import Report
from benchmarks.service import Service

GENERATOR = (sys.executable, "-m", "benchmarks.load")
_OVER_TIME = 90.0  # seconds beyond the load and the hanging: for the first answer and the last counts
_LAST_WORDS = 30.0
_KEY = "HEADGATE_PEER_KEY"


class Measured(NamedTuple):
    """What came of a point: a report, unless the generator could make none. `problems` in sentences."""

    report: Report | None
    problems: list[str]


def measure(
    point: Point,
    gateway: Gateway,
    json_file: Path,
    interrupt: Interrupt,
    *,
    check: bool = False,
    generator: Sequence[str] = GENERATOR,
) -> Measured:
    """Raises CannotStart and, before any load was sent, Interrupted; afterwards the report is of what there was."""
    service = point.planned.scenario.backend or Service()
    with tempfile.TemporaryDirectory(prefix="headgate-peers-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        with simulated(service, folder, interrupt.tick) as backend:
            running = gateway.start(backend, folder, interrupt.tick)
            try:
                json_file.unlink(missing_ok=True)
                command = [*generator, *_arguments(point, running, backend, json_file), *(["--check"] if check else [])]
                problems, said = _generate(command, running, _limit(point), folder, interrupt)
                return _measured(json_file, problems, said)
            finally:
                running.stop()


def _arguments(point: Point, running: Running, backend: Backend, json_file: Path) -> list[str]:
    given = {
        "--phase": point.phase,
        "--target": running.base_url,
        "--model": running.model,
        "--backend": backend.url,
        "--name": point.gateway,
        "--json": str(json_file),
    }
    if running.api_key is not None:
        given["--api-key"] = f"env:{_KEY}"
    if point.planned.duration is not None:
        given["--duration"] = f"{point.planned.duration:g}"
    if running.server is not None:  # else the generator looks who listens
        given["--pid"] = str(running.server.pid)
    return [point.planned.argument, "--quiet", *(text for pair in given.items() for text in pair)]


def _limit(point: Point) -> float:
    return point.seconds + point.planned.scenario.hang_seconds + _OVER_TIME


def _generate(
    command: Sequence[str], running: Running, limit: float, folder: Path, interrupt: Interrupt
) -> tuple[list[str], str]:
    """Run the generator to its end, or end it. What went wrong, and its last lines."""
    environment = dict(os.environ) | ({_KEY: running.api_key} if running.api_key is not None else {})
    server = Server(command, environment, folder / "load.log")
    problems = []
    deadline = time.monotonic() + limit
    try:
        while server.status is None:
            if time.monotonic() > deadline:
                problems.append(f"It was ended after {limit:.0f} s, its time limit.")
                _finish(server, interrupt)
                break
            interrupt.tick()
    except Interrupted:
        _finish(server, interrupt)
    finally:
        server.stop()
    death = running.death()
    if death is not None:
        problems.append(f"The gateway ended during the phase: {death}")
    if server.status not in (0, 130):
        problems.append(f"The generator ended with status {server.status}: {server.last_lines(4)}")
    return problems, server.last_lines()


def _finish(server: Server, interrupt: Interrupt) -> None:
    """Let the generator write its report; a second Ctrl-C does not wait for that."""
    server.interrupt()
    before, deadline = max(interrupt.count, 1), time.monotonic() + _LAST_WORDS
    while server.status is None and time.monotonic() < deadline and interrupt.count <= before:
        time.sleep(TICK)
    if server.status is None:
        server.kill()


def _measured(json_file: Path, problems: list[str], said: str) -> Measured:
    try:
        report = read(json_file)
    except CannotRead as error:
        return Measured(None, problems or [f"{error}; the generator's last lines:\n{said}"])
    if problems:
        report.notes += problems
        write(report, json_file)
    return Measured(report, problems)
