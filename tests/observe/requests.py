"""Tickets as the flow would leave them, for tests of what is counted and logged."""

from pipeline.core.errors import HeadgateError, Overloaded
from pipeline.core.outcomes import STAGES, Place, Reason
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.observe.layout import Counted
from pipeline.observe.metrics import ShardMetrics
from workers.base import Usage

ROUTES = {"docs": ["small"], "chat": ["small"], "code": ["large"]}
COUNTED = Counted(ROUTES, {"small": ["s1:8000", "s2:8000"], "large": ["l1:8000"]})


def open_ticket(hooks: Hooks, route: str | None = "docs", request_id: str = "req-1") -> Ticket:
    """A request that arrived and, unless `route` is None, was routed."""

    def ended(ticket: Ticket) -> None:
        hooks.after_end(ticket)
        if isinstance(hooks, ShardMetrics):  # what `Observers` do soon after
            hooks.observe(ticket)

    ticket = Ticket(request_id, 0.0, ended)
    hooks.after_open(ticket)
    if route is not None:
        ticket.route = route
        hooks.after_route(ticket)
    return ticket


def refusal(reason: Reason = Reason.WAIT_BUDGET, place: Place = Place.INGRESS) -> Overloaded:
    return Overloaded("The server is overloaded", place=place.label, reason=reason, retry_after=1.0)


def refuse(hooks: Hooks, now: float, error: HeadgateError | None = None, route: str = "docs") -> Ticket:
    """A request that was not let in."""
    ticket = open_ticket(hooks, route)
    ticket.fail(error or refusal(), now)
    return ticket


def end(ticket: Ticket, reason: Reason, place: Place, error: HeadgateError | None = None) -> None:
    ticket.place = place
    ticket.end(reason, 2.0, error)


def complete(hooks: Hooks, route: str = "docs", request_id: str = "req-1") -> Ticket:
    """A request through all five stages, each of which it waited 1 ms for and which took 3 ms."""
    ticket = open_ticket(hooks, route, request_id)
    ticket.worker = ROUTES[route][0]
    ticket.sojourn = [0.001] * len(STAGES)
    ticket.service = [0.003] * len(STAGES)
    ticket.first_delta = 0.02
    ticket.usage = Usage(10, 4)
    ticket.chunks = 3
    end(ticket, Reason.DONE, Place.STREAM)
    return ticket
