"""One trial: a fresh backend, a fresh Headgate before it, the load, and what is known afterwards."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import psutil

from benchmarks.overload.store import SlowStore
from benchmarks.overload.trials import Trial, configuration, point
from benchmarks.peers.gateway import Backend, CannotPrepare, CannotStart, Running
from benchmarks.peers.headgate import Headgate
from benchmarks.peers.interrupt import Interrupt, Tick
from benchmarks.peers.point import GENERATOR, measure
from benchmarks.report.model import Report

_SHARD = "pipeline.process.shard"
_SEARCH = 1.0  # seconds, longer than the clients of the trial wait


class Outcome(NamedTuple):
    """What came of a trial: a report, unless there is none. `shards` are the pids of the processes that serve,
    `searches` what the slow store was asked, `cut` how many of these were given up. `problems` in sentences."""

    report: Report | None
    problems: list[str]
    shards: list[int]
    searches: int = 0
    cut: int = 0


class _Watched(Headgate):
    """Notes which of its processes serve."""

    def __init__(self, text: str, shards: int) -> None:
        super().__init__(text=text, shards=shards)
        self.shards: list[int] = []

    def start(self, backend: Backend, folder: Path, tick: Tick) -> Running:
        running = super().start(backend, folder, tick)
        self.shards = [pid for pid in running.pids if _SHARD in _command(pid)]
        return running


def _command(pid: int) -> list[str]:
    try:
        return psutil.Process(pid).cmdline()
    except psutil.Error:
        return []


def run(
    trial: Trial,
    seconds: float,
    json_file: Path,
    interrupt: Interrupt,
    *,
    generator: Sequence[str] = GENERATOR,
    shards: int = 1,
) -> Outcome:
    """`seconds` in place of the usual ones, `shards` processes that serve. Raises Interrupted before load was sent, and
    ConfigError."""
    what = point(trial, "headgate", seconds)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        store = stack.enter_context(SlowStore(_SEARCH)) if trial.slow_store else None
        text = configuration(trial, what.planned.scenario, store.url if store else None)
        gateway = _Watched(text, shards)
        try:
            gateway.prepare(interrupt.tick)
            measured = measure(what, gateway, json_file, interrupt, generator=generator)
        except (CannotPrepare, CannotStart) as error:
            return Outcome(None, [f"It could not be measured: {error}"], [])
        if store is None:
            return Outcome(measured.report, measured.problems, gateway.shards)
        return Outcome(measured.report, measured.problems, gateway.shards, store.searches, store.cut)
