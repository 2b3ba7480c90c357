"""Where each number lives in a shard's block of shared memory: a row of 64-bit cells, laid out from the configuration.

Shards write cells, the supervisor reads them; all make the same layout from the same history of routes, workers and
their replicas.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from msgspec import Struct

from pipeline.core.outcomes import STAGES, Outcome, Place, Priority, Reason

UNROUTED = "-"  # the route of requests that never had one
UNCLASSED = "-"  # the class of requests that ended before it was known
PLACES = tuple(Place)
REASONS = tuple(Reason)
OUTCOMES = tuple(Outcome)
CLASSES = tuple(priority.label for priority in Priority)
# What the workflow engine says of itself (`pipeline.workflow.engine.Engine.stats`): counts since it began, then what is
# now.
RUN_ENDS = ("completed", "partial", "failed", "cancelled")
STEP_ENDS = ("completed", "skipped", "failed")
WORKFLOW_COUNTS = (
    "runs_submitted",
    "runs_resumed",
    "runs_lost",
    *(f"runs_{state}" for state in RUN_ENDS),
    *(f"steps_{state}" for state in STEP_ENDS),
    "steps_retried",
    "steps_postponed",
    "journal_failures",
)
WORKFLOW_GAUGES = ("runs_executing", "steps_executing", "steps_pending")
STEPS = ("fewer_passages", "shorter_answer")  # of degrading, as the configuration calls them

# Upper bounds of buckets, in seconds.
QUEUE_BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
)
STAGE_BOUNDS = (
    0.0001,
    0.00025,
    0.0005,
    0.001,
    0.0025,
    0.005,
    0.01,
    0.05,
    0.1,
    0.25,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
    30.0,
    120.0,
)
FIRST_TOKEN_BOUNDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 20.0, 60.0)
INTER_TOKEN_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 0.5, 1.0, 5.0)
LAG_BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)

_CACHE_LINE = 8  # cells: two shards never write to the same line


class Counted(Struct, frozen=True):
    """What is counted: the `routes`, each with its workers, and of workers the `replicas`, by name. A step in the
    history of a `MetricsLayout`."""

    routes: dict[str, list[str]] = {}
    replicas: dict[str, list[str]] = {}


class Cells(Protocol):
    """A block, or anything else that is indexed by cell: a memoryview of format "Q", in tests a list."""

    def __getitem__(self, index: int, /) -> int: ...

    def __setitem__(self, index: int, value: int, /) -> None: ...


class HistogramCells(NamedTuple):
    """`len(bounds) + 1` buckets from `first` on, each counting its own interval; `total` sums up nanoseconds."""

    first: int
    total: int
    bounds: tuple[float, ...]


class StageCells(NamedTuple):
    depth: int
    capacity: int
    active: int
    offered: int
    taken: int
    shed: int
    sojourn: HistogramCells
    service: HistogramCells


class AnswerCells(NamedTuple):
    """What one worker answered on one route."""

    first_token: HistogramCells
    prompt_tokens: int
    completion_tokens: int
    deltas: int


class RouteCells(NamedTuple):
    """`outcomes` is the first of `len(PLACES) * len(REASONS)` cells; `lost` is written by the supervisor only.

    `gated` are the cells of requests that the head gate refused, `len(REASONS)` for each class and as many for those
    whose class is not known; empty but for the route "-". Each counts as offered and as ended. `static` counts the
    answers that no worker gave. `reduced` is the first of `len(STEPS)` cells. `answers` are those of each of its
    workers, by name.
    """

    name: str
    outcomes: int
    lost: int
    offered: int
    gated: range
    static: int
    reduced: int
    answers: dict[str, AnswerCells]


class ReplicaCells(NamedTuple):
    """`state` is 0 where the shard has no such replica, else one more than its circuit's; `healthy` 0 or 1. `reopens`
    is in nanoseconds."""

    state: int
    healthy: int
    inflight: int
    reopens: int
    calls: int
    failures: int

    def gauges(self) -> list[int]:
        """The cells that tell what is now."""
        return [self.state, self.healthy, self.inflight, self.reopens]


class WorkerCells(NamedTuple):
    """`waiting` is the first of `len(CLASSES)` cells; `estimated_wait` and `allowed_wait` are in nanoseconds,
    `standing` 0 or 1. `replicas` are those that it has or had, by name."""

    name: str
    inflight: int
    limit: int
    waiting: int
    estimated_wait: int
    allowed_wait: int
    standing: int
    pushed_back: int
    retries: int
    fallbacks: int
    inter_token: HistogramCells
    replicas: dict[str, ReplicaCells]

    def gauges(self) -> list[int]:
        """The cells that tell what is now."""
        waiting = range(self.waiting, self.waiting + len(CLASSES))
        replicas = [cell for replica in self.replicas.values() for cell in replica.gauges()]
        return [self.inflight, self.limit, *waiting, self.estimated_wait, self.allowed_wait, self.standing, *replicas]

    def followed(self) -> list[int]:
        """The cells that add up what is counted elsewhere."""
        replicas = [cell for replica in self.replicas.values() for cell in (replica.calls, replica.failures)]
        return [self.pushed_back, self.retries, self.fallbacks, *replicas]


class _Allocator:
    """Hands out cells, in order."""

    def __init__(self, used: int) -> None:
        self.used = used

    def take(self, cells: int = 1) -> int:
        """The first of `cells` new ones."""
        first = self.used
        self.used += cells
        return first

    def histogram(self, bounds: tuple[float, ...]) -> HistogramCells:
        return HistogramCells(self.take(len(bounds) + 1), self.take(), bounds)

    def stage(self) -> StageCells:
        return StageCells(
            depth=self.take(),
            capacity=self.take(),
            active=self.take(),
            offered=self.take(),
            taken=self.take(),
            shed=self.take(),
            sojourn=self.histogram(QUEUE_BOUNDS),
            service=self.histogram(STAGE_BOUNDS),
        )

    def routes(self, names: Sequence[str]) -> dict[str, RouteCells]:
        """All outcomes below all `offered`."""
        outcomes = [self.take(len(PLACES) * len(REASONS)) for _ in names]
        lost = [self.take() for _ in names]
        offered = [self.take() for _ in names]
        return {
            name: RouteCells(
                name=name,
                outcomes=outcomes[index],
                lost=lost[index],
                offered=offered[index],
                gated=self._gated(name),
                static=self.take(),
                reduced=self.take(len(STEPS)),
                answers={},
            )
            for index, name in enumerate(names)
        }

    def answer(self) -> AnswerCells:
        return AnswerCells(self.histogram(FIRST_TOKEN_BOUNDS), self.take(), self.take(), self.take())

    def worker(self, name: str) -> WorkerCells:
        return WorkerCells(
            name=name,
            inflight=self.take(),
            limit=self.take(),
            waiting=self.take(len(CLASSES)),
            estimated_wait=self.take(),
            allowed_wait=self.take(),
            standing=self.take(),
            pushed_back=self.take(),
            retries=self.take(),
            fallbacks=self.take(),
            inter_token=self.histogram(INTER_TOKEN_BOUNDS),
            replicas={},
        )

    def replica(self) -> ReplicaCells:
        return ReplicaCells(*(self.take() for _ in ReplicaCells._fields))

    def _gated(self, name: str) -> range:
        cells = (len(CLASSES) + 1) * len(REASONS) if name == UNROUTED else 0
        first = self.take(cells)
        return range(first, first + cells)


class MetricsLayout:
    """The cells of one block. It only ever grows: a name, once known, keeps its cells. `history` says in which order
    routes became known, with which workers, and of these which replicas; the same history makes the same layout in
    every process. A shard's layout must have grown before it serves what is new.

    A block is copied while its shard writes to it (`copied`). So that nothing ever seems to have ended before it was
    offered, or to be offered before it arrived, outcomes are read before `offered`, and those before `opened`. Each
    part, the first and those that it grew by, is read upwards and has all its outcomes below all its `offered`;
    `opened` lies above them in the first part, and the parts are read in turn, that one last. What the head gate
    refused is offered and ended in one cell, which may lie anywhere. `classes` holds, for each class and for those
    without, the first of `len(OUTCOMES)` cells.
    """

    def __init__(self, history: Sequence[Counted]) -> None:
        first = _Allocator(0)
        known = history[0] if history else Counted()
        self.routes = first.routes((UNROUTED, *known.routes))
        self.opened = first.take()
        self.connections = first.take()
        self.lines_dropped = first.take()
        self.tasks = first.take()
        self.stalls = first.take()
        self.relayed = first.take()
        self.sessions = first.take()
        self.workflow_counts = {name: first.take() for name in WORKFLOW_COUNTS}
        self.workflow_gauges = {name: first.take() for name in WORKFLOW_GAUGES}
        self.lag = first.histogram(LAG_BOUNDS)
        self.stages = {place: first.stage() for place in STAGES}
        self.classes = {name: first.take(len(OUTCOMES)) for name in (*CLASSES, UNCLASSED)}
        self.workers: dict[str, WorkerCells] = {}
        self._history: list[Counted] = []
        self._parts: list[int] = []  # where each ends
        self._add(self._unknown(known), first)
        for step in history[1:]:
            self.extend(step)

    @property
    def history(self) -> list[Counted]:
        """What makes the same layout in another process."""
        return list(self._history)

    @property
    def size(self) -> int:
        """Cells that a block needs."""
        return self._parts[-1]

    def extend(self, step: Counted) -> None:
        """Makes known what of it was not. All processes must do so in the same order."""
        new = self._unknown(step)
        if new.routes or new.replicas:
            allocator = _Allocator(self.size)
            self.routes |= allocator.routes([name for name in new.routes if name not in self.routes])
            self._add(new, allocator)

    def fits(self, step: Counted, room: int) -> bool:
        """Whether a block of `room` cells would still do after `extend(step)`."""
        return MetricsLayout([*self._history, step]).size <= room

    def copied(self, cells: memoryview) -> list[int]:
        """The block as it is, in the order in which it may be read while its shard goes on. `cells` may be larger."""
        copy: list[int] = []
        for first, end in reversed(list(zip([0, *self._parts], self._parts, strict=False))):
            copy[:0] = cells[first:end].tolist()
        return copy

    def gauges(self) -> list[int]:
        """The cells that tell what is now, not what has been: meaningless once their shard is dead."""
        stages = [cell for s in self.stages.values() for cell in (s.depth, s.capacity, s.active)]
        workers = [cell for worker in self.workers.values() for cell in worker.gauges()]
        workflows = self.workflow_gauges.values()
        return [self.connections, self.tasks, self.sessions, *workflows, *stages, *workers]

    def _unknown(self, step: Counted) -> Counted:
        """The routes that are not known, or not with all these workers, each with those that are new to it; and the
        replicas that are new to their workers. One that no route uses has none."""
        routes: dict[str, list[str]] = {}
        for name, workers in step.routes.items():
            route = self.routes.get(name)
            added = _new(workers, () if route is None else route.answers)
            if added or route is None or not self._parts:
                routes[name] = added
        used = {*self.workers, *(worker for workers in routes.values() for worker in workers)}
        replicas: dict[str, list[str]] = {}
        for name, names in step.replicas.items():
            worker = self.workers.get(name)
            added = _new(names, () if worker is None else worker.replicas) if name in used else []
            if added:
                replicas[name] = added
        return Counted(routes, replicas)

    def _add(self, step: Counted, allocator: _Allocator) -> None:
        """A part whose routes have their cells: those of their answers and workers behind them."""
        for name, workers in step.routes.items():
            self.routes[name].answers.update({worker: allocator.answer() for worker in workers})
            for worker in workers:
                if worker not in self.workers:
                    self.workers[worker] = allocator.worker(worker)
        for name, names in step.replicas.items():
            self.workers[name].replicas.update({replica: allocator.replica() for replica in names})
        self._history.append(step)
        self._parts.append(-(-allocator.used // _CACHE_LINE) * _CACHE_LINE)


def _new(names: Sequence[str], known: Iterable[str]) -> list[str]:
    """Each once."""
    before = set(known)
    return [name for name in dict.fromkeys(names) if name not in before]
