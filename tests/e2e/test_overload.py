"""Far more load than there is capacity for: everything stays bounded and every caller is told (guarantees 2 and 3).

How much of the capacity is kept as goodput is asked by the load test (`python -m benchmarks.smoke`).
"""

import asyncio
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from benchmarks.servers import resident_mb
from tests.process.daemon import chat, configured, serving

pytestmark = pytest.mark.alone

CONFIG = """
[stages.inference]
concurrency = 8
capacity = 64

[[workers]]
name = "echo"
kind = "echo"
first_token_ms = 20

[[routes]]
name = "echo"
worker = "echo"
"""
CLIENTS = 100
SECONDS = 8.0
SHED = {"queue_full", "wait_budget", "standing_queue", "overdue", "displaced"}


@pytest.mark.slow
async def test_memory_stays_flat_and_every_caller_is_told_at_once(tmp_path: Path):
    async with serving(configured(tmp_path, CONFIG)) as daemon:
        shard = (await daemon.pids())["shard 0"]
        url = f"{daemon.address}/v1/chat/completions"
        statuses: Counter[int] = Counter()
        refused: list[float] = []
        until = time.monotonic() + SECONDS
        memory: list[float] = []

        async def client(session: aiohttp.ClientSession, number: int) -> None:
            while time.monotonic() < until:
                began = time.monotonic()
                async with session.post(url, json=chat("word " * 200, stream=number % 2 == 0)) as response:
                    await response.read()
                statuses[response.status] += 1
                if response.status == 503:
                    refused.append(time.monotonic() - began)
                    assert float(response.headers["Retry-After"]) >= 1
                    assert response.headers["X-Headgate-Shed-Stage"] in {"ingress", "inference"}
                    assert response.headers["X-Headgate-Shed-Reason"] in SHED

        async def watch() -> None:
            while time.monotonic() < until:
                await asyncio.sleep(0.5)
                memory.append(resident_mb(shard))

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            async with asyncio.timeout(SECONDS + 20):  # nothing hangs
                await asyncio.gather(watch(), *(client(session, number) for number in range(CLIENTS)))
        assert set(statuses) == {200, 503}
        assert statuses[503] > 2 * statuses[200] > 0
        assert sorted(refused)[len(refused) // 2] < 1.0
        warm = memory[7]  # by then most connections have had an answer, and keep what that takes
        assert max(memory[7:]) < warm * 1.05 + 2, memory
        samples = await daemon.metrics()
        outcomes = {
            dict(labels)["outcome"] for (name, labels), v in samples.items() if name == "headgate_requests_total" and v
        }
        assert outcomes == {"completed", "shed"}
