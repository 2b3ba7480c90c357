"""What a tick shows of the workers' lanes."""

import asyncio
import time

from pipeline.core.outcomes import Priority, Reason
from pipeline.edge.app import EdgeServer
from pipeline.observe.metrics import ShardGauges
from pipeline.process import demand
from pipeline.process.ticker import Ticker
from tests.flows import config, running, submit
from tests.process.test_shard import Alone


async def test_shows_how_each_worker_is_limited(writer, relay):
    workers = [
        {"name": "slow", "kind": "echo", "first_token_ms": 60_000, "concurrency": 2},
        {"name": "spare", "kind": "echo"},  # no route uses it
    ]
    conf = config(workers=workers, routes=[{"name": "echo", "worker": "slow"}])
    layout = demand.layout(conf)
    cells = [0] * layout.size
    async with running(conf) as (pipeline, _):
        edge = EdgeServer(pipeline.ingress, conf.server, Alone())
        ticker = Ticker(pipeline, edge, relay, ShardGauges(layout, cells), writer)
        tickets = [submit(pipeline, request_id=f"r{n}")[0] for n in range(5)]
        lane = pipeline.flow.lanes["slow"]
        async with asyncio.timeout(5):
            while lane.inflight < 2:
                await asyncio.sleep(0.001)
        lane.push_back(None, 2, time.monotonic())
        ticker.tick()
        w = layout.workers["slow"]
        assert (cells[w.limit], cells[w.inflight], cells[w.pushed_back], cells[w.standing]) == (2, 2, 1, 0)
        assert cells[w.waiting : w.waiting + len(Priority)] == [0, 0, 3, 0]
        for ticket in tickets:
            pipeline.ingress.cancel(ticket, Reason.CLIENT_GONE)
        async with asyncio.timeout(5):
            while lane.inflight:
                await asyncio.sleep(0.001)
        ticker.tick()
        assert (cells[w.limit], cells[w.inflight], cells[w.pushed_back]) == (2, 0, 1)
        assert not any(cells[w.waiting : w.waiting + len(Priority)])
