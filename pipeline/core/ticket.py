"""The one mutable thing about a request: where it is, what it holds, how long each stage took, and how it ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import Cancelled, HeadgateError
from pipeline.core.outcomes import STAGES, Ending, Place, Priority, Reason

if TYPE_CHECKING:
    from pipeline.core.access import Caller
    from pipeline.core.messages import Cut
    from pipeline.core.ports import OutputSink
    from workers.base import Usage

STATIC = "static_answer"  # of `Ticket.reduced`: it was answered with its route's own words

_WHY_CANCELLED = {
    Reason.CLIENT_GONE: "the client went away",
    Reason.SHUTDOWN: "the server is shutting down",
}


class Ticket:
    """Follows one request from the door to its one ending.

    `end` is the only way a request ends: the first call wins, later ones return False. It stops the tasks that work for
    the request and then calls `on_end`, once, which must not raise. To be used from its event loop only.
    """

    __slots__ = (
        "_on_end",
        "accepted_by",
        "arrived",
        "caller",
        "charged",
        "chunks",
        "counted",
        "cut",
        "degraded",
        "ended",
        "ending",
        "filtered",
        "first_delta",
        "first_error",
        "flow",
        "gaps",
        "held",
        "lane",
        "owner",
        "passages",
        "place",
        "priority",
        "prompt_tokens",
        "reduced",
        "request_id",
        "retries",
        "route",
        "service",
        "session_id",
        "since",
        "sink",
        "sojourn",
        "started",
        "stream",
        "streaming",
        "tasks",
        "usage",
        "waits",
        "worker",
    )

    def __init__(self, request_id: str, arrived: float, on_end: Callable[[Ticket], None]) -> None:
        self.request_id = request_id
        self.arrived = arrived
        self.accepted_by: int | None = None  # the other shard that took it from its client, and counts it
        self.owner: int | None = None  # the other shard that it was handed to, and that tells how it went
        self.session_id: str | None = None
        self.route = "-"  # until the door knows it
        self.caller: Caller | None = None  # whose key it came with, once the door knows
        self.charged: int | None = None  # tokens that its caller's quota was charged, with a request
        self.priority = Priority.NORMAL
        self.reduced: tuple[str, ...] = ()  # what it gets less of because of the load, as "passages=2"
        self.lane: Any = None  # the `pipeline.policy.lane.Lane` that let it in
        self.flow: Any = None  # its session's `pipeline.policy.fair.Flow` in that lane
        self.started = False  # its inference has begun
        self.worker = "-"  # until Inference chose it
        self.retries = 0  # calls that were made again, because one failed
        self.stream = False
        self.sink: OutputSink | None = None
        self.place = Place.INGRESS  # the stage it waits for or is in
        self.since = arrived  # when it came to wait for that stage, or entered it
        self.waits = False  # it is in the stage's queue
        self.held = 0  # places reserved in queues ahead, a bit (1 << Place) each
        self.sojourn = [0.0] * len(STAGES)  # seconds waited in each stage's queue
        self.service = [0.0] * len(STAGES)  # seconds each stage worked on it
        self.first_delta: float | None = None  # seconds after arrival
        self.first_error: HeadgateError | None = None  # of the worker that would have served it, if another one is to
        self.chunks = 0  # deltas that the worker delivered
        self.counted = 0  # of them, those that an observer has seen
        self.gaps: list[float] = []  # seconds between deltas that no observer has seen
        self.prompt_tokens = 0  # estimated by Assemble
        self.passages = 0
        self.degraded = False
        self.filtered = False  # Post runs filters over it
        self.streaming = False  # Stream has begun its answer and waits for the rest, or for the client
        self.cut: Cut | None = None
        self.usage: Usage | None = None
        self.ending: Ending | None = None
        self.ended: float | None = None
        self.tasks: list[asyncio.Future[Any]] = []  # what works for it now, cancelled when it ends
        self._on_end = on_end

    def end(self, reason: Reason, now: float, error: HeadgateError | None = None, place: Place | None = None) -> bool:
        """Ends the request at `now`, in `place` if not where it is; False if it had already ended."""
        if self.ending is not None:
            return False
        if error is not None:  # its traceback leads back here: a cycle that only the collector could free
            error.__traceback__ = None
        self.ending = Ending(reason, self.place if place is None else place, error)
        self.ended = now
        self._book_time(now)
        for task in self.tasks:
            if (
                not task.done() and task is not asyncio.current_task()
            ):  # which ends on its own, and may have to clean up
                task.cancel()
        self.tasks.clear()
        self._on_end(self)
        return True

    def _book_time(self, now: float) -> None:
        """Where it ended within a stage or in front of one, that time counts too."""
        place = self.place
        if place is Place.INGRESS:
            return
        if self.waits:
            self.sojourn[place] = now - self.since
        elif not self.service[place]:
            self.service[place] = now - self.since

    def fail(self, error: HeadgateError, now: float) -> bool:
        """Ends the request with what its client is told; the error says under which reason that counts."""
        place = None if error.place is None else Place[error.place.upper()]
        return self.end(Reason(error.reason), now, error, place)

    def cancel(self, reason: Reason, now: float) -> bool:
        """Ends the request as cancelled, because its client left or the process stops."""
        return self.fail(Cancelled(_WHY_CANCELLED[reason], reason=reason, retry_after=1.0), now)
