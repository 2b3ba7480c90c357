"""A server's processes, from their start to the last one's end."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.peers.interrupt import TICK

GRACE = 10.0  # seconds from SIGTERM to SIGKILL
_TAIL = 16_384


class Server:
    """A process, its output in a file, and everything that it starts.

    It gets a session of its own: Ctrl-C in the terminal does not reach it, and what it starts stays known by that
    session even when the process between has ended.
    """

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        self.log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=dict(environment),
                start_new_session=True,
            )
        self._known: dict[int, psutil.Process] = {}

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def status(self) -> int | None:
        """The exit status of the first process; None while it runs, below 0 when a signal ended it."""
        return self._process.poll()

    def members(self) -> list[psutil.Process]:
        """All that live: of its session, and descendants that have left it."""
        for process in self._found():
            self._known.setdefault(process.pid, process)
        alive = [process for process in self._known.values() if _alive(process)]
        self._known = {process.pid: process for process in alive}
        return alive

    def interrupt(self) -> None:
        """SIGINT for the first process."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        self._process.kill()

    def stop(self, grace: float = GRACE) -> None:
        """End them all: SIGTERM for the first process, then for what it left behind; SIGKILL after `grace` seconds."""
        begun = time.monotonic()
        self.members()  # those in sessions of their own are found while their parent lives
        self._process.terminate()
        asked = {self.pid}
        while (alive := self.members()) and time.monotonic() < begun + 2 * grace:
            if time.monotonic() > begun + grace:
                _each(alive, signal.SIGKILL)
            elif self.status is not None:
                _each([process for process in alive if process.pid not in asked], signal.SIGTERM)
                asked.update(process.pid for process in alive)
            time.sleep(TICK)
        self._process.poll()

    def last_lines(self, count: int = 8) -> str:
        """Of its output."""
        with self.log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
            return "\n".join(file.read().decode(errors="replace").rstrip().splitlines()[-count:])

    def _found(self) -> Iterator[psutil.Process]:
        for process in psutil.process_iter():
            with suppress(OSError):
                if os.getsid(process.pid) == self.pid:
                    yield process
        for process in [*self._known.values()]:
            with suppress(psutil.Error):
                yield from process.children(recursive=True)


def _alive(process: psutil.Process) -> bool:
    """A zombie is not: it holds nothing, and is no longer ours to end."""
    with suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _each(processes: Sequence[psutil.Process], number: signal.Signals) -> None:
    for process in processes:
        with suppress(psutil.Error):  # has gone by itself; a new one under its pid is left alone
            process.send_signal(number)
