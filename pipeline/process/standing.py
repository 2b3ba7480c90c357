"""How the daemon's processes are, for the metrics and for people."""

import os
import time
from collections.abc import Iterator

from pipeline.observe.exposition import ProcessFacts
from pipeline.process.admin_types import ProcessStatus
from pipeline.process.counters import Slot, State
from pipeline.process.crew import Crew
from pipeline.process.keeper import Keeper

_REASON = 160  # characters


def facts(crew: Crew, started: float) -> list[ProcessFacts]:
    """A shard is one process here, the one that does its work if there is one."""
    found = [ProcessFacts("supervisor", None, os.getpid(), started, ready=True, restarts=0)]
    for keeper in crew.keepers:
        slot = _slot(keeper)
        pid, born = (slot.pid, slot.started) if slot is not None else (0, 0.0)
        ready = keeper.state is State.READY
        found.append(ProcessFacts(keeper.name, keeper.shard, pid, born, ready=ready, restarts=keeper.restarts))
    return found


def statuses(crew: Crew, started: float) -> list[ProcessStatus]:
    """Two of a shard that is being replaced: the one that does its work first."""
    now = time.time()
    found = [ProcessStatus("supervisor", State.READY.label, os.getpid(), 0, now - started)]
    for keeper in crew.keepers:
        found += _statuses(keeper)
    return found


def _statuses(keeper: Keeper) -> Iterator[ProcessStatus]:
    processes = sorted(keeper.processes, key=lambda process: process is not keeper.current)
    for process in processes:
        slot = process.slot
        yield ProcessStatus(
            keeper.name,
            slot.state.label,
            slot.pid,
            keeper.restarts,
            time.time() - slot.started,
            keeper.shard,
            slot.load,
            max(0.0, time.monotonic() - slot.pulse) if slot.pulse else None,
        )
    if not processes:
        reason = _short(keeper.reason) if keeper.state is State.GIVEN_UP else ""
        yield ProcessStatus(keeper.name, keeper.state.label, 0, keeper.restarts, 0.0, keeper.shard, reason=reason)


def _short(reason: str) -> str:
    line = reason.partition("\n")[0]
    return line if len(line) <= _REASON else line[: _REASON - 1] + "…"


def _slot(keeper: Keeper) -> Slot | None:
    if keeper.current is not None:
        return keeper.current.slot
    return next((process.slot for process in keeper.processes), None)
