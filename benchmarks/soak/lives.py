"""What the daemon's processes hold, by their age: each life from its birth to its end, told apart also where a pid
comes again."""

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks.soak.growth import Allowance, Point, judged, thinned

_ROLES = {"pipeline.process.shard": "shard", "pipeline.process.retrieval": "knowledge"}
_TICKS = os.sysconf("SC_CLK_TCK")
_SAME_AGE = (25.0, 40.0)  # seconds after birth, at which lives are set side by side
_MOST_SAMPLES = 4000  # of one life; then every second one goes

# By role and measure. Python's heap settles after the first bursts, which is what the warm-ups are for.
ALLOWED: Mapping[tuple[str, str], Allowance] = {
    ("shard", "memory"): Allowance(warmup=30, grow=10, most=250),
    ("supervisor", "memory"): Allowance(warmup=30, grow=10, most=150),
    ("knowledge", "memory"): Allowance(warmup=30, grow=15, most=600),
    ("shard", "descriptors"): Allowance(warmup=30, grow=60, most=5000),
    ("supervisor", "descriptors"): Allowance(warmup=30, grow=8, most=200),
    ("knowledge", "descriptors"): Allowance(warmup=30, grow=12, most=500),
    ("shard", "threads"): Allowance(warmup=30, grow=4, most=60),
    ("supervisor", "threads"): Allowance(warmup=30, grow=2, most=30),
    ("knowledge", "threads"): Allowance(warmup=30, grow=4, most=60),
    ("shard", "tasks"): Allowance(warmup=30, grow=60, most=5000),
}
_UNITS = {"memory": "MB"}
_BETWEEN = 12.0  # MB by which the memory of equally old processes of a role may grow over the run


class Identity(NamedTuple):
    """A process. `start` is in clock ticks since the system's start: a pid comes again, the two together do not."""

    pid: int
    start: int


class Held(NamedTuple):
    """What a process holds at a moment; `age` in seconds, `memory` in MB."""

    age: float
    memory: float
    descriptors: int
    threads: int


class Life(msgspec.Struct):
    """`born` in seconds of the monotonic clock. `points` by measure: seconds of age, value."""

    role: str
    pid: int
    born: float
    points: dict[str, list[Point]]

    def add(self, measure: str, age: float, value: float) -> None:
        points = self.points.setdefault(measure, [])
        points.append((age, value))
        if len(points) > _MOST_SAMPLES:
            del points[1:-1:2]

    def last(self, measure: str) -> float:
        points = self.points.get(measure)
        return points[-1][1] if points else 0.0


class Lives:
    """All that ever were. `sample` looks at these processes; `current` are those seen at the last look."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.all: dict[Identity, Life] = {}
        self.current: list[Life] = []
        self._clock = clock

    def sample(self, pids: Iterable[int], supervisor: int) -> None:
        now = self._clock()
        self.current = []
        for pid in pids:
            seen = look(pid)
            if seen is None:
                continue
            who, held = seen
            life = self.all.get(who)
            if life is None:
                role = "supervisor" if pid == supervisor else _role(pid)
                if role is None:  # still on its way to what it will be
                    continue
                life = self.all[who] = Life(role, pid, now - held.age, {})
            for measure in ("memory", "descriptors", "threads"):
                life.add(measure, held.age, getattr(held, measure))
            self.current.append(life)

    def tasks(self, by_pid: Mapping[int, int]) -> None:
        """How many tasks the event loops of these processes have now."""
        for life in self.current:
            if life.pid in by_pid:
                life.add("tasks", self._clock() - life.born, by_pid[life.pid])

    def of(self, role: str) -> list[Life]:
        return [life for life in self.all.values() if life.role == role]

    def alive(self) -> list[Identity]:
        """Those of all that ever were that are still there."""
        return [who for who in self.all if (seen := look(who.pid)) is not None and seen[0] == who]

    def problems(self) -> Iterator[str]:
        for life in self.all.values():
            for measure, points in life.points.items():
                allowed = ALLOWED.get((life.role, measure))
                if allowed is not None:
                    name = f"{measure} of the {life.role} process {life.pid}"
                    yield from judged(name, points, allowed, _UNITS.get(measure, ""))
        for role in ("shard", "knowledge"):
            yield from self._between(role)

    def _between(self, role: str) -> Iterator[str]:
        """Whether later processes hold more than earlier ones did at their age."""
        points = sorted(self.at_same_age(role))
        if points:
            allowed = Allowance(warmup=points[0][0], grow=_BETWEEN, most=float("inf"))
            yield from judged(f"memory of {role} processes of the same age", points, allowed, "MB")

    def at_same_age(self, role: str) -> Iterator[Point]:
        """Of each life that got so old: when it began, and its memory at that age."""
        least, most = _SAME_AGE
        for life in self.of(role):
            for age, value in life.points.get("memory", ()):
                if least <= age <= most:
                    yield life.born, value
                    break

    def report(self) -> list[Life]:
        """Every life, with fewer points."""
        return [
            Life(life.role, life.pid, life.born, {name: list(thinned(p, 100)) for name, p in life.points.items()})
            for life in self.all.values()
        ]


def look(pid: int) -> tuple[Identity, Held] | None:
    """None when there is no such process, or it has ended and was not waited for yet."""
    folder = Path("/proc") / str(pid)
    try:
        fields = (folder / "stat").read_text().rpartition(")")[2].split()
        status = (folder / "status").read_text()
        descriptors = sum(1 for _ in (folder / "fd").iterdir())
    except OSError:
        return None
    if fields[0] in "ZX":
        return None
    start, threads = int(fields[19]), int(fields[17])
    resident = next((int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:")), 0)
    age = time.clock_gettime(time.CLOCK_BOOTTIME) - start / _TICKS
    return Identity(pid, start), Held(age, resident / 1024, descriptors, threads)


def _role(pid: int) -> str | None:
    try:
        command = Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return None
    return next((role for module, role in _ROLES.items() if module in command), None)
