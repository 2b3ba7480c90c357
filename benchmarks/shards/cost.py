"""CPU of two shards beside one, and of shards while their metrics are rendered."""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from random import Random

import uvloop

from benchmarks.load.answer import Answer, End
from benchmarks.load.processes import cpu_seconds
from benchmarks.load.wire import Wire
from benchmarks.paired import CONNECTIONS, body
from benchmarks.servers import Server, headgate
from benchmarks.shards.clients import SESSIONS
from benchmarks.shards.daemon import ECHO, SHARD, Desk
from benchmarks.shards.rows import Row

SCRAPES = 5.0  # a second
_MOST_RENDERING = 1.03  # what "nothing" is: the trials of one and the same daemon differ by as much


def of_two_shards(*, pairs: int, scale: float) -> list[Row]:
    """CPU per request of two shards ÷ one, with a random session in each request, so that half are relayed."""
    rows = []
    with headgate(ECHO, shards=1) as one, headgate(ECHO, shards=2) as two:
        for name, route, stream, count, most in (
            ("CPU of two shards ÷ one, not streamed", "json", False, 8000, 1.30),
            ("CPU of two shards ÷ one, 64-token stream", "tick", True, 800, 1.35),
        ):
            ratios = []
            for number in range(pairs):
                order = [one, two] if number % 2 else [two, one]
                cost = {s: cpu_per_request(s, route, stream=stream, count=max(int(count * scale), 100)) for s in order}
                ratios.append(cost[two] / cost[one])
            rows.append(Row(name, statistics.median(ratios), most, "x", tuple(ratios)))
    return rows


def of_rendering(*, pairs: int, scale: float) -> list[Row]:
    """The same of eight shards, with and without somebody who asks the supervisor for `/metrics` again and again."""
    costs: dict[bool, list[float]] = {True: [], False: []}
    count, rendered = max(int(8000 * scale), 100), 0
    with headgate(ECHO, shards=8) as server:
        for number in range(pairs):
            for scraped in (True, False) if number % 2 else (False, True):
                cost, scrapes = uvloop.run(_beside_scrapes(server, count, scraped=scraped))
                costs[scraped].append(cost)
                rendered += scrapes
    ratios = tuple(with_ / without for with_, without in zip(costs[True], costs[False], strict=True))
    value = statistics.median(ratios) if rendered else None
    name = "CPU of a request while /metrics is rendered ÷ without, 8 shards"
    return [Row(name, value, _MOST_RENDERING, "x", ratios)]


def cpu_per_request(server: Server, route: str, *, stream: bool, count: int) -> float:
    """CPU microseconds of all of the daemon's shards for one request, sessions at random, connections kept."""

    async def measured() -> float:
        await closed_loop(server.port, route, stream=stream, count=count // 5)  # warm
        return await _cost(server, route, stream=stream, count=count)

    return uvloop.run(measured())


async def _beside_scrapes(server: Server, count: int, *, scraped: bool) -> tuple[float, int]:
    """The cost of a request, and how often metrics were rendered meanwhile."""
    await closed_loop(server.port, "json", stream=False, count=count // 5)
    async with _scraping(server) if scraped else _nothing() as scrapes:
        cost = await _cost(server, "json", stream=False, count=count)
        return cost, scrapes()


async def _cost(server: Server, route: str, *, stream: bool, count: int) -> float:
    pids = server.roles(SHARD)
    before = sum(cpu_seconds(pid) for pid in pids)
    answers = await closed_loop(server.port, route, stream=stream, count=count)
    after = sum(cpu_seconds(pid) for pid in pids)
    assert all(answer.end is End.WHOLE for answer in answers), "not every request was served"
    return (after - before) / len(answers) * 1e6


async def closed_loop(port: int, route: str, *, stream: bool, count: int) -> list[Answer]:
    """`count` requests, `CONNECTIONS` at a time, each of a session that is drawn for it."""
    wire, payload, random = Wire(f"http://127.0.0.1:{port}/v1"), body(route, stream=stream), Random(count)
    left, answers = count, []

    async def work() -> None:
        nonlocal left
        while left > 0:
            left -= 1
            session = b"X-Session-Id: s-%d\r\n" % random.randrange(SESSIONS)
            answers.append(
                await wire.ask(payload, headers=session, stream=stream, deadline=None, leave=None, leave_at=None)
            )

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))
    await wire.aclose()
    return answers


@asynccontextmanager
async def _scraping(server: Server) -> AsyncIterator[Callable[[], int]]:
    count = 0

    async def scrape(desk: Desk) -> None:
        nonlocal count
        due = time.monotonic()
        while True:
            assert await desk.metrics()
            count += 1
            due += 1 / SCRAPES
            await asyncio.sleep(max(due - time.monotonic(), 0))

    async with Desk(server) as desk:
        task = asyncio.ensure_future(scrape(desk))
        try:
            yield lambda: count
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


@asynccontextmanager
async def _nothing() -> AsyncIterator[Callable[[], int]]:
    yield lambda: 0
