"""Where each number lives in a shard's block of shared memory: a row of 64-bit cells, laid out from the configuration.

Shards write cells, the supervisor reads them; all make the same layout from the same history of routes and workers.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

from pipeline.core.outcomes import STAGES, Outcome, Place, Priority, Reason

UNROUTED = "-"  # the route of requests that never had one
UNCLASSED = "-"  # the class of requests that ended before it was known
PLACES = tuple(Place)
REASONS = tuple(Reason)
OUTCOMES = tuple(Outcome)
CLASSES = tuple(priority.label for priority in Priority)
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
    whose class is not known; empty but for the route "-". Each counts as offered and as ended. `reduced` is the first
    of `len(STEPS)` cells. `answers` are those of each of its workers, by name.
    """

    name: str
    outcomes: int
    lost: int
    offered: int
    gated: range
    reduced: int
    answers: dict[str, AnswerCells]


class WorkerCells(NamedTuple):
    """`waiting` is the first of `len(CLASSES)` cells; `estimated_wait` and `allowed_wait` are in nanoseconds,
    `standing` 0 or 1."""

    name: str
    inflight: int
    limit: int
    waiting: int
    estimated_wait: int
    allowed_wait: int
    standing: int
    pushed_back: int
    inter_token: HistogramCells

    def gauges(self) -> list[int]:
        """The cells that tell what is now."""
        waiting = range(self.waiting, self.waiting + len(CLASSES))
        return [self.inflight, self.limit, *waiting, self.estimated_wait, self.allowed_wait, self.standing]


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
            inter_token=self.histogram(INTER_TOKEN_BOUNDS),
        )

    def _gated(self, name: str) -> range:
        cells = (len(CLASSES) + 1) * len(REASONS) if name == UNROUTED else 0
        first = self.take(cells)
        return range(first, first + cells)


class MetricsLayout:
    """The cells of one block. It only ever grows: a name, once known, keeps its cells. `history` says in which order
    routes became known, and with which workers; the same history makes the same layout in every process. A shard's
    layout must have grown before it serves what is new.

    A block is copied while its shard writes to it (`copied`). So that nothing ever seems to have ended before it was
    offered, or to be offered before it arrived, outcomes are read before `offered`, and those before `opened`. Each
    part, the first and those that it grew by, is read upwards and has all its outcomes below all its `offered`;
    `opened` lies above them in the first part, and the parts are read in turn, that one last. What the head gate
    refused is offered and ended in one cell, which may lie anywhere. `classes` holds, for each class and for those
    without, the first of `len(OUTCOMES)` cells.
    """

    def __init__(self, history: Sequence[Mapping[str, Sequence[str]]]) -> None:
        first = _Allocator(0)
        known = dict(history[0]) if history else {}
        self.routes = first.routes((UNROUTED, *known))
        self.opened = first.take()
        self.connections = first.take()
        self.lines_dropped = first.take()
        self.tasks = first.take()
        self.stalls = first.take()
        self.relayed = first.take()
        self.sessions = first.take()
        self.lag = first.histogram(LAG_BOUNDS)
        self.stages = {place: first.stage() for place in STAGES}
        self.classes = {name: first.take(len(OUTCOMES)) for name in (*CLASSES, UNCLASSED)}
        self.workers: dict[str, WorkerCells] = {}
        self._history: list[dict[str, list[str]]] = []
        self._parts: list[int] = []  # where each ends
        self._add(known, first)
        for routes in history[1:]:
            self.extend(routes)

    @property
    def history(self) -> list[dict[str, list[str]]]:
        """What makes the same layout in another process."""
        return [{route: list(workers) for route, workers in routes.items()} for routes in self._history]

    @property
    def size(self) -> int:
        """Cells that a block needs."""
        return self._parts[-1]

    def extend(self, routes: Mapping[str, Sequence[str]]) -> None:
        """Makes known what of `routes` and their workers was not. All processes must do so in the same order."""
        new = self._unknown(routes)
        if new:
            allocator = _Allocator(self.size)
            self.routes |= allocator.routes([name for name in new if name not in self.routes])
            self._add(new, allocator)

    def fits(self, routes: Mapping[str, Sequence[str]], room: int) -> bool:
        """Whether a block of `room` cells would still do after `extend(routes)`."""
        return MetricsLayout([*self._history, routes]).size <= room

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
        return [self.connections, self.tasks, self.sessions, *stages, *workers]

    def _unknown(self, routes: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
        """The routes that are not known, or not with all these workers, each with those that are new to it."""
        new: dict[str, list[str]] = {}
        for name, workers in routes.items():
            route = self.routes.get(name)
            added = [worker for worker in dict.fromkeys(workers) if route is None or worker not in route.answers]
            if added or route is None:
                new[name] = added
        return new

    def _add(self, routes: Mapping[str, Sequence[str]], allocator: _Allocator) -> None:
        """A part whose routes have their cells: those of their answers and workers behind them."""
        for name, workers in routes.items():
            self.routes[name].answers.update({worker: allocator.answer() for worker in dict.fromkeys(workers)})
            for worker in workers:
                if worker not in self.workers:
                    self.workers[worker] = allocator.worker(worker)
        self._history.append({name: list(workers) for name, workers in routes.items()})
        self._parts.append(-(-allocator.used // _CACHE_LINE) * _CACHE_LINE)
