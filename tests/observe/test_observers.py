import asyncio

import pytest

from pipeline.core.outcomes import Place, Reason
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.observe.books import totals
from pipeline.observe.layout import MetricsLayout
from pipeline.observe.metrics import ShardMetrics
from pipeline.observe.observers import Observers, Selective
from tests.observe.requests import COUNTED, complete, end, open_ticket, refusal, refuse


class Seen(Hooks):
    def __init__(self) -> None:
        self.tickets: list[Ticket] = []

    def after_end(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)


async def test_outcomes_count_at_once_and_the_rest_together_soon_after():
    layout = MetricsLayout([COUNTED])
    cells = [0] * layout.size
    seen = Seen()
    observers = Observers(ShardMetrics(layout, cells), [seen], asyncio.get_running_loop().call_later)
    tickets = [complete(observers, request_id=f"r{n}") for n in range(3)]
    assert totals(layout, [cells])["completed"] == 3
    assert not seen.tickets
    async with asyncio.timeout(1):
        while not seen.tickets:
            await asyncio.sleep(0.001)
    assert seen.tickets == tickets
    assert cells[layout.routes["docs"].answers["small"].prompt_tokens] == 30


async def test_what_waits_is_bounded_and_flushed_at_the_end():
    layout = MetricsLayout([COUNTED])
    seen = Seen()
    metrics = ShardMetrics(layout, [0] * layout.size)
    observers = Observers(metrics, [seen], asyncio.get_running_loop().call_later)
    for n in range(600):
        end(open_ticket(observers, request_id=f"r{n}"), Reason.QUEUE_FULL, Place.INFERENCE)
    assert len(seen.tickets) == 512
    observers.flush()
    assert len(seen.tickets) == 600


class Choosy(Seen, Selective):
    """Wants to see what completed."""

    def wants(self, ticket: Ticket) -> bool:
        return ticket.ending.reason is Reason.DONE


class NoLater:
    """The loop's `call_later`, which here must not be needed."""

    def __call__(self, delay, callback):
        raise AssertionError("a timer was set")


@pytest.fixture
def layout() -> MetricsLayout:
    return MetricsLayout([COUNTED])


def test_a_refusal_that_nobody_wants_to_see_leaves_nothing_to_do(layout):
    cells = [0] * layout.size
    choosy = Choosy()
    observers = Observers(ShardMetrics(layout, cells), [choosy], NoLater())
    refuse(observers, 1.0)
    observers.after_gate(refusal(), 0.0, 1.0)
    assert totals(layout, [cells])["shed"] == 2
    observers.flush()
    assert not choosy.tickets


def test_what_was_shed_after_it_waited_is_booked_although_nobody_wants_to_see_it(layout):
    cells = [0] * layout.size
    choosy = Choosy()
    observers = Observers(ShardMetrics(layout, cells), [choosy])
    ticket = open_ticket(observers)
    ticket.sojourn[Place.INFERENCE] = 0.3
    end(ticket, Reason.STANDING_QUEUE, Place.INFERENCE)
    assert cells[layout.stages[Place.INFERENCE].sojourn.total] == 300_000_000
    assert not choosy.tickets
    assert complete(observers) in choosy.tickets


def test_an_observer_that_cannot_say_what_it_wants_hurts_nobody(layout, caplog):
    class Undecided(Seen, Selective):
        """Does not say."""

    seen = Seen()
    cells = [0] * layout.size
    observers = Observers(ShardMetrics(layout, cells), [Undecided(), seen])
    refuse(observers, 1.0)
    assert len(seen.tickets) == totals(layout, [cells])["shed"] == 1


def test_a_gated_refusal_is_told_to_all_who_listen(layout):
    class Broken(Hooks):
        def after_gate(self, error, arrived, now, request_id=""):
            raise ZeroDivisionError

    class Told(Hooks):
        def after_gate(self, error, arrived, now, request_id=""):
            told.append((error.reason, arrived, now, request_id))

    told: list[tuple[str, float, float, str]] = []
    cells = [0] * layout.size
    observers = Observers(ShardMetrics(layout, cells), [Seen(), Broken(), Told()])
    observers.after_gate(refusal(Reason.QUEUE_FULL), 1.0, 1.5, "req-7")
    assert told == [("queue_full", 1.0, 1.5, "req-7")]
    assert totals(layout, [cells])["shed"] == 1
