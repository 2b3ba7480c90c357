"""What a block of counters says about requests, and how a dead shard's block is balanced."""

from collections.abc import Iterable, Iterator

from pipeline.core.outcomes import OUTCOME_OF, Outcome, Place, Reason
from pipeline.observe.layout import OUTCOMES, PLACES, REASONS, UNCLASSED, UNROUTED, Cells, MetricsLayout, RouteCells

_ENDINGS = tuple((place, reason) for place in PLACES for reason in REASONS)


def offered(route: RouteCells, cells: Cells) -> int:
    """How many requests asked for a route. What the head gate refused asked for none, and counts under "-"."""
    return cells[route.offered] + sum(cells[index] for index in route.gated)


def endings(route: RouteCells, cells: Cells) -> Iterator[tuple[Place | None, Reason, int]]:
    """How a route's requests ended: every combination that happened, once. The place of a lost request is not known."""
    gates = dict(zip(REASONS, route.gated, strict=False))
    for index, (place, reason) in enumerate(_ENDINGS, route.outcomes):
        number = cells[index]
        if gates and place is Place.INGRESS:
            number += cells[gates[reason]]
        if number:
            yield place, reason, number
    if lost := cells[route.lost]:
        yield None, Reason.SHARD_LOST, lost


def by_class(layout: MetricsLayout, cells: Cells) -> Iterator[tuple[str, Outcome, int]]:
    """How the requests of each class ended, also where none did. Those that the head gate refused are among those
    without a class."""
    gated = dict.fromkeys(OUTCOMES, 0)
    for reason, index in zip(REASONS, layout.routes[UNROUTED].gated, strict=True):
        gated[OUTCOME_OF[reason]] += cells[index]
    for name, first in layout.classes.items():
        for index, outcome in enumerate(OUTCOMES, first):
            yield name, outcome, cells[index] + (gated[outcome] if name == UNCLASSED else 0)


def still_open(route: RouteCells, cells: Cells) -> int:
    """How many of a route's requests have not ended."""
    return offered(route, cells) - sum(number for _, _, number in endings(route, cells))


def unrouted(layout: MetricsLayout, cells: Cells) -> int:
    """How many requests have arrived and are not yet offered to any route."""
    return cells[layout.opened] - sum(cells[route.offered] for route in layout.routes.values())


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
