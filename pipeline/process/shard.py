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
from pipeline.observe.usage import UsageObserver, UsageTable
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
from pipeline.process.teller import Teller
from pipeline.process.ticker import Ticker
from pipeline.process.tls import Tls, pair_of
from pipeline.process.usage import UsageTeller
from pipeline.process.watchdog import Watchdog
from pipeline.process.workflows import ShardWorkflows
from pipeline.wiring import Pipeline, build

# Objects made and not yet freed before the collector looks for cycles. The data path makes none: most of what it would
# find in the default 700 are requests under way, and looking at them took an eighth of a request's CPU.
GC_THRESHOLD = 25_000
_ORPHAN_LIMIT = 1.0  # seconds for what is in flight when nobody is left to start us again


async def main(child: Child) -> None:
    """From birth to the end in good order. Raises what it cannot go on after; the supervisor then starts another."""
    leases = Leases() if child.memory.shards > 1 else None
    shard = Shard(child)
    await shard.build(leases)
    async with AsyncExitStack() as stack:
        await shard.open(stack)
        gc.collect()
        gc.freeze()  # what start-up made lives as long as we do: no collection need look at it
        gc.set_threshold(GC_THRESHOLD)
        shard.watchdog.start(asyncio.get_running_loop())
        stack.callback(shard.watchdog.stop)
        ticker = Ticker(shard.pipeline, shard.edge, shard.relay, shard.gauges, child.logs.writer)
        if shard.workflows is not None:
            ticker.workflows = shard.workflows.stats
        ticking = asyncio.create_task(ticker.run())
        child.ready()
        if shard.workflows is not None:
            shard.workflows.start()
        if leases is not None:
            stack.callback(_lend(child, leases, shard).cancel)
        asking = asyncio.create_task(_ask_health(child, shard.pipeline))
        stack.callback(asking.cancel)
        await _until_stopped(child, shard.pipeline, ticking)
        limit = child.config.server.drain_timeout_ms / 1000
        until = asyncio.get_running_loop().time() + limit
        leaving = asyncio.create_task(_leave(child, shard, limit))
        if child.retiring.is_set():
            limit = await retire(child, shard.pipeline, shard.edge, shard.relay)
        shard.operations.draining = True
        await _drain(child, shard.pipeline, shard.edge, limit)
        await _left(child, leaving, until)
        ticker.tick()  # what has ended since the last one is counted too
        ticking.cancel()


class Shard:
    """The parts, and how they follow a new configuration. build → open."""

    pipeline: Pipeline
    edge: EdgeServer

    def __init__(self, child: Child) -> None:
        config, given, memory = child.config, child.inheritance, child.memory
        self._child = child
        self._folder = Path(config.server.data_dir)
        self._layout = MetricsLayout(given.layout)
        cells = memory.blocks[given.seat]
        logs = child.logs
        used = UsageTable()
        self.usage = UsageTeller(used, child.send)
        usage = UsageObserver(used)
        self.gauges = ShardGauges(self._layout, cells)
        self.observers = Observers(
            ShardMetrics(self._layout, cells), [usage, *logs.hooks()], asyncio.get_running_loop().call_later
        )
        logs.on_level = lambda: self.observers.use([usage, *logs.hooks()])
        self.relay = Relay(given.shard, given.seat, memory, self._folder)
        essential = demand.depends_on_knowledge(config)
        self.operations = ShardOperations(memory, self._folder / SOCKET_NAME, essential=essential)
        self.watchdog = Watchdog(logs.log, config.server.stall_ms / 1000, lambda _: self.gauges.stalled())

    async def build(self, leases: Leases | None) -> None:
        """Raises ConfigError."""
        child, config = self._child, self._child.config
        self.pipeline = await build(config, hooks=self.observers, allotter=leases, shards=child.memory.shards)
        self.workflows = ShardWorkflows(child, self.pipeline, self.relay) if config.workflows.enabled else None
        pair = pair_of(config.server)
        self._tls = None if pair is None else Tls(pair)
        self.edge = EdgeServer(
            self.pipeline.ingress,
            config.server,
            self.operations,
            shard=child.inheritance.shard,
            head_gate=config.admission.head_gate,
            peers=self.relay,
            workflows=None if self.workflows is None else self.workflows.service,
        )
        self._renewal = Renewal(self.pipeline, self.edge, self._layout, self._tls, send=child.send, follow=self._follow)
        child.on(Prepare, self._renewal.prepare)
        child.on(Commit, self._renewal.commit)
        child.on(Abort, self._renewal.abort)

    async def open(self, stack: AsyncExitStack) -> None:
        """Serves from now on; what ends it is put on the stack, in the reverse order."""
        stack.callback(self.usage.tell)  # what the observers have seen in the end too
        stack.callback(asyncio.create_task(self.usage.run()).cancel)
        stack.callback(self.observers.flush)
        stack.push_async_callback(self.operations.aclose)
        stack.push_async_callback(self.pipeline.aclose)
        stack.push_async_callback(self._renewal.aclose)
        await self.pipeline.start()
        stack.push_async_callback(self.relay.close)
        stack.push_async_callback(self.edge.stop)
        await self.relay.open(self.edge.relayed)
        stack.callback(Inbox(self._folder, self.edge.adopt).close)
        listener = socket.socket(fileno=self._child.inheritance.listener)
        await self.edge.start(listener, None if self._tls is None else self._tls.context)

    def _follow(self, config: Config) -> None:
        self._child.config = config  # but for the level of the log, which the supervisor sets
        self.watchdog.configure(config.server.stall_ms / 1000)
        self.operations.essential = demand.depends_on_knowledge(config)
        if self.workflows is not None:
            self.workflows.follow(config)


def _lend(child: Child, leases: Leases, shard: Shard) -> "asyncio.Task[None]":
    """Limits that all shards have in common: asks for what is needed here, as long as the task runs."""
    teller = Teller(leases, child.send, on_grant=shard.pipeline.flow.inference.nudge)
    child.on(Grant, lambda grant: teller.granted(grant, time.monotonic()))
    return asyncio.create_task(teller.run(shard.relay))


async def _ask_health(child: Child, pipeline: Pipeline) -> None:
    """Warns of workers that cannot be called, unless they are looked at anyway. They are served all the same: a backend
    may come after its gateway."""
    for name, worker in pipeline.unwatched.items():
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


async def _leave(child: Child, shard: Shard, limit: float) -> None:
    """Runs go to other processes, or wait for the next start: at once where no step is under way, else when those have
    ended, within the limit. What does not end in time is done again by whoever takes the run up."""
    if shard.workflows is not None:
        await shard.workflows.stop(_ORPHAN_LIMIT if child.orphaned.is_set() else limit)


async def _left(child: Child, leaving: "asyncio.Task[None]", until: float) -> None:
    """Until runs have been given back: steps of other kinds than prompts may take as long as a drain may too."""
    left = until - asyncio.get_running_loop().time()
    orphaned = asyncio.create_task(child.orphaned.wait())
    await asyncio.wait({leaving, orphaned}, timeout=max(left, 0.0), return_when=asyncio.FIRST_COMPLETED)
    orphaned.cancel()
    await asyncio.wait({leaving}, timeout=_ORPHAN_LIMIT)  # what does not end now is done again elsewhere


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
