"""The simulated backend in a process of its own, for tests."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.process.daemon import ROOT


@asynccontextmanager
async def simulated(**options: object) -> AsyncIterator[list[str]]:
    """`python -m benchmarks.backend` on free ports; the URLs of its replicas."""
    async with started(**options) as (_, urls):
        yield urls


@asynccontextmanager
async def started(**options: object) -> AsyncIterator[tuple[asyncio.subprocess.Process, list[str]]]:
    """The same with its process, for who wants to end it."""
    given = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value).lower())]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.backend", "--port", "0", *given), cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        yield process, json.loads(await process.stdout.readline())["urls"]
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 10)
