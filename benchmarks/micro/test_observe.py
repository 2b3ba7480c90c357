"""Counting and logging, beside the Prometheus client's own counters."""

import os
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram

from benchmarks.micro.measure import Measure
from pipeline.core.outcomes import STAGES, Place, Reason
from pipeline.core.ticket import Ticket
from pipeline.observe.books import totals
from pipeline.observe.layout import FIRST_TOKEN_BOUNDS, Counted, MetricsLayout
from pipeline.observe.lines import LineWriter
from pipeline.observe.metrics import ShardMetrics, observe
from pipeline.observe.requests import JsonRequestLog
from pipeline.process.counters import SharedMemory
from workers.base import Usage

LAYOUT = MetricsLayout([Counted({"m": ["w"]})])
REQUESTS = 64
SECONDS = [0.001 * number for number in range(REQUESTS)]


@pytest.fixture
def cells() -> Iterator[memoryview]:
    """A shard's block, in shared memory as always."""
    memory = SharedMemory.create(shards=1, block=LAYOUT.size)
    yield memory.blocks[0]
    memory.close()


def completed(metrics: ShardMetrics, tokens: int) -> Ticket:
    """A request that has run through all five stages and is about to end."""
    ticket = Ticket("r1", 0.0, metrics.after_end)
    metrics.after_open(ticket)
    ticket.route, ticket.worker, ticket.place = "m", "w", Place.STREAM
    metrics.after_route(ticket)
    ticket.sojourn, ticket.service = [0.001] * len(STAGES), [0.003] * len(STAGES)
    ticket.first_delta = 0.02
    ticket.usage = Usage(100, tokens)
    ticket.chunks = tokens
    ticket.gaps = [0.02] * (tokens - 1)
    return ticket


@pytest.mark.parametrize("tokens", [1, 64])
def test_book_an_ended_request(measure: Measure, cells: memoryview, tokens: int) -> None:
    """Outcome, times in all stages, time to first token, gaps between tokens, token counts."""
    metrics = ShardMetrics(LAYOUT, cells)

    def end_and_book(tickets: list[Ticket]) -> list[Ticket]:
        for ticket in tickets:
            ticket.end(Reason.DONE, 2.0)
            metrics.observe(ticket)
        return tickets

    measure.fresh(
        f"observe: ended request of {tokens} token{'s'[: tokens - 1]}",
        lambda: [completed(metrics, tokens) for _ in range(REQUESTS)],
        end_and_book,
        units=REQUESTS,
        unit="request",
    )
    ended = totals(LAYOUT, [cells])
    assert ended["completed"] == ended["offered"] > 0
    assert cells[LAYOUT.routes["m"].answers["w"].completion_tokens] == tokens * ended["completed"]


def test_log_line(measure: Measure, cells: memoryview) -> None:
    """As JSON, gathered and written; the reader is /dev/null."""
    ticket = completed(ShardMetrics(LAYOUT, cells), 64)
    ticket.end(Reason.DONE, 2.0)
    descriptor = os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(descriptor)
    log = JsonRequestLog(writer, "shard 0")

    def write() -> None:
        for _ in range(REQUESTS):
            log.after_end(ticket)
        writer.flush()

    measure("observe: log line of an ended request", write, units=REQUESTS, unit="request")
    assert writer.dropped == 0
    writer.close()
    os.close(descriptor)


def test_counter(measure: Measure, cells: memoryview) -> None:
    metrics, ticket = ShardMetrics(LAYOUT, cells), Ticket("r1", 0.0, lambda _: None)

    def count() -> int:
        for _ in range(REQUESTS):
            metrics.after_open(ticket)
        return cells[LAYOUT.opened]

    counted = measure("observe: counter", count, units=REQUESTS, unit="count", group="counter")
    assert counted > 0
    assert counted % REQUESTS == 0


def test_counter_yardstick(measure: Measure) -> None:
    registry = CollectorRegistry()
    counter = Counter("requests", "Requests.", registry=registry)

    def count() -> None:
        for _ in range(REQUESTS):
            counter.inc()

    measure("prometheus_client: Counter.inc", count, units=REQUESTS, unit="count", group="counter", yardstick=True)
    counted = registry.get_sample_value("requests_total")
    assert counted
    assert counted % REQUESTS == 0


def test_histogram(measure: Measure, cells: memoryview) -> None:
    histogram = LAYOUT.routes["m"].answers["w"].first_token

    def book() -> None:
        for seconds in SECONDS:
            observe(cells, histogram, seconds)

    measure("observe: histogram", book, units=REQUESTS, unit="observation", group="histogram")
    booked = sum(cells[histogram.first + bucket] for bucket in range(len(histogram.bounds) + 1))
    assert booked > 0
    assert booked % REQUESTS == 0


def test_histogram_yardstick(measure: Measure) -> None:
    registry = CollectorRegistry()
    histogram = Histogram("first_token", "Seconds.", registry=registry, buckets=FIRST_TOKEN_BOUNDS)

    def book() -> None:
        for seconds in SECONDS:
            histogram.observe(seconds)

    measure(
        "prometheus_client: Histogram.observe",
        book,
        units=REQUESTS,
        unit="observation",
        group="histogram",
        yardstick=True,
    )
    booked = registry.get_sample_value("first_token_count")
    assert booked
    assert booked % REQUESTS == 0
