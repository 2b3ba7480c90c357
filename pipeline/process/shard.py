"""A shard: one event loop with its pipeline and its edge. Started by the supervisor, never by hand."""

import asyncio
import gc
import socket
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pipeline.edge.app import EdgeServer
from pipeline.observe.metrics import ShardGauges, ShardMetrics
from pipeline.observe.observers import Observers
from pipeline.process import demand
from pipeline.process.child import Child, run
from pipeline.process.counters import SharedMemory
from pipeline.process.operations import ShardOperations
from pipeline.process.prepare import SOCKET_NAME
from pipeline.process.ticker import Ticker
from pipeline.wiring import Pipeline, build

# Objects made and not yet freed before the collector looks for cycles. The data path makes none: most of what it would
# find in the default 700 are requests under way, and looking at them took an eighth of a request's CPU.
_GC_THRESHOLD = 25_000
_ORPHAN_LIMIT = 1.0  # seconds for what is in flight when nobody is left to start us again


async def main(child: Child) -> None:
    """From birth to the end in good order. Raises what it cannot go on after; the supervisor then starts another."""
    config, given = child.config, child.inheritance
    layout = demand.layout(config)
    memory = SharedMemory.attach(given.memory, block=layout.size)
    cells = memory.blocks[given.shard]
    later = asyncio.get_running_loop().call_later
    observers = Observers(ShardMetrics(layout, cells), child.logs.hooks(), later)
    pipeline = await build(config, hooks=observers)
    desk = Path(config.server.data_dir) / SOCKET_NAME
    operations = ShardOperations(memory, given.shard, desk, essential=demand.depends_on_knowledge(config))
    edge = EdgeServer(
        pipeline.ingress, config.server, operations, shard=given.shard, head_gate=config.admission.head_gate
    )
    async with AsyncExitStack() as stack:
        stack.callback(observers.flush)
        stack.push_async_callback(operations.aclose)
        stack.push_async_callback(pipeline.aclose)
        await pipeline.start()
        stack.push_async_callback(edge.stop)
        await edge.start(socket.socket(fileno=given.listener))
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do: no collection need look at it
        gc.set_threshold(_GC_THRESHOLD)
        ticking = asyncio.create_task(Ticker(pipeline, edge, ShardGauges(layout, cells), child.logs.writer).run())
        child.ready()
        asking = asyncio.create_task(_ask_health(child, pipeline))
        stack.callback(asking.cancel)
        await _until_stopped(child, pipeline, ticking)
        operations.draining = True
        await _drain(child, pipeline, edge)
        ticking.cancel()


async def _ask_health(child: Child, pipeline: Pipeline) -> None:
    """Warns of workers that cannot be called. They are served all the same: a backend may come after its gateway."""
    for name, worker in pipeline.workers.items():
        health = await worker.health()
        if not health.ok:
            child.logs.log.warning("worker_unhealthy", worker=name, detail=health.detail)


async def _until_stopped(child: Child, pipeline: Pipeline, ticking: "asyncio.Task[None]") -> None:
    """Raises when a stage's run loop or the ticker has ended by itself."""
    told: asyncio.Future[Any] = asyncio.create_task(child.stopping.wait())
    vital: list[asyncio.Future[Any]] = [ticking]
    if pipeline.flow.failed is not None:
        vital.append(pipeline.flow.failed)
    await asyncio.wait([told, *vital], return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    for part in vital:
        if part.done():
            part.result()


async def _drain(child: Child, pipeline: Pipeline, edge: EdgeServer) -> None:
    """Accepts no more, finishes what is in flight within the limit, and ends the rest with an answer."""
    edge.stop_accepting()
    await edge.drain()
    draining = asyncio.create_task(pipeline.drain(child.config.server.drain_timeout_ms / 1000))
    orphaned = asyncio.create_task(child.orphaned.wait())
    await asyncio.wait({draining, orphaned}, return_when=asyncio.FIRST_COMPLETED)
    orphaned.cancel()
    if not draining.done():
        draining.cancel()
        await pipeline.drain(_ORPHAN_LIMIT)


if __name__ == "__main__":
    run(main)
