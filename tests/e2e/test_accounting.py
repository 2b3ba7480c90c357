"""A short load of mixed fates: the client's count, the metrics and the log agree, and nothing hangs (guarantees 1 and
2)."""

import asyncio
import random
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from benchmarks.servers import resident_mb
from tests.process.daemon import Daemon, chat, configured, serving

CONFIG = """
[logging]
refusals_per_s = 1_000_000

[stages.inference]
concurrency = 8
capacity = 32

[[workers]]
name = "echo"
kind = "echo"
tokens = 40
failure_rate = 0.1
retries = 0
seed = 3

[[workers]]
name = "slow"
kind = "echo"
first_token_ms = 20
tokens_per_s = 400.0
tokens = 10

[[routes]]
name = "echo"
worker = "echo"

[[routes]]
name = "slow"
worker = "slow"
deadline_ms = 400
"""
REQUESTS = 1500
AT_ONCE = 120
ANSWER_LIMIT = 10.0
OUTCOME = {200: "completed", 400: "rejected", 404: "rejected", 502: "failed", 503: "shed", 504: "expired"}


class Load:
    """Sends requests of every kind and notes how each ended, as its client saw it."""

    def __init__(self, address: str) -> None:
        self.seen: Counter[str] = Counter()
        self._url = f"{address}/v1/chat/completions"
        self._dice = random.Random(11)

    async def run(self) -> None:
        left = iter(range(REQUESTS))

        async def work(session: aiohttp.ClientSession) -> None:
            for number in left:
                await self._one(session, number)

        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await asyncio.gather(*(work(session) for _ in range(AT_ONCE)))

    async def _one(self, session: aiohttp.ClientSession, number: int) -> None:
        leaves = number % 23 == 0
        limit = self._dice.uniform(0.001, 0.03) if leaves else ANSWER_LIMIT
        try:
            async with asyncio.timeout(limit):
                self.seen[await self._ask(session, number)] += 1
        except TimeoutError:
            assert leaves, "a request got no answer"
            self.seen["left"] += 1

    async def _ask(self, session: aiohttp.ClientSession, number: int) -> str:
        if number % 29 == 0:
            request = session.post(self._url, data=b'{"model": "echo", "messages": [{]}')
        elif number % 31 == 0:
            request = session.post(self._url, json=chat(model="nope"))
        else:
            body = chat(
                "word " * self._dice.randrange(1, 50), stream=number % 2 == 0, model=("echo", "slow")[number % 3 == 0]
            )
            request = session.post(self._url, json=body)
        async with request as response:
            text = await response.text()
        if response.status == 503:
            assert response.headers["Retry-After"]
            assert response.headers["X-Headgate-Shed-Stage"]
        if response.status == 200 and text.startswith("data:"):
            if "deadline_exceeded" in text:
                return "expired"
            assert text.endswith("data: [DONE]\n\n")
        return OUTCOME[response.status]


async def outcomes(daemon: Daemon) -> tuple[float, Counter[str]]:
    """What /metrics says: offered, and requests by outcome."""
    samples = await daemon.metrics()
    offered = sum(v for (name, _), v in samples.items() if name == "headgate_requests_offered_total")
    by_outcome: Counter[str] = Counter()
    for (name, labels), value in samples.items():
        if name == "headgate_requests_total":
            by_outcome[dict(labels)["outcome"]] += int(value)
    return offered, by_outcome


async def all_ended(daemon: Daemon) -> bool:
    samples = await daemon.metrics()
    return all(not v for (name, _), v in samples.items() if name in ("headgate_requests_open", "headgate_connections"))


@pytest.mark.slow
async def test_under_load_the_counts_of_client_metrics_and_log_agree(tmp_path: Path):
    async with serving(configured(tmp_path, CONFIG)) as daemon:
        shard = (await daemon.pids())["shard 0"]
        await Load(daemon.address).run()  # warms every path
        before = resident_mb(shard)
        _, first = await outcomes(daemon)
        load = Load(daemon.address)
        await load.run()
        async with asyncio.timeout(5):
            while not await all_ended(daemon):
                await asyncio.sleep(0.05)
        offered, both = await outcomes(daemon)
        counted = both - first
        assert offered == sum(both.values())
        # A client may have left before its request was on its way.
        assert REQUESTS - load.seen["left"] <= sum(counted.values()) <= REQUESTS
        certain = {outcome: load.seen[outcome] for outcome in ("shed", "rejected", "expired", "failed")}
        # A client that left matches `cancelled`, or whatever its request had just ended as.
        for outcome, count in certain.items():
            assert count <= counted[outcome] <= count + load.seen["left"], (outcome, counted, load.seen)
        assert load.seen["completed"] <= counted["completed"] <= load.seen["completed"] + load.seen["left"]
        assert counted["cancelled"] <= load.seen["left"]
        assert {"completed", "shed", "rejected", "failed"} <= {o for o, n in counted.items() if n}
        assert resident_mb(shard) < before + 15
        while len(daemon.logged("request")) < offered:
            await asyncio.sleep(0.05)
        logged = Counter(line["outcome"] for line in daemon.logged("request"))
        assert logged == both
