"""The supervisor: owns the port, the data folder and the counters, and keeps the other processes alive."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog
from msgspec import structs

from config.load import encode, self_contained
from config.schema import Config
from pipeline.observe.books import book_lost, totals
from pipeline.observe.exposition import Exposition, ProcessFacts
from pipeline.process import demand
from pipeline.process.child import Inheritance
from pipeline.process.counters import SharedMemory, State
from pipeline.process.desk import DaemonStatus, Desk, ProcessStatus
from pipeline.process.keeper import Keeper
from pipeline.process.prepare import SOCKET_NAME, address_of, claimed, listening

_GRACE = 5.0  # seconds that a child may take for ending beyond what it was given for its requests
_SHARD = "pipeline.process.shard"
_KNOWLEDGE = "pipeline.process.retrieval"

log = structlog.get_logger()
Say = Callable[[str], None]


async def supervise(config: Config, say: Say, *, shards: int = 1) -> int:
    """Runs the daemon until it is told to stop; returns its exit status. Raises StartError when it cannot start.

    `say` gets the one line that announces it. SIGTERM and SIGINT stop it in good order, a second one at once.
    """
    with ExitStack() as held:
        lock = held.enter_context(claimed(Path(config.server.data_dir)))
        listener = held.enter_context(listening(config.server))
        memory = held.enter_context(closing(SharedMemory.create(shards=shards, block=demand.layout(config).size)))
        handed_over = held.enter_context(_in_memory(encode(self_contained(config))))
        child = Inheritance("", -1, os.getpid(), -1, memory.descriptor, handed_over, lock, -1)
        supervisor = Supervisor(config, listener, memory, child, say)
        try:
            return await supervisor.run()
        finally:
            await supervisor.end()


class Supervisor:
    """One instance per daemon; `run` is its life. `child` is what all children inherit alike."""

    def __init__(
        self, config: Config, listener: socket.socket, memory: SharedMemory, child: Inheritance, say: Say
    ) -> None:
        self._config = config
        self._listener = listener
        self._address = address_of(listener)
        self._memory = memory
        self._child = child
        self._say = say
        self._layout = demand.layout(config)
        self._version = version("headgate")
        self._started = time.time()
        self._shards: list[Keeper] = []
        self._knowledge: list[Keeper] = []  # one, or none where no route needs it
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        exposition = Exposition(self._layout, memory.blocks, self._facts, self._version)
        self._desk = Desk(Path(config.server.data_dir) / SOCKET_NAME, exposition, self._status)

    async def run(self) -> int:
        self._obey_signals()
        await self._desk.open()
        self._start_children()
        if await self._until(self._all_started(), self._stop):
            self._announce()
            await self._until(asyncio.Event().wait(), self._stop)
        return 0 if await self._until(self._drain(), self._force) else 1

    async def end(self) -> None:
        """Leaves nothing behind, however `run` ended."""
        for keeper in self._all():
            await keeper.kill()
        await asyncio.gather(*(keeper.task for keeper in self._all()), return_exceptions=True)
        await self._desk.close()
        log.info("stopped", uptime_s=round(time.time() - self._started, 3), **totals(self._layout, self._memory.blocks))

    def _obey_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number.name)

    def _told_to_stop(self, name: str) -> None:
        log.info("signal", signal=name, forces=self._stop.is_set())
        (self._force if self._stop.is_set() else self._stop).set()

    def _start_children(self) -> None:
        """All at once: a shard that is up before the knowledge process does no harm."""
        timeout = self._config.server.start_timeout_ms / 1000
        if demand.wants_knowledge(self._config):
            born = structs.replace(self._child, name="knowledge")
            self._knowledge = [Keeper(_KNOWLEDGE, born, self._memory.knowledge, timeout, _nothing_lost)]
        for index, slot in enumerate(self._memory.shards):
            born = structs.replace(self._child, name=f"shard {index}", shard=index, listener=self._listener.fileno())
            bury = partial(book_lost, self._layout, self._memory.blocks[index])
            self._shards.append(Keeper(_SHARD, born, slot, timeout, bury))

    async def _all_started(self) -> None:
        for keeper in self._all():
            await keeper.started.wait()

    def _announce(self) -> None:
        names = [route.name for route in self._config.routes]
        routes = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        self._say(f"Headgate {self._version} serves on {self._address} ({routes})")
        log.info("serving", address=self._address, shards=len(self._shards), version=self._version)

    async def _drain(self) -> None:
        """Shards first, as they need the knowledge process for what they finish."""
        self._memory.draining = True
        self._listener.close()  # the shards close theirs; with the last one, new connections are refused
        limit = self._config.server.drain_timeout_ms / 1000
        log.info("draining", limit_s=limit)
        await asyncio.gather(*(keeper.stop(limit + _GRACE) for keeper in self._shards))
        await asyncio.gather(*(keeper.stop(_GRACE) for keeper in self._knowledge))

    async def _until(self, work: Coroutine[Any, Any, Any], cut: asyncio.Event) -> bool:
        """Awaits `work`; False when `cut` came first. Raises what a keeper ends with that was not told to."""
        working, cutting = asyncio.create_task(work), asyncio.create_task(cut.wait())
        keepers = {keeper.task for keeper in self._all()}
        try:
            pending: set[asyncio.Task[Any]] = {working, cutting, *keepers}
            while not working.done() and not cutting.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for keeper in done & keepers:
                    keeper.result()
            if working.done():
                working.result()
            return working.done()
        finally:
            working.cancel()
            cutting.cancel()
            await asyncio.wait({working, cutting})

    def _all(self) -> list[Keeper]:
        return [*self._shards, *self._knowledge]

    def _facts(self) -> list[ProcessFacts]:
        facts = [ProcessFacts("supervisor", None, os.getpid(), self._started, ready=True, restarts=0)]
        for keeper in self._all():
            slot = keeper.slot
            facts.append(
                ProcessFacts(
                    keeper.name,
                    keeper.shard,
                    slot.pid,
                    slot.started,
                    ready=slot.state is State.READY,
                    restarts=slot.restarts,
                )
            )
        return facts

    def _status(self) -> DaemonStatus:
        now = time.time()
        processes = [ProcessStatus("supervisor", State.READY.label, os.getpid(), 0, now - self._started)]
        for keeper in self._all():
            slot = keeper.slot
            uptime = now - slot.started if slot.pid else 0.0
            processes.append(ProcessStatus(keeper.name, slot.state.label, slot.pid, slot.restarts, uptime))
        return DaemonStatus(
            self._version,
            self._address,
            self._memory.draining,
            now - self._started,
            processes,
            totals(self._layout, self._memory.blocks),
        )


def _nothing_lost() -> int:
    """The knowledge process has no requests of its own: those that wait for it are a shard's."""
    return 0


@contextmanager
def _in_memory(data: bytes) -> Iterator[int]:
    descriptor = os.memfd_create("headgate-config", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, data)
        yield descriptor
    finally:
        os.close(descriptor)
