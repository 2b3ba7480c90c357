"""Counts on the data path: what a shard writes into its block of shared memory. Integers only, nothing is rendered.

Every transition of a request is the increment of *one* cell, so that a shard killed between any two instructions leaves
a block that still balances: a request is unrouted (opened, not offered), open (offered, without an outcome) or ended.
"""

from bisect import bisect_left

from pipeline.core.outcomes import Place
from pipeline.core.ports import Hooks
from pipeline.core.queue import QueueStatistics
from pipeline.core.ticket import Ticket
from pipeline.observe.layout import (
    QUEUE_BOUNDS,
    REASONS,
    STAGE_BOUNDS,
    UNROUTED,
    Cells,
    HistogramCells,
    MetricsLayout,
)

_NANO = 1e9
_MOST_TOKENS = 1 << 32  # of one answer: a backend may claim anything, a cell holds 64 bits


def observe(cells: Cells, histogram: HistogramCells, seconds: float, times: int = 1) -> None:
    """Books `times` equal observations."""
    cells[histogram.first + bisect_left(histogram.bounds, seconds)] += times
    cells[histogram.total] += int(seconds * _NANO * times)


class ShardMetrics(Hooks):
    """What the requests of one shard add up to. `cells` is its block, which only it writes to while it lives."""

    def __init__(self, layout: MetricsLayout, cells: Cells) -> None:
        self._cells = cells
        self._opened = layout.opened
        self._routes = layout.routes
        self._workers = layout.workers
        self._reasons = {reason: index for index, reason in enumerate(REASONS)}
        self._stages = [
            (s.sojourn.first, s.sojourn.total, s.service.first, s.service.total) for s in layout.stages.values()
        ]

    def after_open(self, ticket: Ticket) -> None:  # noqa: ARG002 - the hook's signature
        self._cells[self._opened] += 1

    def after_route(self, ticket: Ticket) -> None:
        self._cells[self._routes[ticket.route].offered] += 1

    def after_end(self, ticket: Ticket) -> None:
        ending = ticket.ending
        if ending is None:
            return
        cells = self._cells
        route = self._routes[ticket.route]
        if ticket.route == UNROUTED:
            cells[route.offered] += 1
        cells[route.outcomes + ending.place * len(REASONS) + self._reasons[ending.reason]] += 1

    def observe(self, ticket: Ticket) -> None:
        """Books what else is known about an ended request."""
        cells = self._cells
        route = self._routes[ticket.route]
        self._observe_stages(ticket)
        self.after_deltas(ticket)
        if ticket.first_delta is not None:
            observe(cells, route.first_token, ticket.first_delta)
        usage = ticket.usage
        if usage is not None:
            cells[route.prompt_tokens] += min(max(usage.prompt_tokens, 0), _MOST_TOKENS)
            cells[route.completion_tokens] += min(max(usage.completion_tokens, 0), _MOST_TOKENS)

    def after_deltas(self, ticket: Ticket) -> None:
        self._cells[self._routes[ticket.route].deltas] += ticket.chunks - ticket.counted
        ticket.counted = ticket.chunks
        gaps = ticket.gaps
        if gaps:
            ticket.gaps = []
            for gap in gaps:
                observe(self._cells, self._workers[ticket.worker].inter_token, gap)

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


class ShardGauges:
    """What a shard looks like at a moment; written on its tick, not on the data path."""

    def __init__(self, layout: MetricsLayout, cells: Cells) -> None:
        self._layout = layout
        self._cells = cells
        # A replacement's queues count from zero, the block goes on where the dead shard left it.
        self._base = {place: (cells[s.offered], cells[s.taken], cells[s.shed]) for place, s in layout.stages.items()}

    def stage(self, place: Place, statistics: QueueStatistics, active: int) -> None:
        cells, s = self._cells, self._layout.stages[place]
        offered, taken, shed = self._base[place]
        cells[s.depth] = statistics.depth
        cells[s.capacity] = statistics.capacity
        cells[s.active] = active
        cells[s.offered] = offered + statistics.offered
        cells[s.taken] = taken + statistics.taken
        cells[s.shed] = shed + statistics.shed

    def inflight(self, tickets: set[Ticket]) -> None:
        """How many open requests each worker serves."""
        serving = dict.fromkeys(self._layout.workers, 0)
        for ticket in tickets:
            if ticket.worker in serving:
                serving[ticket.worker] += 1
        for name, number in serving.items():
            self._cells[self._layout.workers[name].inflight] = number

    def process(self, connections: int, lines_dropped: int) -> None:
        """`lines_dropped` counts those since the last call."""
        self._cells[self._layout.connections] = connections
        self._cells[self._layout.lines_dropped] += lines_dropped

    def lag(self, seconds: float) -> None:
        observe(self._cells, self._layout.lag, seconds)
