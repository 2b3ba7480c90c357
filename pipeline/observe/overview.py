"""What the shards' counters say about stages, workers and routes now, as structs for the operators' side.

Figures add up over shards, as in `/metrics`; a wait is that of the shard where it is longest. Gauges are as of a
shard's last tick, a tenth of a second ago at most.
"""

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

from pipeline.core.outcomes import OUTCOME_OF, Outcome, Reason
from pipeline.observe.books import endings, offered, unrouted
from pipeline.observe.layout import CLASSES, MetricsLayout, ReplicaCells, RouteCells, StageCells, WorkerCells
from pipeline.observe.ledger import Reading

Cells = list[int]
_NANO = 1e9
_STATES = ("closed", "half-open", "open")  # of circuits, as `pipeline.policy.breaker` numbers them


class Counters(Protocol):
    """Where the figures come from: `pipeline.observe.ledger`."""

    layout: MetricsLayout

    def read(self) -> Reading: ...


class StageFigures(Struct, frozen=True):
    """`depth` requests wait in the queue, which has `capacity` places, and `active` are worked on. Since the start,
    `taken` were taken from it and `shed` found no place. A shard that is down has no capacity."""

    depth: int
    capacity: int
    active: int
    taken: int
    shed: int


class StageOverview(StageFigures, frozen=True):
    """Over all shards, and each by its number."""

    name: str
    shards: dict[int, StageFigures]


class ReplicaFigures(Struct, frozen=True):
    """`state` of the circuit is "closed", "half-open" or "open", and `healthy` whether the last look at it went well:
    both as the shard says that thinks the worst of it. `calls` were made since the start, of which `failures` failed,
    and `in_flight` are under way. `reopens_s` is how long it is until the first shard tries it again, 0 while any may
    call it."""

    name: str
    state: str
    healthy: bool
    in_flight: int
    calls: int
    failures: int
    reopens_s: float


class WorkerFigures(Struct, frozen=True):
    """`in_flight` calls run, of at most `limit`; `waiting` are requests by class that were let in and whose call has
    not begun. `estimated_wait_s` is how long a newcomer of class normal would wait, `allowed_wait_s` how long it may,
    0 for ever. `standing`: its queue has not been short for too long. `pushed_back` counts answers 429 and 503,
    `retries` the calls that were made again, `fallbacks` the requests that came because another worker had failed.
    `replicas` are those that there are."""

    limit: int
    in_flight: int
    waiting: dict[str, int]
    estimated_wait_s: float
    allowed_wait_s: float
    standing: bool
    pushed_back: int
    retries: int
    fallbacks: int
    replicas: list[ReplicaFigures]


class RequestFigures(Struct, frozen=True):
    """`open` have not ended; the rest of those `offered` have, by outcome. Of the shed ones, `circuit_open` were
    refused because no backend could be called; of the completed ones, `static_answers` got their route's own words."""

    offered: int
    open: int
    outcomes: dict[str, int]
    circuit_open: int = 0
    static_answers: int = 0


class ShardFigures(Struct, frozen=True):
    """`requests` are those that the shard accepted; `unrouted` of them have arrived and have no route yet. `tasks` is
    of its event loop, which stood for longer than `server.stall_ms` so many times (`stalls`)."""

    connections: int
    unrouted: int
    tasks: int
    stalls: int
    requests: RequestFigures


def stages(counters: Counters) -> list[StageOverview]:
    """In the order in which requests go through them."""
    reading = counters.read()
    return [
        StageOverview(
            *_stage(where, reading.total),
            name=place.label,
            shards={shard: StageFigures(*_stage(where, cells)) for shard, cells in reading.shards.items()},
        )
        for place, where in counters.layout.stages.items()
    ]


def workers(counters: Counters) -> dict[str, WorkerFigures]:
    """By name. One that no route has used yet has no figures, and is missing."""
    reading = counters.read()
    return {name: _worker(where, reading) for name, where in counters.layout.workers.items()}


def routes(counters: Counters) -> dict[str, RequestFigures]:
    """By name, "-" for the requests that never had one."""
    total = counters.read().total
    return {name: _requests([where], total) for name, where in counters.layout.routes.items()}


def shards(counters: Counters) -> dict[int, ShardFigures]:
    """By number."""
    layout = counters.layout
    known = list(layout.routes.values())
    return {
        shard: ShardFigures(
            connections=cells[layout.connections],
            unrouted=unrouted(layout, cells),
            tasks=cells[layout.tasks],
            stalls=cells[layout.stalls],
            requests=_requests(known, cells),
        )
        for shard, cells in counters.read().shards.items()
    }


def _stage(where: StageCells, cells: Cells) -> tuple[int, int, int, int, int]:
    return cells[where.depth], cells[where.capacity], cells[where.active], cells[where.taken], cells[where.shed]


def _worker(where: WorkerCells, reading: Reading) -> WorkerFigures:
    total = reading.total
    waiting = total[where.waiting : where.waiting + len(CLASSES)]
    return WorkerFigures(
        limit=total[where.limit],
        in_flight=total[where.inflight],
        waiting=dict(zip(CLASSES, waiting, strict=True)),
        estimated_wait_s=max(cells[where.estimated_wait] for cells in reading.blocks) / _NANO,
        allowed_wait_s=min(cells[where.allowed_wait] for cells in reading.blocks) / _NANO,
        standing=any(cells[where.standing] for cells in reading.blocks),
        pushed_back=total[where.pushed_back],
        retries=total[where.retries],
        fallbacks=total[where.fallbacks],
        replicas=[
            _replica(name, replica, known, total)
            for name, replica in where.replicas.items()
            if (known := [cells for cells in reading.blocks if cells[replica.state]])
        ],
    )


def _replica(name: str, where: ReplicaCells, blocks: Sequence[Cells], total: Cells) -> ReplicaFigures:
    return ReplicaFigures(
        name=name,
        state=_STATES[max(cells[where.state] for cells in blocks) - 1],
        healthy=all(cells[where.healthy] for cells in blocks),
        in_flight=total[where.inflight],
        calls=total[where.calls],
        failures=total[where.failures],
        reopens_s=min(cells[where.reopens] for cells in blocks) / _NANO,
    )


def _requests(routes: Sequence[RouteCells], cells: Cells) -> RequestFigures:
    outcomes = {outcome.value: 0 for outcome in Outcome}
    circuit_open = 0
    for route in routes:
        for _, reason, number in endings(route, cells):
            outcomes[OUTCOME_OF[reason].value] += number
            circuit_open += number if reason is Reason.CIRCUIT_OPEN else 0
    asked = sum(offered(route, cells) for route in routes)
    static = sum(cells[route.static] for route in routes)
    return RequestFigures(asked, asked - sum(outcomes.values()), outcomes, circuit_open, static)
