import asyncio

from pipeline.core.outcomes import Place, Reason
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.observe.books import totals
from pipeline.observe.layout import MetricsLayout
from pipeline.observe.metrics import ShardMetrics
from pipeline.observe.observers import Observers
from tests.observe.requests import ROUTES, complete, end, open_ticket


class Seen(Hooks):
    def __init__(self) -> None:
        self.tickets: list[Ticket] = []

    def after_end(self, ticket: Ticket) -> None:
        self.tickets.append(ticket)


async def test_outcomes_count_at_once_and_the_rest_together_soon_after():
    layout = MetricsLayout(ROUTES)
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
    assert cells[layout.routes["docs"].prompt_tokens] == 30


async def test_what_waits_is_bounded_and_flushed_at_the_end():
    layout = MetricsLayout(ROUTES)
    seen = Seen()
    metrics = ShardMetrics(layout, [0] * layout.size)
    observers = Observers(metrics, [seen], asyncio.get_running_loop().call_later)
    for n in range(600):
        end(open_ticket(observers, request_id=f"r{n}"), Reason.QUEUE_FULL, Place.INFERENCE)
    assert len(seen.tickets) == 512
    observers.flush()
    assert len(seen.tickets) == 600
