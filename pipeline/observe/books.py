"""What a block of counters says about requests, and how a dead shard's block is balanced."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from pipeline.core.outcomes import OUTCOME_OF, Outcome, Place, Reason
from pipeline.observe.layout import OUTCOMES, PLACES, REASONS, UNROUTED, Cells, MetricsLayout, ReplicaCells, RouteCells

_ENDINGS = tuple((place, reason) for place in PLACES for reason in REASONS)


def offered(route: RouteCells, cells: Cells) -> int:
    """How many requests asked for a route. What the head gate refused asked for none, and counts under "-"."""
    return cells[route.offered] + sum(cells[index] for index in route.gated)


def endings(route: RouteCells, cells: Cells) -> Iterator[tuple[Place | None, Reason, int]]:
    """How a route's requests ended: every combination that happened, once. The place of a lost request is not known."""
    for index, (place, reason) in enumerate(_ENDINGS, route.outcomes):
        number = cells[index]
        if route.gated and place is Place.INGRESS:
            number += sum(cells[gate] for gate in route.gated[REASONS.index(reason) :: len(REASONS)])
        if number:
            yield place, reason, number
    if lost := cells[route.lost]:
        yield None, Reason.SHARD_LOST, lost


def by_class(layout: MetricsLayout, cells: Cells) -> Iterator[tuple[str, Outcome, int]]:
    """How the requests of each class ended, also where none did, with those that the head gate refused."""
    gates = iter(layout.routes[UNROUTED].gated)
    for name, first in layout.classes.items():
        gated = dict.fromkeys(OUTCOMES, 0)
        for reason, gate in zip(REASONS, islice(gates, len(REASONS)), strict=True):
            gated[OUTCOME_OF[reason]] += cells[gate]
        for index, outcome in enumerate(OUTCOMES, first):
            yield name, outcome, cells[index] + gated[outcome]


def still_open(route: RouteCells, cells: Cells) -> int:
    """How many of a route's requests have not ended."""
    return offered(route, cells) - sum(number for _, _, number in endings(route, cells))


def unrouted(layout: MetricsLayout, cells: Cells) -> int:
    """How many requests have arrived and are not yet offered to any route."""
    return cells[layout.opened] - sum(cells[route.offered] for route in layout.routes.values())


def present_replicas(layout: MetricsLayout, blocks: Sequence[Cells]) -> Iterator[tuple[str, str, ReplicaCells]]:
    """The replicas that any of the blocks' shards has, each with its worker's name and its own."""
    for worker in layout.workers.values():
        for name, where in worker.replicas.items():
            if any(block[where.state] for block in blocks):
                yield worker.name, name, where


def book_lost(layout: MetricsLayout, cells: Cells) -> int:
    """Ends every open request of a dead shard's block as failed (`shard_lost`) and zeroes its gauges; returns how many.

    For the supervisor, once the shard is gone and before a replacement writes to the block.
    """
    cells[layout.routes[UNROUTED].offered] += unrouted(layout, cells)
    lost = 0
    for route in layout.routes.values():
        number = still_open(route, cells)
        cells[route.lost] += number
        lost += number
    for index in layout.gauges():
        cells[index] = 0
    return lost


def totals(layout: MetricsLayout, blocks: Iterable[Cells]) -> dict[str, int]:
    """Requests offered, and ended by outcome, over all routes."""
    summed = {"offered": 0, **{outcome.value: 0 for outcome in Outcome}}
    for cells in blocks:
        for route in layout.routes.values():
            for _, reason, number in endings(route, cells):
                summed[OUTCOME_OF[reason].value] += number
            summed["offered"] += offered(route, cells)
    return summed
