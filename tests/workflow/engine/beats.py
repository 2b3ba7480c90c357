"""How long the event loop stood."""

import asyncio
import contextlib
import gc
import time
from collections.abc import AsyncIterator


class Beats:
    def __init__(self) -> None:
        self.longest = 0.0
        self.count = 0


@contextlib.asynccontextmanager
async def beats() -> AsyncIterator[Beats]:
    """Turns the loop all the time; `longest` is the longest that one turn took, in seconds of this thread's own."""
    seen = Beats()
    gc.collect()
    gc.freeze()  # what other tests have left is not gone through again and again

    async def beat() -> None:
        while True:
            since = time.thread_time()
            await asyncio.sleep(0)
            seen.longest = max(seen.longest, time.thread_time() - since)
            seen.count += 1

    task = asyncio.create_task(beat())
    try:
        yield seen
    finally:
        gc.unfreeze()
        task.cancel()
        await asyncio.wait({task})
