"""The supervisor's eye on its children's event loops: a process whose loop does not turn is ended, and says why."""

import asyncio
import signal
import time
from collections.abc import Callable, Iterable

import structlog

from pipeline.process.process import Process
from pipeline.process.watch import PulseWatch

INTERVAL = 0.1  # seconds
_FOR_ITS_STACK = 0.3  # seconds that a blocked process gets for writing down what it is doing

log = structlog.get_logger()


async def watch(processes: Callable[[], Iterable[Process]], limit: float) -> None:
    """Until cancelled. Of those that are ready and were not told to end: they have a limit for that."""
    pulses: PulseWatch[Process] = PulseWatch(limit, INTERVAL)
    ending: set[asyncio.Task[None]] = set()
    while True:
        await asyncio.sleep(INTERVAL)
        watched = {each: each.slot.pulse for each in processes() if each.ready and not each.retiring}
        for process, seconds in pulses.look(watched, time.monotonic()).items():
            log.error("process_blocked", name=process.name, pid=process.pid, seconds=round(seconds, 1))
            task = asyncio.create_task(_end(process, seconds))
            ending.add(task)
            task.add_done_callback(ending.discard)


async def _end(process: Process, seconds: float) -> None:
    """Its stack comes on its standard error, as `faulthandler` writes it."""
    process.signal(signal.SIGUSR1)
    await asyncio.sleep(_FOR_ITS_STACK)
    process.kill(f"its event loop had not turned for {seconds:.1f} s")
