"""The head gate of a real daemon: what it refuses is counted once and for all, and can be turned off."""

import asyncio
import json
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from tests.process.daemon import ROOT, Daemon, chat, configured, serving

CONFIG = """
[admission]
head_gate = {head_gate}

[[workers]]
name = "held"
kind = "echo"
first_token_ms = 3_600_000
concurrency = 1

[[workers]]
name = "free"
kind = "echo"

[[routes]]
name = "held"
worker = "held"
wait_budget_ms = 1

[[routes]]
name = "free"
worker = "free"
"""
CLIENTS = 16
REQUESTS = 2000
NAMED = {"X-Headgate-Route": "held"}
COUNTED = {"completed", "shed", "rejected", "expired", "cancelled", "failed"}


@asynccontextmanager
async def overloaded(folder: Path, *, head_gate: str) -> AsyncIterator[tuple[Daemon, aiohttp.ClientSession, str]]:
    """A daemon whose route `held` has its only place taken."""
    connector = aiohttp.TCPConnector(limit=0)
    async with (
        serving(configured(folder, CONFIG.format(head_gate=head_gate))) as daemon,
        aiohttp.ClientSession(connector=connector) as session,
    ):
        url = f"{daemon.address}/v1/chat/completions"
        holding = asyncio.create_task(session.post(url, json=chat(model="held")))
        async with asyncio.timeout(10):
            while not (await daemon.metrics()).get(("headgate_worker_inflight", frozenset({("worker", "held")})), 0):
                await asyncio.sleep(0.05)
        yield daemon, session, url
        holding.cancel()
        await asyncio.gather(holding, return_exceptions=True)


async def load(session: aiohttp.ClientSession, url: str) -> Counter[int]:
    """Two in three requests name the route that has no place."""
    left = iter(range(REQUESTS))
    seen: Counter[int] = Counter()

    async def client() -> None:
        for number in left:
            busy = number % 3 > 0
            body = chat(model="held" if busy else "free")
            async with session.post(url, json=body, headers=NAMED if busy else {}) as answer:
                await answer.read()
            seen[answer.status] += 1

    async with asyncio.timeout(30):
        await asyncio.gather(*(client() for _ in range(CLIENTS)))
    return seen


async def counts(daemon: Daemon) -> tuple[Counter[str], Counter[str], int]:
    """Offered by route, ended by outcome, and shed before a route was known; once nothing is open."""
    offered: Counter[str] = Counter()
    outcomes: Counter[str] = Counter()
    gated = 0
    for (name, labels), value in (await daemon.metrics()).items():
        of = dict(labels)
        if name == "headgate_requests_offered_total":
            offered[of["route"]] += int(value)
        elif name == "headgate_requests_total":
            outcomes[of["outcome"]] += int(value)
            gated += int(value) if (of["route"], of["outcome"]) == ("-", "shed") else 0
    return offered, outcomes, gated


async def settled(daemon: Daemon) -> tuple[Counter[str], Counter[str], int]:
    async with asyncio.timeout(10):
        while True:
            offered, outcomes, gated = await counts(daemon)
            if offered.total() == outcomes.total():
                return offered, outcomes, gated
            await asyncio.sleep(0.05)


@pytest.mark.slow
async def test_every_refusal_is_offered_and_shed(tmp_path: Path):
    async with overloaded(tmp_path, head_gate="true") as (daemon, session, url):
        async with asyncio.timeout(10):
            while (await load_one(session, url)) != 503:
                await asyncio.sleep(0.01)
        before = (await counts(daemon))[2]
        seen = await load(session, url)
        assert set(seen) == {200, 503}
        assert seen[503] == sum(number % 3 > 0 for number in range(REQUESTS))
        gated = (await counts(daemon))[2] - before
        assert 0.9 * seen[503] < gated <= seen[503]
        await session.close()
        offered, outcomes, gated = await settled(daemon)
        assert set(outcomes) <= COUNTED
        assert offered["-"] == gated
        assert outcomes["completed"] == seen[200]
        assert outcomes["shed"] >= seen[503]


@pytest.mark.slow
async def test_without_it_every_request_is_read(tmp_path: Path):
    async with overloaded(tmp_path, head_gate="false") as (daemon, session, url):
        async with asyncio.timeout(10):
            while (await load_one(session, url)) != 503:
                await asyncio.sleep(0.01)
        seen = await load(session, url)
        assert seen[503] == sum(number % 3 > 0 for number in range(REQUESTS))
        await session.close()
        offered, _, gated = await settled(daemon)
        assert gated == 0
        assert offered["held"] > seen[503]


async def load_one(session: aiohttp.ClientSession, url: str) -> int:
    """The status of one request for the route without a place; 0 where it was let in to wait, and given up."""
    try:
        async with session.post(
            url, json=chat(model="held"), headers=NAMED, timeout=aiohttp.ClientTimeout(0.5)
        ) as answer:
            await answer.read()
            return answer.status
    except TimeoutError:
        return 0


@pytest.mark.slow
@pytest.mark.timeout(120)
async def test_the_figures_of_refusals_are_taken(tmp_path: Path):
    report = tmp_path / "refusals.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "benchmarks.refusals", "--quick", "--json", str(report)),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    taken = json.loads(report.read_text())
    assert len(taken["figures"]) == 4
    assert all(figure["value"] > 0 for figure in taken["figures"])
    median = {cost["name"]: cost["median"] for cost in taken["costs"]}
    assert 0 < median["refused at the head gate"] < median["refused on the ordinary path"]
