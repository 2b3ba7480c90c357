"""The supervisor: owns the port, the data folder and the counters, and keeps the other processes alive."""

import asyncio
import os
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from contextlib import ExitStack, closing
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import structlog

from config.files import Stamp
from config.load import Loaded, load
from config.schema import Config
from pipeline.observe.exposition import Exposition
from pipeline.observe.logs import Logs
from pipeline.observe.usage import UsageTable
from pipeline.process import demand, pulses, standing, watching
from pipeline.process.admin_types import DaemonStatus
from pipeline.process.child import Inheritance
from pipeline.process.control import Applied, ReloadFailed
from pipeline.process.counters import SharedMemory
from pipeline.process.crew import Crew
from pipeline.process.desk import Desk
from pipeline.process.errors import NothingLeft, StartError
from pipeline.process.handout import handout
from pipeline.process.lender import Lender
from pipeline.process.link import SetLevel
from pipeline.process.prepare import SOCKET_NAME, address_of, claimed, listening
from pipeline.process.reloading import Reloader
from pipeline.process.sweep import Sweep
from pipeline.process.takeover import Takeover
from pipeline.process.tls import warn_of_validity
from pipeline.process.usage import UsageBooks
from pipeline.process.version import Version

log = structlog.get_logger()
Say = Callable[[str], None]


async def supervise(loaded: Loaded, logs: Logs, say: Say) -> int:
    """Runs the daemon until it is told to stop; returns its exit status. Raises StartError and ConfigError when it
    cannot start, and NothingLeft when none of its shards can be kept alive.

    `say` gets the one line that announces it. SIGTERM and SIGINT stop it in good order, a second one at once; SIGHUP
    reloads, SIGUSR2 replaces the shards' processes.
    """
    config = loaded.config
    known = watching.as_read(loaded)
    running = Version.of(config)
    warn_of_validity(running.whole)
    layout = demand.layout(config)
    with ExitStack() as held:
        lock = held.enter_context(claimed(Path(config.server.data_dir)))
        listener = held.enter_context(listening(config.server))
        shared = SharedMemory.create(shards=demand.shards(config.server), block=demand.room(layout.size))
        memory = held.enter_context(closing(shared))
        handed_out = held.enter_context(handout(running.whole, layout.history))
        given = Inheritance("", -1, os.getpid(), -1, memory.descriptor, -1, lock, -1)
        crew = Crew(layout, memory, given, listener.fileno(), handed_out)
        crew.follow(Sweep(Path(config.server.data_dir)))
        supervisor = Supervisor(running, loaded.path, known, crew, listener, logs=logs, say=say)
        try:
            return await supervisor.run()
        finally:
            await supervisor.end()


class Supervisor:
    """One instance per daemon; `run` is its life. It is the `pipeline.process.control.Control` that operators reach."""

    def __init__(
        self,
        running: Version,
        file: Path,
        known: dict[Path, Stamp],
        crew: Crew,
        listener: socket.socket,
        *,
        logs: Logs,
        say: Say,
    ) -> None:
        self.crew = crew
        self._listener = listener
        self._address = address_of(listener, secure=running.named.server.tls_certificate is not None)
        self._logs = logs
        self._say = say
        self._version = version("headgate")
        self._started = time.time()
        self._stop = asyncio.Event()
        self._force = asyncio.Event()
        self._routines: set[asyncio.Task[Any]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._usage = UsageBooks()
        crew.follow(self._usage)
        facts = partial(standing.facts, crew, self._started)
        self._exposition = Exposition(crew.ledger, facts, self._version, usage=self._usage.table)
        self._desk = Desk(Path(running.whole.server.data_dir) / SOCKET_NAME, self, crew.ledger)
        takeover = Takeover(crew, self._desk, self._adopted, self._reread)
        self._file = file
        self._known = known
        self._reloader = Reloader(running, lambda: load(file).config, lambda: crew.serving, takeover)
        crew.follow(self._reloader)
        self._lender = Lender(running.whole) if crew.memory.shards > 1 else None
        if self._lender is not None:
            crew.follow(self._lender)

    @property
    def config(self) -> Config:
        """The one in force."""
        return self._reloader.config

    async def run(self) -> int:
        self._obey_signals()
        await self._desk.open(self.config)
        self.crew.start(self.config)
        self._begin_routines()
        if await self._until(self.crew.started(), self._stop):
            self._announce()
            await self._until(asyncio.Event().wait(), self._stop)
        return 0 if await self._until(self._drain(), self._force) else 1

    def _begin_routines(self) -> None:
        """What goes on all the time; the daemon does not go on without."""
        server = self.config.server
        routines = [pulses.watch(lambda: self.crew.processes, server.blocked_ms / 1000)]
        if self._lender is not None:
            routines.append(self._lender.run())
        if server.reload_on_change:
            files = partial(watching.files_of, self._file)
            routines.append(watching.watch(lambda: files(self.config), self._changed, known=self._known))
        self._routines = {asyncio.create_task(routine) for routine in routines}

    async def end(self) -> None:
        """Leaves nothing behind, however `run` ended."""
        for task in self._routines | self._tasks:
            task.cancel()
        await self._reloader.aclose()
        await self.crew.end()
        await self._desk.close()
        log.info("stopped", uptime_s=round(time.time() - self._started, 3), **self.crew.ledger.totals())

    def metrics(self) -> bytes:
        return self._exposition.render()

    def usage(self) -> UsageTable:
        return self._usage.table

    def status(self) -> DaemonStatus:
        return DaemonStatus(
            self._version,
            self._address,
            self.crew.memory.draining,
            time.time() - self._started,
            standing.statuses(self.crew, self._started),
            self.crew.ledger.totals(),
        )

    async def replace(self) -> None:
        """A new process for each shard, one after another. Raises StartError, ReloadFailed."""
        await self.crew.replace(self.config.server.drain_timeout_ms / 1000)

    async def reload(self) -> Applied:
        """Puts in force what the file and the environment say now. Raises ConfigError, ReloadFailed."""
        return await self._reloader.reload()

    async def apply(self, config: Config) -> Applied:
        """Puts this in force. Raises ConfigError, ReloadFailed."""
        return await self._reloader.apply(config)

    def drain(self) -> None:
        self._stop.set()

    def set_level(self, level: str) -> None:
        """Of all processes, those that are born later too, until the file is read again."""
        self.crew.level = level
        self._logs.set_level(level)
        self.crew.send(SetLevel(level))

    def _adopted(self, config: Config) -> None:
        """`config` has come into force; `self.config` is still the one before."""
        if config.logging.level != self.config.logging.level:
            self.set_level(config.logging.level)
        if self._lender is not None:
            self._lender.configure(config)

    def _reread(self) -> None:
        """What the file says is in force, also where it says nothing new: a level that operators have set goes, and
        models that were given up are tried again."""
        if self._logs.level != self.config.logging.level:
            self.set_level(self.config.logging.level)
        self.crew.models.revive()

    def _obey_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._told_to_stop, number.name)
        loop.add_signal_handler(signal.SIGHUP, self._told_to_reload)
        loop.add_signal_handler(signal.SIGUSR2, self._told_to_replace)

    def _told_to_stop(self, name: str) -> None:
        log.info("signal", signal=name, forces=self._stop.is_set())
        (self._force if self._stop.is_set() else self._stop).set()

    def _told_to_reload(self) -> None:
        log.info("signal", signal="SIGHUP")
        self._reloader.request()

    async def _changed(self) -> None:
        log.info("files_changed")
        self._reloader.request()

    def _told_to_replace(self) -> None:
        log.info("signal", signal="SIGUSR2")
        self._in_background(self._replace())

    async def _replace(self) -> None:
        try:
            await self.replace()
        except (StartError, ReloadFailed) as error:
            log.error("replacing_failed", because=str(error))  # noqa: TRY400 - the message says it

    def _announce(self) -> None:
        names = [route.name for route in self.config.routes]
        routes = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        self._say(f"Headgate {self._version} serves on {self._address} ({routes})")
        log.info("serving", address=self._address, shards=len(self.crew.shards), version=self._version)

    async def _drain(self) -> None:
        self.crew.memory.draining = True
        self._listener.close()  # the shards close theirs; with the last one, new connections are refused
        limit = self.config.server.drain_timeout_ms / 1000
        log.info("draining", limit_s=limit)
        await self.crew.stop(limit)

    async def _until(self, work: Coroutine[Any, Any, Any], cut: asyncio.Event) -> bool:
        """Awaits `work`; False when `cut` came first. Raises what a keeper or a routine ends with that was not told
        to, and NothingLeft."""
        working, cutting = asyncio.create_task(work), asyncio.create_task(cut.wait())
        vital = {keeper.task for keeper in self.crew.keepers} | self._routines
        lost = asyncio.create_task(self.crew.lost.wait())
        try:
            pending: set[asyncio.Task[Any]] = {working, cutting, lost, *vital}
            while not working.done() and not cutting.done():
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for each in done & vital:
                    each.result()
                if lost in done:
                    raise NothingLeft(self._why_lost())
            if working.done():
                working.result()
            return working.done()
        finally:
            for task in (working, cutting, lost):
                task.cancel()
            await asyncio.wait({working, cutting, lost})

    def _why_lost(self) -> str:
        shards = self.crew.shards
        limit = self.config.server.restart_limit
        times = "once" if limit == 1 else f"{limit} times in a row"
        reasons = "; ".join(f"{keeper.name}: {keeper.reason}" for keeper in shards)
        return f"No shard is left: each died {times} (server.restart_limit). Last, {reasons}. The log says more."

    def _in_background(self, work: Coroutine[Any, Any, Any]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
