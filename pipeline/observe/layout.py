"""Where each number lives in a shard's block of shared memory: a row of 64-bit cells, laid out from the configuration.

Shards write cells, the supervisor reads them; both make the same layout from the same routes and workers.
"""

from collections.abc import Mapping
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


class RouteCells(NamedTuple):
    """`outcomes` is the first of `len(PLACES) * len(REASONS)` cells; `lost` is written by the supervisor only.

    `gated` are the cells of requests that the head gate refused, `len(REASONS)` for each class and as many for those
    whose class is not known; empty but for the route "-". Each counts as offered and as ended. `reduced` is the first
    of `len(STEPS)` cells.
    """

    name: str
    worker: str
    outcomes: int
    lost: int
    offered: int
    gated: range
    first_token: HistogramCells
    prompt_tokens: int
    completion_tokens: int
    deltas: int
    reduced: int


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


class _Allocator:
    """Hands out cells, in order."""

    def __init__(self) -> None:
        self.used = 0

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

    def route(self, name: str, worker: str, outcomes: int, lost: int, offered: int) -> RouteCells:
        gates = (len(CLASSES) + 1) * len(REASONS) if name == UNROUTED else 0
        gated = self.take(gates)
        return RouteCells(
            name=name,
            worker=worker,
            outcomes=outcomes,
            lost=lost,
            offered=offered,
            gated=range(gated, gated + gates),
            first_token=self.histogram(FIRST_TOKEN_BOUNDS),
            prompt_tokens=self.take(),
            completion_tokens=self.take(),
            deltas=self.take(),
            reduced=self.take(len(STEPS)),
        )

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


class MetricsLayout:
    """The cells of one block. `routes` says which worker serves each route.

    A block is copied upwards while its shard writes to it. So that nothing ever seems to have ended before it was
    offered, or to be offered before it arrived, all outcomes lie below all `offered`, and those below `opened`. What
    the head gate refused is offered and ended in one cell, which may lie anywhere. `classes` holds, for each class and
    for those without, the first of `len(OUTCOMES)` cells.
    """

    def __init__(self, routes: Mapping[str, str]) -> None:
        names = (UNROUTED, *routes)
        allocator = _Allocator()
        outcomes = [allocator.take(len(PLACES) * len(REASONS)) for _ in names]
        lost = [allocator.take() for _ in names]
        offered = [allocator.take() for _ in names]
        self.opened = allocator.take()
        self.connections = allocator.take()
        self.lines_dropped = allocator.take()
        self.lag = allocator.histogram(LAG_BOUNDS)
        self.stages = {place: allocator.stage() for place in STAGES}
        self.routes = {
            name: allocator.route(name, routes.get(name, UNROUTED), *cells)
            for name, *cells in zip(names, outcomes, lost, offered, strict=True)
        }
        self.workers = {name: allocator.worker(name) for name in dict.fromkeys(routes.values())}
        self.classes = {name: allocator.take(len(OUTCOMES)) for name in (*CLASSES, UNCLASSED)}
        self.size = -(-allocator.used // _CACHE_LINE) * _CACHE_LINE

    def gauges(self) -> list[int]:
        """The cells that tell what is now, not what has been: meaningless once their shard is dead."""
        stages = [cell for s in self.stages.values() for cell in (s.depth, s.capacity, s.active)]
        workers = [
            cell
            for w in self.workers.values()
            for cell in (
                w.inflight,
                w.limit,
                *range(w.waiting, w.waiting + len(CLASSES)),
                w.estimated_wait,
                w.allowed_wait,
                w.standing,
            )
        ]
        return [self.connections, *stages, *workers]
