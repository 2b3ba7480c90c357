"""Counts on the data path: what a shard writes into its block of shared memory. Integers only, nothing is rendered.

Every transition of a request is the increment of *one* cell, so that a shard killed between any two instructions leaves
a block that still balances: a request is unrouted (opened, not offered), open (offered, without an outcome) or ended.
One that the head gate refused was never any of these: its only cell says that it was offered and has ended.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Protocol

from pipeline.core.errors import Overloaded
from pipeline.core.outcomes import OUTCOME_OF, Place, Priority
from pipeline.core.ports import Hooks
from pipeline.core.queue import QueueStatistics
from pipeline.core.ticket import Ticket
from pipeline.observe.layout import (
    CLASSES,
    OUTCOMES,
    QUEUE_BOUNDS,
    REASONS,
    STAGE_BOUNDS,
    STEPS,
    UNCLASSED,
    UNROUTED,
    Cells,
    HistogramCells,
    MetricsLayout,
    WorkerCells,
)
from pipeline.policy.pool import Pool

_NANO = 1e9
_LONGEST = 1e6  # seconds: an estimate may be endless, a cell holds 64 bits
_MOST_TOKENS = 1 << 32  # of one answer: a backend may claim anything, a cell holds 64 bits
_STATIC = "static_answer"
_STEP_OF = {"passages": STEPS.index("fewer_passages"), "max_tokens": STEPS.index("shorter_answer")}


def observe(cells: Cells, histogram: HistogramCells, seconds: float, times: int = 1) -> None:
    """Books `times` equal observations."""
    cells[histogram.first + bisect_left(histogram.bounds, seconds)] += times
    cells[histogram.total] += int(seconds * _NANO * times)


def observe_all(cells: Cells, histogram: HistogramCells, seconds: list[float]) -> None:
    """Books many observations, and sorts them: one step for each bucket that they fall into."""
    seconds.sort()
    bounds, first = histogram.bounds, histogram.first
    booked, count, last = 0, len(seconds), len(bounds)
    while booked < count:
        bucket = bisect_left(bounds, seconds[booked])
        upto = count if bucket == last else bisect_right(seconds, bounds[bucket], booked)
        cells[first + bucket] += upto - booked
        booked = upto
    cells[histogram.total] += int(sum(seconds) * _NANO)


class ShardMetrics(Hooks):
    """What the requests of one shard add up to. `cells` is its block, which only it writes to while it lives.

    A request that was handed from one shard to another is offered and ends where it was accepted; what else there is to
    count of it is counted where it went through the stages."""

    def __init__(self, layout: MetricsLayout, cells: Cells) -> None:
        self._cells = cells
        self._opened = layout.opened
        self._routes = layout.routes
        self._workers = layout.workers
        self._reasons: dict[str, int] = {reason: index for index, reason in enumerate(REASONS)}
        self._outcomes = {reason: OUTCOMES.index(OUTCOME_OF[reason]) for reason in REASONS}
        self._classes = [layout.classes[name] for name in CLASSES]
        self._unclassed = layout.classes[UNCLASSED]
        self._gated = layout.routes[UNROUTED].gated
        self._stages = [
            (s.sojourn.first, s.sojourn.total, s.service.first, s.service.total) for s in layout.stages.values()
        ]

    def after_open(self, ticket: Ticket) -> None:
        if ticket.accepted_by is None:
            self._cells[self._opened] += 1

    def after_route(self, ticket: Ticket) -> None:
        if ticket.accepted_by is None:
            self._cells[self._routes[ticket.route].offered] += 1

    def after_end(self, ticket: Ticket) -> None:
        ending = ticket.ending
        if ending is None or ticket.accepted_by is not None:
            return
        cells = self._cells
        route = self._routes[ticket.route]
        if ticket.route == UNROUTED:
            cells[route.offered] += 1
        reason = ending.reason
        cells[route.outcomes + ending.place * len(REASONS) + self._reasons[reason]] += 1
        known = ticket.caller is not None or ticket.place is not Place.INGRESS
        cells[(self._classes[ticket.priority] if known else self._unclassed) + self._outcomes[reason]] += 1

    def after_gate(self, error: Overloaded, arrived: float, now: float, request_id: str = "") -> None:  # noqa: ARG002 - the hook's signature
        group = len(CLASSES) if error.priority is None else error.priority
        self._cells[self._gated[group * len(REASONS) + self._reasons[error.reason]]] += 1

    def observe(self, ticket: Ticket) -> None:
        """Books what else is known about an ended request that got beyond the door."""
        cells = self._cells
        route = self._routes[ticket.route]
        self._observe_stages(ticket)
        answer = route.answers.get(ticket.worker)
        if answer is not None:  # its inference has begun
            self.after_deltas(ticket)
            if ticket.first_delta is not None:
                observe(cells, answer.first_token, ticket.first_delta)
            usage = ticket.usage
            if usage is not None:
                cells[answer.prompt_tokens] += min(max(usage.prompt_tokens, 0), _MOST_TOKENS)
                cells[answer.completion_tokens] += min(max(usage.completion_tokens, 0), _MOST_TOKENS)
        for entry in ticket.reduced:
            if entry == _STATIC:
                cells[route.static] += 1
            else:
                cells[route.reduced + _STEP_OF[entry.partition("=")[0]]] += 1

    def after_deltas(self, ticket: Ticket) -> None:
        self._cells[self._routes[ticket.route].answers[ticket.worker].deltas] += ticket.chunks - ticket.counted
        ticket.counted = ticket.chunks
        gaps = ticket.gaps
        if gaps:
            ticket.gaps = []
            observe_all(self._cells, self._workers[ticket.worker].inter_token, gaps)

    def _observe_stages(self, ticket: Ticket) -> None:
        """A stage was entered when it shows any time at all; the clock is finer than the shortest stage."""
        cells = self._cells
        for waited, worked, (queue, queued, stage, staged) in zip(
            ticket.sojourn, ticket.service, self._stages, strict=True
        ):
            if waited:
                cells[queue + bisect_left(QUEUE_BOUNDS, waited)] += 1
                cells[queued] += int(waited * _NANO)
            elif worked:
                cells[queue] += 1  # it found the stage idle
            if waited or worked:
                cells[stage + bisect_left(STAGE_BOUNDS, worked)] += 1
                cells[staged] += int(worked * _NANO)


class WorkerState(Protocol):
    """How a worker's calls are limited. `limit` may run at once and `inflight` do; `waiting` counts by class the
    requests that were admitted and have not started. `standing`: the queue has not been short for too long (CoDel).
    `pushed_back` counts the worker's answers 429 and 503 since creation; `pool` has its replicas."""

    inflight: int
    pushed_back: int
    pool: Pool | None

    @property
    def limit(self) -> int: ...

    @property
    def waiting(self) -> Sequence[int]: ...

    @property
    def standing(self) -> bool: ...

    @property
    def allowed_wait(self) -> float: ...

    def estimated_wait(self, priority: Priority, now: float) -> float:
        """Seconds until a newcomer of this class would start."""
        ...


class ShardGauges:
    """What a shard looks like at a moment; written on its tick, not on the data path. Its block is at zero when its
    process begins."""

    def __init__(self, layout: MetricsLayout, cells: Cells) -> None:
        self._layout = layout
        self._cells = cells
        self._shown: set[str] = set()  # the workers that there are
        self._last: dict[int, int] = {}  # what those who count said last, by the cell that follows it

    def stage(self, place: Place, statistics: QueueStatistics, active: int) -> None:
        cells, s = self._cells, self._layout.stages[place]
        cells[s.depth] = statistics.depth
        cells[s.capacity] = statistics.capacity
        cells[s.active] = active
        cells[s.offered] = statistics.offered
        cells[s.taken] = statistics.taken
        cells[s.shed] = statistics.shed

    def workers(self, states: Mapping[str, WorkerState], now: float) -> None:
        """All that there are; one that is no longer among them is shown as doing nothing."""
        for name, state in states.items():
            self.worker(name, state, now)
        for name in self._shown.difference(states):
            self._shown.remove(name)
            cells = self._layout.workers[name]
            for cell in cells.gauges():
                self._cells[cell] = 0
            for cell in cells.followed():
                self._last.pop(cell, None)

    def worker(self, name: str, state: WorkerState, now: float) -> None:
        """A worker that no route uses has no cells: nothing is written."""
        w = self._layout.workers.get(name)
        if w is None:
            return
        cells = self._cells
        cells[w.limit] = state.limit
        cells[w.inflight] = state.inflight
        for index, number in enumerate(state.waiting, w.waiting):
            cells[index] = number
        cells[w.estimated_wait] = _nanoseconds(state.estimated_wait(Priority.NORMAL, now))
        cells[w.allowed_wait] = _nanoseconds(state.allowed_wait)
        cells[w.standing] = int(state.standing)
        self._shown.add(name)
        self._follow(w.pushed_back, state.pushed_back)
        if state.pool is not None:
            self._pool(w, state.pool, now)

    def _pool(self, w: WorkerCells, pool: Pool, now: float) -> None:
        cells = self._cells
        self._follow(w.retries, pool.retries)
        self._follow(w.fallbacks, pool.fallbacks)
        gone = dict(w.replicas)
        for replica in pool.replicas:
            r = gone.pop(replica.name, None)
            if r is None:
                continue
            cells[r.state] = replica.breaker.state + 1
            cells[r.healthy] = int(replica.healthy)
            cells[r.inflight] = replica.inflight
            cells[r.reopens] = _nanoseconds(replica.breaker.wait(now))
            self._follow(r.calls, replica.calls)
            self._follow(r.failures, replica.failures)
        for r in gone.values():
            for cell in r.gauges():
                cells[cell] = 0
            self._last.pop(r.calls, None)
            self._last.pop(r.failures, None)

    def _follow(self, cell: int, count: int) -> None:
        """Adds what was counted since the last time. Who counts less than then has begun anew."""
        last = self._last.get(cell, 0)
        self._last[cell] = count
        self._cells[cell] += count - last if count >= last else count

    def process(self, connections: int, lines_dropped: int) -> None:
        """`lines_dropped` counts those since the last call."""
        self._cells[self._layout.connections] = connections
        self._cells[self._layout.lines_dropped] += lines_dropped

    def sessions(self, owned: int, relayed: int) -> None:
        """Sessions with work here, and requests handed to other shards since the start."""
        self._cells[self._layout.sessions] = owned
        self._cells[self._layout.relayed] = relayed

    def workflows(self, stats: Mapping[str, int]) -> None:
        """What the engine says of itself."""
        for name, cell in self._layout.workflow_counts.items():
            self._follow(cell, stats.get(name, 0))
        for name, cell in self._layout.workflow_gauges.items():
            self._cells[cell] = stats.get(name, 0)

    def tasks(self, number: int) -> None:
        self._cells[self._layout.tasks] = number

    def stalled(self) -> None:
        """The event loop stood still for longer than is allowed, once more."""
        self._cells[self._layout.stalls] += 1

    def lag(self, seconds: float) -> None:
        observe(self._cells, self._layout.lag, seconds)


def _nanoseconds(seconds: float) -> int:
    return int(min(max(seconds, 0.0), _LONGEST) * _NANO)
