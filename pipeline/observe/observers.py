"""All that watches a shard's requests, in the order in which it is told."""

from collections.abc import Sequence

import structlog

from pipeline.core.messages import PromptRequest
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.observe.metrics import ShardMetrics

log = structlog.get_logger()


class Observers(Hooks):
    """Metrics first: they must be right whatever a log does. A hook is only told what it overrides; one that fails is
    logged and hurts nobody."""

    def __init__(self, metrics: ShardMetrics, others: Sequence[Hooks]) -> None:
        self._metrics = metrics
        self._on_submit = [hook.after_submit for hook in others if type(hook).after_submit is not Hooks.after_submit]
        self._on_end = [hook.after_end for hook in others if type(hook).after_end is not Hooks.after_end]

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
        for hook in self._on_end:
            try:
                hook(ticket)
            except Exception:
                log.exception("observer_failed", request_id=ticket.request_id)

    def after_deltas(self, ticket: Ticket, count: int, gap: float | None) -> None:
        self._metrics.after_deltas(ticket, count, gap)
