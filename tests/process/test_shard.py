"""The parts of a shard that a whole daemon cannot be made to show."""

import asyncio
import time
from types import SimpleNamespace

import pytest

from pipeline.core.outcomes import Place, Reason
from pipeline.core.ports import Readiness
from pipeline.edge.app import EdgeServer
from pipeline.observe.metrics import ShardGauges
from pipeline.process import demand
from pipeline.process.shard import _ask_health, _until_stopped
from pipeline.process.ticker import Ticker
from tests.flows import config, running, submit


class Alone:
    """A process without a supervisor."""

    def readiness(self) -> Readiness:
        return Readiness(True, {})

    async def metrics(self) -> bytes:
        raise ConnectionError


async def test_shows_how_it_is_at_every_tick(writer, relay):
    conf = config(
        workers=[{"name": "echo", "kind": "echo", "first_token_ms": 60_000}], stages={"inference": {"concurrency": 1}}
    )
    layout = demand.layout(conf)
    cells = [0] * layout.size
    async with running(conf) as (pipeline, _):
        edge = EdgeServer(pipeline.ingress, conf.server, Alone())
        ticker = Ticker(pipeline, edge, relay, ShardGauges(layout, cells), writer)
        tickets = [submit(pipeline, request_id=f"r{n}")[0] for n in range(3)]
        async with asyncio.timeout(5):
            while pipeline.flow.inference.active < 1 or len(pipeline.flow.inference.inbox) < 2:
                await asyncio.sleep(0.001)
        writer.dropped = 4
        ticker.tick()
        inference = layout.stages[Place.INFERENCE]
        assert cells[inference.depth] == 2
        assert cells[inference.capacity] == 1024
        assert cells[inference.active] == 1
        assert cells[inference.offered] == 3
        assert cells[inference.taken] == 1
        assert cells[layout.workers["echo"].inflight] == 1
        assert cells[layout.lines_dropped] == 4
        for ticket in tickets:
            pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
        await asyncio.sleep(0.01)
        ticker.tick()
        assert cells[inference.depth] == cells[layout.workers["echo"].inflight] == 0
        assert cells[layout.lines_dropped] == 4


async def test_a_blocked_loop_shows_as_lag(writer, relay):

    conf = config()
    layout = demand.layout(conf)
    cells = [0] * layout.size
    async with running(conf) as (pipeline, _):
        edge = EdgeServer(pipeline.ingress, conf.server, Alone())
        ticker = Ticker(pipeline, edge, relay, ShardGauges(layout, cells), writer)
        ticking = asyncio.create_task(ticker.run())
        await asyncio.sleep(0.02)
        time.sleep(0.3)  # whatever blocks: the timer of 0.1 s is 0.2 s late
        await asyncio.sleep(0.02)
        ticking.cancel()
        assert cells[layout.lag.total] > 150_000_000


async def test_does_not_go_on_when_a_stage_has_ended(writer):
    async with running(config()) as (pipeline, _):
        child = SimpleNamespace(stopping=asyncio.Event())
        ticking = asyncio.create_task(asyncio.sleep(60))
        waiting = asyncio.create_task(_until_stopped(child, pipeline, ticking))
        await asyncio.sleep(0)
        pipeline.flow.failed.set_exception(RuntimeError("the run loop of stage rag ended"))
        with pytest.raises(RuntimeError, match="stage rag"):
            await asyncio.wait_for(waiting, 1)
        ticking.cancel()


async def test_does_not_go_on_without_its_ticker(writer):
    async def broken() -> None:
        raise ZeroDivisionError

    async with running(config()) as (pipeline, _):
        child = SimpleNamespace(stopping=asyncio.Event())
        with pytest.raises(ZeroDivisionError):
            await asyncio.wait_for(_until_stopped(child, pipeline, asyncio.create_task(broken())), 1)


async def test_stops_when_it_is_told(writer):
    async with running(config()) as (pipeline, _):
        child = SimpleNamespace(stopping=asyncio.Event())
        child.stopping.set()
        ticking = asyncio.create_task(asyncio.sleep(60))
        await asyncio.wait_for(_until_stopped(child, pipeline, ticking), 1)
        ticking.cancel()


async def test_warns_of_a_worker_that_cannot_be_called_and_is_not_looked_at_again():
    gone = {"kind": "openai", "base_url": "http://127.0.0.1:9/v1"}
    workers = [
        gone | {"name": "gone", "health_interval_ms": 0},
        gone | {"name": "watched"},
        {"name": "echo", "kind": "echo"},
    ]
    said: list[tuple[str, str]] = []
    log = SimpleNamespace(warning=lambda event, **fields: said.append((event, fields["worker"])))
    async with running(config(workers=workers)) as (pipeline, _):
        await _ask_health(SimpleNamespace(logs=SimpleNamespace(log=log)), pipeline)
    assert said == [("worker_unhealthy", "gone")]
