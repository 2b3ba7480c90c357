"""All that watches a shard's requests, in the order in which it is told."""

import asyncio
from collections.abc import Callable, Sequence

import structlog

from pipeline.core.messages import PromptRequest
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.observe.metrics import ShardMetrics

log = structlog.get_logger()


_DELAY = 0.005  # seconds that an ended request waits for others to be looked at together
_MOST = 512  # that wait

Later = Callable[[float, Callable[[], None]], asyncio.TimerHandle]


class Observers(Hooks):
    """Metrics first: they must be right whatever a log does. A hook is only told what it overrides; one that fails is
    logged and hurts nobody.

    Outcomes are counted at once. What else there is to see of an ended request is looked at a few milliseconds later,
    together with others that ended meanwhile, which costs half as much as between other work. `later` is the loop's
    `call_later`; without it all happens at once. What `flush` has not seen is lost with the process.
    """

    def __init__(self, metrics: ShardMetrics, others: Sequence[Hooks], later: Later | None = None) -> None:
        self._metrics = metrics
        self._on_submit = [hook.after_submit for hook in others if type(hook).after_submit is not Hooks.after_submit]
        self._on_end = [hook.after_end for hook in others if type(hook).after_end is not Hooks.after_end]
        self._later = later
        self._ended: list[Ticket] = []
        self._timer: asyncio.TimerHandle | None = None

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

    def after_end(self, ticket: Ticket) -> None:
        self._metrics.after_end(ticket)
        self._ended.append(ticket)
        if self._later is None or len(self._ended) >= _MOST:
            self.flush()
        elif self._timer is None:
            self._timer = self._later(_DELAY, self.flush)

    def after_deltas(self, ticket: Ticket) -> None:
        self._metrics.after_deltas(ticket)

    def flush(self) -> None:
        """Looks at the requests that have ended. To be called once more at the end."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        ended, self._ended = self._ended, []
        for ticket in ended:
            self._metrics.observe(ticket)
        for hook in self._on_end:
            for ticket in ended:
                try:
                    hook(ticket)
                except Exception:
                    log.exception("observer_failed", request_id=ticket.request_id)
