"""What a relayed request takes longer than one whose session lives where it was accepted."""

import asyncio
import statistics
import time

import uvloop

from benchmarks.paired import body, percentile
from benchmarks.servers import Server, headgate
from benchmarks.shards.clients import Crowd
from benchmarks.shards.daemon import ECHO, Desk
from benchmarks.shards.rows import Row

LINES = 32
_FEWEST = 100  # requests of a kind, for a percentile of them


def of_the_relay(*, trials: int, seconds: float) -> list[Row]:
    """Both kinds in the same load, at half of what this machine can do with two shards."""
    with headgate(ECHO, shards=2) as server:
        p50, p99 = uvloop.run(_trials(server, trials, seconds))
    return [
        Row("latency that the relay adds at half load, p50", _median(p50), 0.4, "ms", tuple(p50)),
        Row("latency that the relay adds at half load, p99", _median(p99), 3.0, "ms", tuple(p99)),
    ]


def _median(values: list[float]) -> float | None:
    return statistics.median(values) if values else None


async def _trials(server: Server, trials: int, seconds: float) -> tuple[list[float], list[float]]:
    p50, p99 = [], []
    async with Desk(server) as desk:
        for number in range(trials):
            crowd = Crowd(server.port, LINES, body("json", stream=False), seed=number)
            await crowd.meet(await desk.shards())
            rate = await _highest_rate(crowd, seconds / 4)
            crowd.books.clear()
            await crowd.ask_at(rate / 2, seconds)
            await crowd.aclose()
            known = [done for done in crowd.books if done.acceptor is not None]
            assert all(done.served for done in crowd.books), "not every request was served"
            relayed = [done.seconds * 1000 for done in known if done.relayed]
            direct = [done.seconds * 1000 for done in known if not done.relayed]
            if min(len(relayed), len(direct)) >= _FEWEST:
                p50.append(percentile(relayed, 0.5) - percentile(direct, 0.5))
                p99.append(percentile(relayed, 0.99) - percentile(direct, 0.99))
    return p50, p99


async def _highest_rate(crowd: Crowd, seconds: float) -> float:
    """Requests a second where each line asks again as soon as it has its answer."""
    asyncio.get_running_loop().call_later(seconds, crowd.stop)
    began = time.monotonic()
    await crowd.all_ask()
    return len(crowd.books) / (time.monotonic() - began)
