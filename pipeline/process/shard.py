"""A shard: one event loop with its pipeline and its edge. Started by the supervisor, never by hand."""

import asyncio
import gc
import socket
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from config.schema import Config
from pipeline.edge.app import EdgeServer
from pipeline.observe.layout import MetricsLayout
from pipeline.observe.metrics import ShardGauges, ShardMetrics
from pipeline.observe.observers import Observers
from pipeline.policy.leases import Leases
from pipeline.process import demand
from pipeline.process.child import Child, run
from pipeline.process.handover import Inbox
from pipeline.process.link import Abort, Commit, Grant, Prepare
from pipeline.process.operations import ShardOperations
from pipeline.process.prepare import SOCKET_NAME
from pipeline.process.relay import Relay
from pipeline.process.renewal import Renewal
from pipeline.process.retiring import retire
from pipeline.process.teller import INTERVAL, Teller
from pipeline.process.ticker import Ticker
from pipeline.process.tls import Tls, pair_of
from pipeline.process.watchdog import Watchdog
from pipeline.wiring import Pipeline, build

# Objects made and not yet freed before the collector looks for cycles. The data path makes none: most of what it would
# find in the default 700 are requests under way, and looking at them took an eighth of a request's CPU.
_GC_THRESHOLD = 25_000
_ORPHAN_LIMIT = 1.0  # seconds for what is in flight when nobody is left to start us again


async def main(child: Child) -> None:
    """From birth to the end in good order. Raises what it cannot go on after; the supervisor then starts another."""
    config, given, memory = child.config, child.inheritance, child.memory
    loop = asyncio.get_running_loop()
    folder = Path(config.server.data_dir)
    layout = MetricsLayout(given.layout)
    cells = memory.blocks[given.seat]
    gauges = ShardGauges(layout, cells)
    observers = Observers(ShardMetrics(layout, cells), child.logs.hooks(), loop.call_later)
    child.logs.on_level = lambda: observers.use(child.logs.hooks())
    leases = Leases() if memory.shards > 1 else None
    pipeline = await build(config, hooks=observers, allotter=leases)
    pair = pair_of(config.server)
    tls = None if pair is None else Tls(pair)
    relay = Relay(given.shard, given.seat, memory, folder)
    operations = ShardOperations(memory, folder / SOCKET_NAME, essential=demand.depends_on_knowledge(config))
    edge = EdgeServer(
        pipeline.ingress,
        config.server,
        operations,
        shard=given.shard,
        head_gate=config.admission.head_gate,
        peers=relay,
    )
    watchdog = Watchdog(child.logs.log, config.server.stall_ms / 1000, lambda _: gauges.stalled())

    def follow(config: Config) -> None:
        before, child.config = child.config, config
        watchdog.configure(config.server.stall_ms / 1000)
        operations.essential = demand.depends_on_knowledge(config)
        if config.logging.level != before.logging.level:  # else one that operators have set stays
            child.logs.set_level(config.logging.level)

    renewal = Renewal(pipeline, edge, layout, tls, send=child.send, follow=follow)
    child.on(Prepare, renewal.prepare)
    child.on(Commit, renewal.commit)
    child.on(Abort, renewal.abort)
    async with AsyncExitStack() as stack:
        stack.callback(observers.flush)
        stack.push_async_callback(operations.aclose)
        stack.push_async_callback(pipeline.aclose)
        stack.push_async_callback(renewal.aclose)
        await pipeline.start()
        stack.push_async_callback(relay.close)
        stack.push_async_callback(edge.stop)
        await relay.open(edge.relayed)
        stack.callback(Inbox(folder, edge.adopt).close)
        await edge.start(socket.socket(fileno=given.listener), None if tls is None else tls.context)
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do: no collection need look at it
        gc.set_threshold(_GC_THRESHOLD)
        watchdog.start(loop)
        stack.callback(watchdog.stop)
        ticking = asyncio.create_task(Ticker(pipeline, edge, relay, gauges, child.logs.writer).run())
        child.ready()
        if leases is not None:
            stack.callback(_lend(child, leases, pipeline).cancel)
        asking = asyncio.create_task(_ask_health(child, pipeline))
        stack.callback(asking.cancel)
        await _until_stopped(child, pipeline, ticking)
        limit = child.config.server.drain_timeout_ms / 1000
        if child.retiring.is_set():
            await retire(child, pipeline, edge, relay)
            limit = 0.0
        operations.draining = True
        await _drain(child, pipeline, edge, limit)
        ticking.cancel()


def _lend(child: Child, leases: Leases, pipeline: Pipeline) -> "asyncio.Task[None]":
    """Limits that all shards have in common: asks for what is needed here, as long as the task runs."""
    teller = Teller(leases, child.send, on_grant=pipeline.flow.inference.nudge)
    child.on(Grant, lambda grant: teller.granted(grant, time.monotonic()))

    async def tick() -> None:
        while True:
            teller.tick(time.monotonic())
            await asyncio.sleep(INTERVAL)

    return asyncio.create_task(tick())


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


async def _drain(child: Child, pipeline: Pipeline, edge: EdgeServer, limit: float) -> None:
    """Accepts no more, finishes what is in flight within the limit, and ends the rest with an answer."""
    edge.stop_accepting()
    await edge.drain()
    draining = asyncio.create_task(pipeline.drain(limit))
    orphaned = asyncio.create_task(child.orphaned.wait())
    await asyncio.wait({draining, orphaned}, return_when=asyncio.FIRST_COMPLETED)
    orphaned.cancel()
    if not draining.done():
        draining.cancel()
        await pipeline.drain(_ORPHAN_LIMIT)


if __name__ == "__main__":
    run(main)
