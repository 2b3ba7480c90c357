"""All that watches a shard's requests, in the order in which it is told."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from pipeline.core.errors import Overloaded
from pipeline.core.messages import PromptRequest
from pipeline.core.outcomes import Place
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.observe.metrics import ShardMetrics

log = structlog.get_logger()


_DELAY = 0.005  # seconds that an ended request waits for others to be looked at together
_MOST = 512  # that wait

Later = Callable[[float, Callable[[], None]], asyncio.TimerHandle]


class Selective(Hooks):
    """An observer that does not want to see every ended request. It is asked when the request ends."""

    def wants(self, ticket: Ticket) -> bool:
        raise NotImplementedError


class Observers(Hooks):
    """Metrics first: they must be right whatever a log does. A hook is only told what it overrides; one that fails is
    logged and hurts nobody.

    Outcomes are counted at once. What else there is to see of an ended request is looked at a few milliseconds later,
    together with others that ended meanwhile, which costs half as much as between other work. A request that was
    refused at the door and that no observer wants to see is not looked at again. `later` is the loop's `call_later`;
    without it all happens at once. What `flush` has not seen is lost with the process.
    """

    def __init__(self, metrics: ShardMetrics, others: Sequence[Hooks], later: Later | None = None) -> None:
        self._metrics = metrics
        self._later = later
        self._entered: list[Ticket] = []  # ended beyond the door
        self._waiting = 0
        self._timer: asyncio.TimerHandle | None = None
        self._on_end: list[_Shown] = []
        self.use(others)

    def use(self, others: Sequence[Hooks]) -> None:
        """From now on these, besides the metrics; those from before are shown what ended until now."""
        self.flush()
        self._on_submit = [hook.after_submit for hook in others if type(hook).after_submit is not Hooks.after_submit]
        self._on_gate = [hook.after_gate for hook in others if type(hook).after_gate is not Hooks.after_gate]
        self._on_end = [_Shown(hook) for hook in others if type(hook).after_end is not Hooks.after_end]

    def after_open(self, ticket: Ticket) -> None:
        self._metrics.after_open(ticket)

    def after_route(self, ticket: Ticket) -> None:
        self._metrics.after_route(ticket)

    def after_submit(self, request: PromptRequest) -> None:
        for hook in self._on_submit:
            try:
                hook(request)
            except Exception:
                log.exception("observer_failed", request_id=request.request_id)

    def after_gate(self, error: Overloaded, arrived: float, now: float, request_id: str = "") -> None:
        self._metrics.after_gate(error, arrived, now, request_id)
        for hook in self._on_gate:
            try:
                hook(error, arrived, now, request_id)
            except Exception:
                log.exception("observer_failed", request_id=request_id)

    def after_end(self, ticket: Ticket) -> None:
        self._metrics.after_end(ticket)
        if ticket.owner is not None:  # which shows it to its own observers
            return
        waits = ticket.place is not Place.INGRESS
        if waits:
            self._entered.append(ticket)
        for shown in self._on_end:
            try:
                if shown.wants is None or shown.wants(ticket):
                    shown.tickets.append(ticket)
                    waits = True
            except Exception:
                log.exception("observer_failed", request_id=ticket.request_id)
        if waits:
            self._look_later()

    def after_deltas(self, ticket: Ticket) -> None:
        self._metrics.after_deltas(ticket)

    def flush(self) -> None:
        """Looks at the requests that have ended. To be called once more at the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._waiting = 0
        entered, self._entered = self._entered, []
        for ticket in entered:
            self._metrics.observe(ticket)
        for shown in self._on_end:
            shown.show()

    def _look_later(self) -> None:
        self._waiting += 1
        if self._later is None or self._waiting >= _MOST:
            self.flush()
        elif self._timer is None:
            self._timer = self._later(_DELAY, self.flush)


class _Shown:
    """An observer, and the ended requests that it is going to be shown."""

    __slots__ = ("_hook", "tickets", "wants")

    def __init__(self, hook: Hooks) -> None:
        self.wants = hook.wants if isinstance(hook, Selective) else None
        self.tickets: list[Ticket] = []
        self._hook = hook.after_end

    def show(self) -> None:
        tickets, self.tickets = self.tickets, []
        for ticket in tickets:
            try:
                self._hook(ticket)
            except Exception:
                log.exception("observer_failed", request_id=ticket.request_id)
