"""Keeps one process alive: starts it, waits until it is ready, starts it again when it dies, gives it up in the end."""

import asyncio
import signal
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple, Protocol

import structlog

from config.errors import ConfigError
from pipeline.process.backoff import Backoff
from pipeline.process.child import Inheritance
from pipeline.process.counters import State
from pipeline.process.errors import StartError
from pipeline.process.link import Failed, Message, Ready, Refused, Retire
from pipeline.process.process import Process
from pipeline.process.seats import Seats

ATTEMPTS = 3  # a process that dies this often without ever having been ready will not get better
_ENDS_WITHIN = 5.0  # seconds that a process which says that it cannot start may take for ending

log = structlog.get_logger()


class Household(Protocol):
    """What the supervisor does about its keepers' processes."""

    def joined(self, process: Process) -> None:
        """It does its work from now on, instead of the one before, if there is one."""

    def heard(self, process: Process, message: Message) -> None:
        """Never before it has joined."""

    def gone(self, process: Process) -> int:
        """It is dead, and its seat not yet free. Returns how many requests died with it."""
        ...

    def turned(self, keeper: "Keeper") -> None:
        """Its state is another."""


class Limits(NamedTuple):
    """`start` is in seconds, `deaths` how many in a row are too many."""

    start: float
    deaths: int


class Keeper:
    """One process and its replacements, of which two live at a time while one takes the other's place.

    `born` gives what a process inherits that is born now. `started` is set when one is ready for the first time.
    `restarts` counts those that were born because another had died; `reason` is what the last one died of. `task` ends
    when the keeper was told to stop, or with StartError or ConfigError when no process was ever ready; not where the
    daemon does without it (`vital` false), then it is given up like one that was, and sooner where two in a row say
    that they cannot start, and why, in the same words.
    """

    def __init__(
        self,
        module: str,
        born: Callable[[], Inheritance],
        seats: Seats,
        limits: Limits,
        household: Household,
        *,
        vital: bool = True,
    ) -> None:
        given = born()
        self.name = given.name
        self.shard = given.shard if given.shard >= 0 else None
        self.limits = limits
        self.started = asyncio.Event()
        self.restarts = 0
        self.reason = ""
        self.state = State.DOWN
        self._module = module
        self._born = born
        self._seats = seats
        self._household = household
        self._vital = vital
        self._backoff = Backoff()
        self._current: Process | None = None  # the one that does the work
        self._lives: dict[Process, asyncio.Task[None]] = {}
        self._births = asyncio.Lock()  # one at a time
        self._changed = asyncio.Event()
        self._lived = 0.0  # seconds that the last one was ready before it died
        self._said = ""  # why the last one could not start, if it said so itself,
        self._hopeless = False  # and the one before said the same
        self._stopping = False
        self.task = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    @property
    def current(self) -> Process | None:
        """The process that does the work; None while there is none."""
        return self._current

    @property
    def processes(self) -> list[Process]:
        """All that live, those that start and those that end too."""
        return list(self._lives)

    def send(self, message: Message) -> None:
        """To all that are ready."""
        for process in self.processes:
            if process.ready:
                process.send(message)

    async def stop(self, within: float) -> bool:
        """Asks what lives to end and waits for it; kills it after `within` seconds, and says so by False."""
        self._stop(signal.SIGTERM)
        done, _ = await asyncio.wait({self.task}, timeout=within)
        if not done:
            for process in self.processes:
                process.kill(f"it did not end within {within:g} s")
            await asyncio.wait({self.task})
        return bool(done)

    async def kill(self) -> None:
        """Ends what lives at once."""
        self._stop(signal.SIGKILL)
        await asyncio.wait({self.task})

    async def replace(self, within: float) -> None:
        """Starts a new process, and lets the old one finish for `within` seconds once that is ready. Also for what was
        given up. Raises StartError when the new one does not get ready: then the old one goes on."""
        async with self._births:
            old = self._current
            if not isinstance(await self._begin(), Ready):
                raise StartError(f"A new {self.name} process did not get ready: {self.reason}.")
            self._backoff = Backoff()
        if old is not None:
            await self._retire(old, within)

    def _stop(self, number: signal.Signals) -> None:
        self._stopping = True
        self._changed.set()
        if self._lives:
            self._turn(State.STOPPING)
        for process in self.processes:
            process.slot.state = State.STOPPING
            process.signal(number)

    async def _keep(self) -> None:
        again = False
        while not self._stopping:
            async with self._births:
                if self._current is None:  # else one was to replace what has died meanwhile
                    self.restarts += again
                    self._believe(await self._begin())
            again = True
            await self._wait(lambda: self._current is None)
            pause = self._backoff.after(self._lived)
            if not self._stopping:
                self._judge()
            await self._wait(self._goes_on, None if self.state is State.GIVEN_UP else pause)
        while self._lives:
            await asyncio.wait(self._lives.values())

    def _goes_on(self) -> bool:
        return self._current is not None

    async def _begin(self) -> Message | None:
        """A new process, which does the work when its first message is `Ready`; if not, it is dead."""
        said, self._said, self._hopeless = self._said, "", False
        process = await self._birth()
        if process is None:
            return None
        message = await process.first_message(self.limits.start)
        if isinstance(message, Ready) and process in self._lives and not self._stopping:
            self._take_over(process)
            return message
        await self._bury_soon(process)
        match message:
            case Failed(reason):
                self.reason = self._said = reason
                self._hopeless = reason == said
            case Refused(problems):
                self.reason = str(ConfigError(tuple(problems)))
        return message if not isinstance(message, Ready) else None

    async def _birth(self) -> Process | None:
        seat = self._seats.take()
        given = self._born()
        process = Process(given, seat, self._household.heard)
        try:
            await process.start(self._module, given)
        except OSError as error:  # no memory, no process, no descriptor: perhaps later
            log.error("process_not_started", name=self.name, because=str(error))  # noqa: TRY400 - no fault of the code
            self._seats.leave(seat)
            self.reason = str(error)
            self._lived = 0.0
            return None
        if self._current is None:
            self._turn(State.STARTING)
        self._lives[process] = asyncio.create_task(self._live(process), name=f"life of {self.name}")
        if self._stopping:  # told while it was being born: it has nothing to lose
            process.kill()
        return process

    def _take_over(self, process: Process) -> None:
        old, self._current = self._current, process
        if old is not None:
            old.retiring = True
        process.ready = True
        process.ready_at = asyncio.get_running_loop().time()
        process.slot.state = State.READY
        self._turn(State.READY)
        log.info("process_ready", name=self.name, pid=process.pid)
        self._household.joined(process)
        process.introduced()
        self.started.set()
        self._changed.set()

    async def _live(self, process: Process) -> None:
        """Until it is dead and buried."""
        status = await process.ended()
        process.slot.died()
        lost = self._household.gone(process)
        del self._lives[process]
        self._seats.leave(process.place)
        if process.retiring:
            log.info("process_retired", name=self.name, pid=process.pid, status=status, lost=lost)
            return
        self.reason = process.reason or status
        self._lived = asyncio.get_running_loop().time() - process.ready_at if process.ready else 0.0
        if not self._stopping:
            log.error("process_died", name=self.name, pid=process.pid, status=status, lost=lost)
        if process is self._current or self._current is None:
            self._current = None
            self._turn(State.DOWN)
        self._changed.set()

    async def _bury_soon(self, process: Process) -> None:
        """Who cannot start ends by itself."""
        life = self._lives.get(process)
        if life is not None:
            await asyncio.wait({life}, timeout=_ENDS_WITHIN)
            process.kill()
            await asyncio.wait({life})

    async def _retire(self, old: Process, within: float) -> None:
        life = self._lives.get(old)
        if life is None:
            return
        old.slot.state = State.STOPPING
        old.send(Retire())
        await asyncio.wait({life}, timeout=within)
        if not life.done():
            old.kill(f"it did not end within {within:g} s")
            await asyncio.wait({life})

    def _believe(self, message: Message | None) -> None:
        """What a process says that never worked would be said by the next one too."""
        if self.started.is_set() or not self._vital:
            return
        match message:
            case Refused(problems):
                raise ConfigError(tuple(problems))
            case Failed(reason):
                raise StartError(f"The {self.name} process cannot start: {reason}")

    def _judge(self) -> None:
        deaths = self._backoff.deaths
        if self.started.is_set() or not self._vital:
            hopeless = self._hopeless and not self._vital
            if (deaths >= self.limits.deaths or hopeless) and self._current is None:
                log.error("process_given_up", name=self.name, deaths=deaths, because=self.reason)
                self._turn(State.GIVEN_UP)
        elif deaths >= min(ATTEMPTS, self.limits.deaths):
            times = "once" if deaths == 1 else f"{deaths} times"
            raise StartError(
                f"The {self.name} process died {times} while it started ({self.reason}); the log says more."
            )

    def _turn(self, state: State) -> None:
        if state is not self.state:
            self.state = state
            self._household.turned(self)

    async def _wait(self, until: Callable[[], bool], within: float | None = None) -> None:
        """Until it is so, or the keeper was told to stop, or the time is up."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within):
                while not until() and not self._stopping:
                    self._changed.clear()
                    await self._changed.wait()
