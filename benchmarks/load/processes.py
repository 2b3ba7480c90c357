"""The target's processes: which they are, and what they cost while the run lasts. Needs Linux, as Headgate does."""

import asyncio
import contextlib
import ipaddress
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import psutil

from benchmarks.report.model import Processes, Sample

SAMPLES = 1000  # more are merged, two by two
EACH = 16  # processes whose memory is noted one by one: the largest


class NoProcess(LookupError):
    """Raised when the process that was named as the target's cannot be watched; `pid` says which, the message why."""

    def __init__(self, pid: int, why: str) -> None:
        super().__init__(f"process {pid} {why}")
        self.pid = pid


class Found(NamedTuple):
    """`how` is `port` (they listen there), `pid` (it was named), or says in words why there is nothing."""

    how: str
    pids: list[int]


def find(url: str, pid: int | None = None) -> Found:
    """The processes that serve `url` on this machine, with their descendants; never this one.

    All that hold the listening socket, so that a supervisor counts that has handed it on to its children, but not the
    shell that it was started from. Raises NoProcess where a `pid` is named and there is none that could be watched.
    """
    if pid is not None:
        return Found("pid", family([_named(pid)]))
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    addresses = _addresses(parts.hostname or "")
    if not addresses:
        return Found("its host's name has no address", [])
    if not _local(addresses):
        return Found("not on this machine", [])
    return _listeners(port, addresses)


def family(pids: Iterable[int]) -> list[int]:
    """These processes and their descendants, each once; this process and what only it has started are left out."""
    found = dict.fromkeys(pid for pid in pids if pid != os.getpid())
    waiting = list(found)
    for pid in waiting:
        for child in children(pid):
            if child not in found and child != os.getpid():
                found[child] = None
                waiting.append(child)
    return list(found)


def children(pid: int) -> list[int]:
    """Of all its threads; empty when it has gone."""
    found: list[int] = []
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            found += [int(child) for child in Path(task, "children").read_text().split()]
    return found


def cpu_seconds(pid: int) -> float:
    """Of its living threads, to the nanosecond; 0.0 when it has gone or the kernel does not say."""
    total = 0
    for task in _tasks(pid):
        with contextlib.suppress(OSError):
            total += int(Path(task, "schedstat").read_text().split()[0])
    return total / 1e9


def _tasks(pid: int) -> list[str]:
    try:
        return [entry.path for entry in os.scandir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _named(pid: int) -> int:
    if pid == os.getpid():
        raise NoProcess(pid, "is the load generator itself")
    try:
        if pid > 0 and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            return pid
    except psutil.Error:
        pass
    raise NoProcess(pid, "is not there")


def _addresses(host: str) -> set[str]:
    """Where connections to `host` go; empty when it has no address."""
    if host in ("0.0.0.0", "::"):  # connections to these stay on the machine
        return {"127.0.0.1", "::1"}
    with contextlib.suppress(OSError, UnicodeError):
        return {_plain(str(info[4][0])) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    return set()


def _plain(address: str) -> str:
    return address.partition("%")[0].removeprefix("::ffff:")


def _local(addresses: set[str]) -> bool:
    own = {_plain(each.address) for interface in psutil.net_if_addrs().values() for each in interface}
    return any(address in own or ipaddress.ip_address(address).is_loopback for address in addresses)


def _listeners(port: int, addresses: set[str]) -> Found:
    if not _serving(psutil.net_connections("tcp"), port, addresses):
        return Found("nobody listens there", [])
    listeners = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _serving(process.net_connections("tcp"), port, addresses):
                listeners.append(process.pid)
    if not listeners:
        return Found("not permitted to see who listens there", [])
    if listeners == [os.getpid()]:
        return Found("the load generator itself listens there", [])
    return Found("port", family(listeners))


def _serving(connections: Iterable[Any], port: int, own: set[str]) -> bool:
    for each in connections:
        if each.status == psutil.CONN_LISTEN and each.laddr and each.laddr.port == port:
            address = _plain(each.laddr.ip)
            if address in own or ipaddress.ip_address(address).is_unspecified:
                return True
    return False


class _Watched:
    """One process. `cpu` is since it was first seen, or since its start where it is `new`."""

    def __init__(self, pid: int, *, new: bool) -> None:
        self._process = psutil.Process(pid)
        self._seen = 0.0
        self._before = 0.0
        self.resident = 0
        self.read()
        if not new:
            self._before = self._seen

    @property
    def cpu(self) -> float:
        return self._seen - self._before

    def read(self) -> bool:
        """False when it has gone; what it had used by then stays."""
        try:
            if not self._process.is_running():
                return False
            with self._process.oneshot():
                times = self._process.cpu_times()
                self.resident = self._process.memory_info().rss
        except (psutil.ZombieProcess, psutil.AccessDenied):  # it is there, and still the same one
            return True
        except OSError:  # no descriptor is left to look with
            return True
        except psutil.NoSuchProcess:
            return False
        # The first is to the nanosecond, but without threads that have ended; the other in steps of 10 ms, rounded
        # down, and with them. Neither is ever too large.
        self._seen = max(self._seen, cpu_seconds(self._process.pid), times.user + times.system)
        return True


class Watch:
    """Samples processes and all that they start, from now on.

    A process that ends keeps its CPU in the sum, up to its last sample. Resident memory is each process's own, summed:
    pages that several share count several times.
    """

    def __init__(self, found: Found, interval: float = 1.0, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.found = found
        self._clock = clock
        self._interval = interval
        self._lock = threading.Lock()
        self._began = self._last = clock()
        self._alive: dict[int, _Watched] = {}
        self._all: list[tuple[int, _Watched]] = []
        self._cpu = 0.0
        self._peak = 0
        self._samples: list[Sample] = []
        self._discover(found.pids, new=False)
        self._look()

    async def run(self) -> None:
        """Samples until it is cancelled; returns at once where there is nothing to watch. In a thread, so that a target
        of hundreds of threads does not keep the generator's event loop waiting."""
        while self.found.pids:
            await asyncio.sleep(self._interval)
            await asyncio.to_thread(self.sample)

    def sample(self) -> None:
        with self._lock:
            self._discover(self._alive, new=True)
            resident, running = self._look()
            now = self._clock()
            cpu = sum(watched.cpu for _, watched in self._all)
            if now - self._last < self._interval / 10:  # of so short a time, the cores would be noise
                return
            cores = (cpu - self._cpu) / (now - self._last)
            self._samples.append(
                Sample(at=now - self._began, cores=cores, resident=resident, processes=running, by_pid=self._each())
            )
            self._last, self._cpu = now, cpu
            if len(self._samples) > SAMPLES:
                self._samples = merged(self._samples)
                self._interval *= 2

    def result(self, requests: int) -> Processes:
        """What they cost until now, for so many requests that were completed or refused."""
        found = self.found
        if not found.pids:
            return Processes(found=found.how, pids=[], cpu=None, cpu_per_request=None, peak_resident=None, samples=[])
        self.sample()
        with self._lock:
            cpu = sum(watched.cpu for _, watched in self._all)
            return Processes(
                found=found.how,
                pids=sorted({pid for pid, _ in self._all}),
                cpu=cpu,
                cpu_per_request=cpu / requests if requests else None,
                peak_resident=self._peak,
                samples=list(self._samples),
            )

    def _discover(self, pids: Iterable[int], *, new: bool) -> None:
        for pid in family(pids):
            if pid not in self._alive:
                with contextlib.suppress(psutil.Error, OSError):
                    watched = self._alive[pid] = _Watched(pid, new=new)
                    self._all.append((pid, watched))

    def _each(self) -> dict[int, int]:
        largest = sorted(self._alive.items(), key=lambda item: -item[1].resident)[:EACH]
        return {pid: watched.resident for pid, watched in largest}

    def _look(self) -> tuple[int, int]:
        """Reads all; resident bytes, and how many processes there are (one that has ended, but was not waited for yet,
        occupies nothing and is none)."""
        resident = running = 0
        for pid, watched in list(self._alive.items()):
            if not watched.read():
                del self._alive[pid]
                continue
            resident += watched.resident
            running += watched.resident > 0
        self._peak = max(self._peak, resident)
        return resident, running


def merged(samples: list[Sample]) -> list[Sample]:
    """Half as many: each two neighbours as one, with their mean cores and the larger of the rest."""
    result = []
    before = 0.0
    for index in range(0, len(samples) - 1, 2):
        first, second = samples[index : index + 2]
        span = second.at - before
        used = first.cores * (first.at - before) + second.cores * (second.at - first.at)
        result.append(
            Sample(
                at=second.at,
                cores=used / span if span else 0.0,
                resident=max(first.resident, second.resident),
                processes=max(first.processes, second.processes),
                by_pid={
                    pid: max(one.by_pid.get(pid, 0) for one in (first, second)) for pid in first.by_pid | second.by_pid
                },
            )
        )
        before = second.at
    return result + samples[len(result) * 2 :]
