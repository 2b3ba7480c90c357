"""The one door: every request, whatever dialect it came in, enters the flow through `Ingress` and ends in it."""

from collections.abc import Callable, Mapping

import msgspec

from config.schema import RouteSection, ServerSection
from pipeline.core.errors import DeadlineExceeded, HeadgateError, Overloaded, UnknownModel
from pipeline.core.messages import PromptRequest
from pipeline.core.outcomes import Place, Reason
from pipeline.core.ports import Hooks, OutputSink
from pipeline.core.queue import Put
from pipeline.core.ticket import Ticket
from pipeline.flow import Flow
from pipeline.policy.admission import retry_after
from workers.base import ChatMessage, Parameters


class Prompt(msgspec.Struct, frozen=True, eq=False):
    """What a dialect decoded from a request. `timeout` and `gap_limit` are in seconds, None where the client set none.

    `body` is the client's body in the OpenAI chat dialect (else empty); `question` the newest user message's text.
    """

    model: str
    messages: tuple[ChatMessage, ...]
    question: str
    parameters: Parameters
    stream: bool
    session_id: str | None = None
    timeout: float | None = None
    gap_limit: float | None = None
    body: bytes = b""


class Ingress:
    """Access → limits → deadline → session → reserve → enqueue. Synchronous: a caller is told at once.

    A dialect calls `open` when a request arrives, then either `submit` (the request is well-formed) or `reject`. Both
    end in the ticket: an error reaches the client through the sink's `fail` or, before there is a sink, is the caller's
    to answer.
    """

    def __init__(
        self,
        flow: Flow,
        routes: Mapping[str, RouteSection],
        server: ServerSection,
        hooks: Hooks,
        clock: Callable[[], float],
    ) -> None:
        self.routes = routes
        self.draining = False
        self.tickets: set[Ticket] = set()  # open requests, each once
        self._flow = flow
        self._hooks = hooks
        self._clock = clock
        self._default_deadline = server.deadline_ms / 1000
        self._max_deadline = server.max_deadline_ms / 1000
        self._idle: Callable[[], None] | None = None

    def open(self, request_id: str) -> Ticket:
        """A request arrived: from now on it has exactly one ending."""
        ticket = Ticket(request_id, self._clock(), self._ended)
        self.tickets.add(ticket)
        self._hooks.after_open(ticket)
        return ticket

    def route(self, ticket: Ticket, model: str) -> RouteSection:
        """Books the request under its route. Raises `UnknownModel`."""
        section = self.routes.get(model)
        if section is None:
            raise UnknownModel(f"The model {model!r} does not exist; this server has: {self._names()}", param="model")
        ticket.route = section.name
        self._hooks.after_route(ticket)
        return section

    def submit(self, ticket: Ticket, prompt: Prompt, sink: OutputSink) -> None:
        """Sends a request into the flow, or ends it at once with the reason. Never waits, never raises.

        A request that has ended meanwhile, because the process stops, say, tells its sink so.
        """
        if ticket.ending is not None:
            if ticket.ending.error is not None:
                sink.fail(ticket.ending.error)
            return
        ticket.sink = sink
        ticket.stream = prompt.stream
        ticket.session_id = prompt.session_id
        now = self._clock()
        try:
            section = self.route(ticket, prompt.model)
            self._enter(ticket, prompt, section, now)
        except HeadgateError as error:
            ticket.fail(error, now)

    def reject(self, ticket: Ticket, error: HeadgateError) -> None:
        """Ends a request at the door with `error`."""
        ticket.fail(error, self._clock())

    def cancel(self, ticket: Ticket, reason: Reason) -> None:
        ticket.cancel(reason, self._clock())

    def when_idle(self, callback: Callable[[], None]) -> None:
        """Calls `callback` once, as soon as no request is open."""
        if self.tickets:
            self._idle = callback
        else:
            callback()

    def _enter(self, ticket: Ticket, prompt: Prompt, section: RouteSection, now: float) -> None:
        deadline = self._deadline(ticket, prompt, section)
        if now >= deadline:
            raise DeadlineExceeded("The deadline passed before the request was read")
        if self.draining:
            raise self._overloaded(Place.INGRESS, Reason.DRAINING, now)
        if not self._flow.inference.inbox.reserve():
            raise self._overloaded(Place.INFERENCE, Reason.QUEUE_FULL, now)
        ticket.held |= 1 << Place.INFERENCE
        ticket.place = Place.RAG
        request = PromptRequest(
            ticket,
            ticket.request_id,
            prompt.session_id,
            section.name,
            prompt.messages,
            prompt.question,
            prompt.parameters,
            prompt.stream,
            deadline,
            prompt.gap_limit,
            prompt.body,
        )
        self._hooks.after_submit(request)
        if self._flow.rag.offer(request, now) is not Put.ACCEPTED:
            raise self._overloaded(Place.RAG, Reason.QUEUE_FULL, now)

    def _deadline(self, ticket: Ticket, prompt: Prompt, section: RouteSection) -> float:
        if prompt.timeout is not None:
            seconds = prompt.timeout
        elif section.deadline_ms is not None:
            seconds = section.deadline_ms / 1000
        else:
            seconds = self._default_deadline
        return ticket.arrived + min(seconds, self._max_deadline)

    def _overloaded(self, place: Place, reason: Reason, now: float) -> Overloaded:
        statistics = self._flow.inference.inbox.statistics(now)
        wait = retry_after(statistics.depth, self._flow.inference.rate)
        what = "is shutting down" if reason is Reason.DRAINING else "has no place left"
        return Overloaded(f"The server {what}; try again later", place=place.label, reason=reason, retry_after=wait)

    def _ended(self, ticket: Ticket) -> None:
        self.tickets.discard(ticket)
        self._flow.give_back(ticket)
        self._hooks.after_end(ticket)
        ending = ticket.ending
        sink, ticket.sink = ticket.sink, None  # which refers back to it: freed now, not when the collector comes round
        if sink is not None and ending is not None and ending.error is not None:
            sink.fail(ending.error)
        if self._idle is not None and not self.tickets:
            callback, self._idle = self._idle, None
            callback()

    def _names(self) -> str:
        names = sorted(self.routes)
        shown = ", ".join(names[:10])
        return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"
