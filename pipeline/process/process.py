"""One child process, from birth to death."""

import asyncio
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import msgspec
import structlog

from pipeline.process.child import Inheritance
from pipeline.process.link import Failed, Link, Message, Ready, Refused
from pipeline.process.seats import Seat

_STDERR = 2
_LAST_WORDS = 1.0  # seconds for what a dead process has sent to be read: it is there already

log = structlog.get_logger()


class Process:
    """`shard` is None for the knowledge process, `seat` then -1. `ready` is True from the time when it does its work;
    `retiring` when another has taken its place. `reason` says why it was killed, where we did that."""

    def __init__(self, given: Inheritance, seat: Seat, heard: "Callable[[Process, Any], None]") -> None:
        self.name = given.name
        self.shard = given.shard if given.shard >= 0 else None
        self.seat = seat.number
        self.place = seat
        self.slot = seat.slot
        self.edition = given.edition
        self.pid = 0
        self.ready = False
        self.ready_at = 0.0  # on the loop's clock
        self.retiring = False
        self.reason: str | None = None
        self._heard = heard
        self._first: asyncio.Future[Message | None] = asyncio.get_running_loop().create_future()
        self._early: list[Message] | None = []  # what it said after it was ready and before anybody knew it
        self._silent = asyncio.Event()
        self._link: Link | None = None
        self._child: asyncio.subprocess.Process | None = None

    async def start(self, module: str, given: Inheritance) -> None:
        """`module` is run by the interpreter that runs us. Raises OSError when the system will not start it."""
        ours, theirs = socket.socketpair()
        try:
            given = msgspec.structs.replace(given, link=theirs.fileno(), seat=self.seat)
            descriptors = (given.link, given.memory, given.config, given.lock, given.listener)
            self._child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",  # a folder named `config` where the daemon was started is not ours
                "-m",
                module,
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
        self.pid = self._child.pid
        self.slot.born(self.pid)
        self._link = await Link.open(ours, self._received, self._closed)

    async def first_message(self, within: float) -> Message | None:
        """`Ready`, `Failed` or `Refused`; None when it died without, or was too slow and is therefore killed."""
        try:
            async with asyncio.timeout(within):
                return await asyncio.shield(self._first)
        except TimeoutError:
            self.kill(f"it was not ready within {within:g} s")
            return None

    async def ended(self) -> str:
        """How it ended, as people say it. What it sent before has then been read."""
        assert self._child is not None  # noqa: S101 - nobody waits for the end of what was never started
        status = await self._child.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await self._silent.wait()
        if self._link is not None:
            self._link.close()
        return told(status)

    def introduced(self) -> None:
        """Everybody knows that it is there: what it says is told from now on, and what it has said already."""
        early, self._early = self._early or [], None
        for message in early:
            self._heard(self, message)

    def send(self, message: Message) -> None:
        if self._link is not None:
            self._link.send(message)

    def signal(self, number: signal.Signals) -> None:
        if self._child is not None:
            with suppress(ProcessLookupError):
                self._child.send_signal(number)

    def kill(self, reason: str | None = None) -> None:
        """At once; with a reason that is logged."""
        if reason is not None:
            self.reason = reason
            log.error("process_killed", name=self.name, pid=self.pid, because=reason)
        self.signal(signal.SIGKILL)

    def _received(self, message: Message) -> None:
        if isinstance(message, Ready | Failed | Refused):
            if not self._first.done():
                self._first.set_result(message)
        elif self._early is None:
            self._heard(self, message)
        else:
            self._early.append(message)

    def _closed(self) -> None:
        if not self._first.done():
            self._first.set_result(None)
        self._silent.set()


def told(status: int) -> str:
    """As people say it."""
    return f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
