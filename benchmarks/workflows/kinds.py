"""Step types of the measurements."""

import asyncio
import os
import time
from typing import Any

from pipeline.workflow.ports import Kind, Result, StepContext

HELD: list[str] = []  # runs in which a step of the type `hold` has begun
STAMPS: list[float] = []  # seconds between the end of a step and the beginning of the one that needs it


class _Stamp:
    """Its value: when it ended. With `before`, the value of the step before it, books how long ago that was."""

    async def __call__(self, step: Any, context: StepContext) -> Result:  # noqa: ARG002 - the port's signature
        before = context.value("options").get("before")
        if before is not None:
            STAMPS.append(time.perf_counter() - before)
        return Result(time.perf_counter())


class _Hold:
    """Does not end, unless HEADGATE_BENCH_HOLD says for how many seconds."""

    async def __call__(self, step: Any, context: StepContext) -> Result:  # noqa: ARG002 - the port's signature
        HELD.append(context.run_id)
        await asyncio.sleep(float(os.environ.get("HEADGATE_BENCH_HOLD", "3600")))
        return Result(None)


KINDS = {"stamp": Kind(_Stamp()), "hold": Kind(_Hold())}
