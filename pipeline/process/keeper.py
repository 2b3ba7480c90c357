"""Keeps one child process alive: starts it, waits until it is ready, starts it again when it dies."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress

import msgspec
import structlog

from config.errors import ConfigError
from pipeline.process.backoff import Backoff
from pipeline.process.child import Inheritance
from pipeline.process.counters import Slot, State
from pipeline.process.errors import StartError
from pipeline.process.link import Failed, Message, Ready, Refused, next_message

ATTEMPTS = 3  # a process that dies this often without ever having been ready will not get better
_STDERR = 2

log = structlog.get_logger()


class Keeper:
    """One child process and its replacements.

    `module` is run by the interpreter that runs us. `bury` is called after each death, before the next start, and
    returns how many requests died too. `started` is set when the process is ready for the first time. `task` ends when
    the keeper was told to stop, or with StartError or ConfigError when the process will never be ready.
    """

    def __init__(
        self, module: str, inheritance: Inheritance, slot: Slot, start_timeout: float, bury: Callable[[], int]
    ) -> None:
        self.name = inheritance.name
        self.shard = inheritance.shard if inheritance.shard >= 0 else None
        self.slot = slot
        self.started = asyncio.Event()
        self._module = module
        self._inheritance = inheritance
        self._start_timeout = start_timeout
        self._bury = bury
        self._process: asyncio.subprocess.Process | None = None
        self._stopping = asyncio.Event()
        self.task = asyncio.create_task(self._keep(), name=f"keeper of {self.name}")

    async def stop(self, within: float) -> bool:
        """Asks the process to end and waits for it; kills it after `within` seconds, and says so by False."""
        self._stopping.set()
        if self._process is not None:
            self.slot.state = State.STOPPING
        self._signal(signal.SIGTERM)
        done, _ = await asyncio.wait({self.task}, timeout=within)
        if not done:
            self._because(f"it did not end within {within:g} s")
            await self.kill()
        return bool(done)

    async def kill(self) -> None:
        """Ends the process at once."""
        self._stopping.set()
        self._signal(signal.SIGKILL)
        await asyncio.wait({self.task})

    async def _keep(self) -> None:
        backoff = Backoff()
        starts = 0
        while not self._stopping.is_set():
            lived = await self._live(again=starts > 0)
            starts += 1
            if starts >= ATTEMPTS and not self.started.is_set():
                raise StartError(f"The {self.name} process died {starts} times while it started; the log says more.")
            with suppress(TimeoutError):
                async with asyncio.timeout(backoff.after(lived)):
                    await self._stopping.wait()

    async def _live(self, *, again: bool) -> float:
        """One process from birth to death; returns for how long it was ready."""
        try:
            ours, process = await self._spawn()
        except OSError as error:  # no memory, no process, no descriptor: perhaps later
            log.error("process_not_started", name=self.name, because=str(error))  # noqa: TRY400 - no fault of the code
            return 0.0
        self._process = process
        self.slot.born(process.pid, again=again)
        if self._stopping.is_set():  # told while it was being born: it has nothing to lose
            self._signal(signal.SIGKILL)
        reader, writer = await asyncio.open_unix_connection(sock=ours)
        try:
            message = await self._first_message(reader)
            ready_at = self._ready(process.pid) if isinstance(message, Ready) else None
            await process.wait()
        finally:
            writer.close()
            self._process = None
            self.slot.died()
            lost = self._bury()
        if not self._stopping.is_set():
            log.error("process_died", name=self.name, pid=process.pid, status=_told(process.returncode), lost=lost)
        if not self.started.is_set():
            self._raise_what_failed(message)
        return 0.0 if ready_at is None else asyncio.get_running_loop().time() - ready_at

    async def _spawn(self) -> tuple[socket.socket, asyncio.subprocess.Process]:
        ours, theirs = socket.socketpair()
        try:
            given = msgspec.structs.replace(self._inheritance, link=theirs.fileno())
            descriptors = (given.link, given.memory, given.config, given.lock, given.listener)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a folder named `config` where the daemon was started is not ours
                "-m",
                self._module,
                msgspec.json.encode(given).decode(),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=_STDERR,
                pass_fds=[descriptor for descriptor in descriptors if descriptor >= 0],
                start_new_session=True,  # Ctrl-C at a terminal is for the supervisor, which drains the others
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        return ours, process

    async def _first_message(self, reader: asyncio.StreamReader) -> Message | None:
        """None when the process died, or was too slow and therefore killed."""
        try:
            async with asyncio.timeout(self._start_timeout):
                return await next_message(reader)
        except TimeoutError:
            self._because(f"it was not ready within {self._start_timeout:g} s")
            self._signal(signal.SIGKILL)
            return None

    def _ready(self, pid: int) -> float:
        """Since when the process does its work, on the loop's clock."""
        if not self._stopping.is_set():
            self.slot.state = State.READY
            log.info("process_ready", name=self.name, pid=pid)
        self.started.set()
        return asyncio.get_running_loop().time()

    def _raise_what_failed(self, message: Message | None) -> None:
        match message:
            case Refused(problems):
                raise ConfigError(problems)
            case Failed(reason):
                raise StartError(f"The {self.name} process cannot start: {reason}")

    def _because(self, reason: str) -> None:
        log.error("process_killed", name=self.name, because=reason)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)


def _told(status: int | None) -> str:
    """As people say it."""
    if status is None or status >= 0:
        return f"exit status {status}"
    return f"killed by {signal.Signals(-status).name}"
