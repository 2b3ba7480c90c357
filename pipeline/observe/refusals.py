"""Which refusals get a line in the log. Under overload most requests are refused, and a line for each would cost more
than the refusal and fill disks."""

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from pipeline.core.errors import Overloaded
from pipeline.core.outcomes import OUTCOME_OF, Outcome, Place, Reason
from pipeline.core.ticket import Ticket
from pipeline.observe.layout import UNROUTED
from pipeline.observe.observers import Selective

# What is shed, and what a key's holder can do without end: the answers 401, 403 and 429.
BOUNDED = frozenset(reason for reason in Reason if OUTCOME_OF[reason] is Outcome.SHED) | {
    Reason.UNAUTHORIZED,
    Reason.FORBIDDEN,
    Reason.REQUEST_LIMIT,
    Reason.TOKEN_LIMIT,
    Reason.CONCURRENCY_LIMIT,
}
_SECOND = 1.0
_ROUTES_TOLD = 10  # by name; a line must not grow with the configuration

LeftOut = Mapping[tuple[str, str, Place], int]  # by reason, route and stage


class Refusals:
    """Lets `per_second` refusals through for each reason, counts the others, and gives their numbers to `tell`: a
    second after the first of them, and when it is closed. Belongs to one event loop."""

    def __init__(self, per_second: int, tell: Callable[[LeftOut], None]) -> None:
        self._per_second = per_second
        self._tell = tell
        self._since = 0.0  # when the second began that `_passed` counts in
        self._passed: dict[str, int] = {}
        self._left_out: dict[tuple[str, str, Place], int] = {}
        self._timer: asyncio.TimerHandle | None = None

    def passes(self, reason: str, route: str, place: Place, now: float) -> bool:
        """Whether this refusal is to be logged; it is counted if not. `now` may come from any clock, if always the
        same."""
        if not self._since <= now < self._since + _SECOND:
            self._since = now
            self._passed.clear()
        passed = self._passed.get(reason, 0)
        if passed < self._per_second:
            self._passed[reason] = passed + 1
            return True
        if not self._left_out:
            self._arm()
        key = (reason, route, place)
        self._left_out[key] = self._left_out.get(key, 0) + 1
        return False

    def close(self) -> None:
        """Tells what has not been told."""
        if self._timer is not None:
            self._timer.cancel()
        self._due()

    def _arm(self) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop: `close` tells it all
            return
        self._timer = loop.call_later(_SECOND, self._due)

    def _due(self) -> None:
        self._timer = None
        left_out, self._left_out = self._left_out, {}
        if left_out:
            self._tell(left_out)


def summary(left_out: LeftOut) -> dict[str, Any]:
    """The fields of a line about them: how many in all, and by reason, stage and route, the most frequent first."""
    reasons: Counter[str] = Counter()
    stages: Counter[str] = Counter()
    routes: Counter[str] = Counter()
    for (reason, route, place), number in left_out.items():
        reasons[str(reason)] += number
        stages[place.label] += number
        routes[route] += number
    told = routes.most_common(_ROUTES_TOLD)
    fields = {
        "count": reasons.total(),
        "reasons": dict(reasons.most_common()),
        "stages": dict(stages.most_common()),
        "routes": dict(told),
    }
    if len(routes) > len(told):
        fields["other_routes"] = routes.total() - sum(number for _, number in told)
    return fields


class RequestLog(Protocol):
    """Writes a line about each request that it is shown."""

    def after_end(self, ticket: Ticket) -> None: ...

    def after_gate(self, error: Overloaded, arrived: float, now: float, request_id: str = "") -> None: ...


class BoundedLog(Selective):
    """Shows a log every request but the refused ones that do not pass."""

    def __init__(self, log: RequestLog, refusals: Refusals) -> None:
        self._log = log
        self._refusals = refusals

    def wants(self, ticket: Ticket) -> bool:
        ending = ticket.ending
        if ending is None or ticket.ended is None:
            return False
        reason = ending.reason
        return reason not in BOUNDED or self._refusals.passes(reason, ticket.route, ending.place, ticket.ended)

    def after_end(self, ticket: Ticket) -> None:
        self._log.after_end(ticket)

    def after_gate(self, error: Overloaded, arrived: float, now: float, request_id: str = "") -> None:
        if self._refusals.passes(error.reason, UNROUTED, Place.INGRESS, now):
            self._log.after_gate(error, arrived, now, request_id)
