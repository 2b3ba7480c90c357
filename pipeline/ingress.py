"""The one door: every request, whatever dialect it came in, enters the flow through `Ingress` and ends in it."""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from math import inf

import msgspec

from config.schema import RouteSection, ServerSection
from pipeline.core.access import ANONYMOUS, Caller
from pipeline.core.errors import DeadlineExceeded, Forbidden, HeadgateError, Overloaded, UnknownModel
from pipeline.core.messages import AssembleOutput, PromptRequest
from pipeline.core.outcomes import Place, Priority, Reason
from pipeline.core.ports import Hooks, OutputSink
from pipeline.core.queue import Put
from pipeline.core.ticket import Ticket
from pipeline.flow import Flow
from pipeline.policy.access import Access
from pipeline.policy.admission import RETRY_AFTER_MIN, bulkhead, jittered
from pipeline.policy.degrade import applied, reduced
from pipeline.policy.lane import Asker, Decision, Lane, Verdict
from pipeline.stages.backend import CircuitOpen
from pipeline.stages.course import Course, Doorway
from pipeline.stages.prompt import PromptPlan
from pipeline.stages.verdicts import translate
from workers.base import ChatMessage, EmbeddingRequest, NativeDialect, Parameters

_GATE_SECONDS = 1.0  # how long after a refusal the head gate looks at requests
_GATE_MEMORY = 1024  # decisions
_GATE_MEMORY_SECONDS = 0.005
_BODY_SESSIONS_SECONDS = 60.0  # how long after a session that only its body named heads without one are not judged
_LITTLE = 4096  # tokens


class Prompt(msgspec.Struct, frozen=True, eq=False):
    """What a dialect decoded from a request. `timeout` and `gap_limit` are in seconds, None where the client set none.

    `body` is the client's body in the OpenAI chat dialect, or a translation of it (else empty); `question` the newest
    user message's text. `session_in_body` says that the request's head did not name the session. `native` is the body
    as it came, where it came in `native_dialect`. With an `embedding` there are no messages.
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
    session_in_body: bool = False
    native: bytes = b""
    native_dialect: NativeDialect | None = None
    embedding: EmbeddingRequest | None = None
    native_only: str | None = None  # the field for which `native` is needed


class Ingress:
    """Access → limits → deadline → session → reserve → enqueue. Synchronous: a caller is told at once.

    A dialect calls `open` when a request arrives, then either `submit` (the request is well-formed) or `reject`. Both
    end in the ticket: an error reaches the client through the sink's `fail` or, before there is a sink, is the caller's
    to answer.
    """

    def __init__(
        self,
        flow: Flow,
        hooks: Hooks,
        clock: Callable[[], float],
        *,
        estimate: Callable[[str], int],
        chance: Callable[[], float],
    ) -> None:
        self.routes: dict[str, RouteSection] = {}  # by name; the same object for good
        self.access = Access((), None)
        self.draining = False
        self.gate_closed = False  # somebody was refused lately: it is worth a look at a request's head
        self.tickets: set[Ticket] = set()  # open requests, each once
        self._doorways: Mapping[str, Doorway] = {}
        self._flow = flow
        self._hooks = hooks
        self._clock = self.now = clock
        self._estimate = estimate
        self._chance = chance
        self._default_deadline = 0.0  # seconds
        self._max_deadline = 0.0
        self._idle: Callable[[], None] | None = None
        self._refused_at = -inf
        self._told: dict[tuple[str, str, str, Priority, str | None], tuple[int, float, Decision[AssembleOutput]]] = {}
        self._body_session_at = -inf

    def renew(self, doorways: Sequence[Doorway], server: ServerSection, access: Access) -> None:
        """Who comes in from now on finds these routes, deadlines and keys; who is in keeps what there was."""
        self._doorways = {doorway.section.name: doorway for doorway in doorways}
        self.routes.clear()
        self.routes.update({doorway.section.name: doorway.section for doorway in doorways})
        self.access = access
        self._default_deadline = server.deadline_ms / 1000
        self._max_deadline = server.max_deadline_ms / 1000
        self._told.clear()

    def open(self, request_id: str, *, arrived: float | None = None, accepted_by: int | None = None) -> Ticket:
        """A request arrived: from now on it has exactly one ending. One that another shard accepted is counted there,
        and `arrived` when it did."""
        ticket = Ticket(request_id, self._clock() if arrived is None else arrived, self._ended)
        ticket.accepted_by = accepted_by
        self.tickets.add(ticket)
        self._hooks.after_open(ticket)
        return ticket

    def route(self, ticket: Ticket, model: str) -> RouteSection:
        """Books the request under its route. Raises `UnknownModel`."""
        section = self.routes.get(model)
        if section is None:
            names = self._names(ticket.caller or ANONYMOUS)
            raise UnknownModel(f"The model {model!r} does not exist; there is: {names}", param="model")
        ticket.route = section.name
        self._hooks.after_route(ticket)
        return section

    def plan(self, route: str) -> PromptPlan | None:
        """How prompts of a route are made for the first of its workers; None where none takes requests."""
        doorway = self._doorways.get(route)
        return None if doorway is None else next((course.plan for course in doorway.courses.values()), None)

    def lacking(self, ticket: Ticket, prompt: Prompt) -> Awaitable[None] | None:
        """What to await before `submit`: the caller's limits are common to all shards, and this one holds too little of
        them for the request. Mostly None."""
        quota = None if ticket.caller is None else ticket.caller.quota
        doorway = self._doorways.get(prompt.model)
        if quota is None or not quota.leased or doorway is None:
            return None
        tokens = 0
        if quota.counts_tokens:
            tokens = self._tokens(prompt, max((c.plan.answer_tokens for c in doorway.courses.values()), default=0))
        return quota.borrow(tokens) if quota.short(tokens, self._clock()) else None

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
            if isinstance(error, Overloaded):
                self._refused(now)
                if ticket.lane is None and error.worker is not None:
                    self._flow.lanes[error.worker].refused(now)
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

    def gate(self, route: str | None, priority: Priority, session: str | None, caller: Caller) -> Overloaded | None:
        """The refusal that any request with such a head would get now, whatever its body says; else None.

        Without a `route` every route would have to refuse it, and each worker that may be chosen for it. Nothing is
        changed.
        """
        now = self._clock()
        if session is None and now - self._body_session_at > _BODY_SESSIONS_SECONDS:
            session = ""
        if route is None:
            doorways: Collection[Doorway] = self._doorways.values()
        else:
            doorways = (doorway,) if (doorway := self._doorways.get(route)) is not None else ()
        possible = [course for doorway in doorways for course in doorway.possible(session)]
        if not possible:
            return self._closed(_NO_WORKER, priority) if doorways else None
        refusal: tuple[Course, Decision[AssembleOutput]] | None = None
        for chosen in possible:
            course = chosen.open(now)
            if course is not None:
                decision = self._seen(course, caller, priority, session, now)
                if decision.verdict is not Verdict.REFUSE:
                    return None
                if refusal is None or decision.wait < refusal[1].wait:
                    refusal = course, decision
            elif chosen.section.static_answer is not None:
                return None
        if refusal is None:
            return self._circuit_open(min(possible, key=lambda course: course.reopens(now)), now, priority)
        return _explained(self._overloaded(refusal[0].lane, refusal[1].reason, now), refusal[1], priority)

    def _seen(
        self, course: Course, caller: Caller, priority: Priority, session: str | None, now: float
    ) -> Decision[AssembleOutput]:
        """What the door would say to somebody like this. Under overload many ask between two changes of a lane, and
        are told the same."""
        lane = course.lane
        who = (course.section.name, lane.name, caller.name, priority, session)
        known = self._told.get(who)
        if known is not None and known[0] == lane.changes and 0.0 <= now - known[1] < _GATE_MEMORY_SECONDS:
            return known[2]
        decision = self._decide(course, lane.asker(caller, priority, session), inf, None, now)
        if len(self._told) >= _GATE_MEMORY:
            self._told.clear()
        self._told[who] = (lane.changes, now, decision._replace(victim=None))
        return decision

    def count_gated(self, error: Overloaded, arrived: float, request_id: str = "") -> None:
        """A request was refused by the head gate."""
        now = self._clock()
        self._refused(now)
        if error.worker is not None:
            self._flow.lanes[error.worker].refused(now)
        self._hooks.after_gate(error, arrived, now, request_id)

    def _enter(self, ticket: Ticket, prompt: Prompt, section: RouteSection, now: float) -> None:
        caller = ticket.caller or ANONYMOUS
        if caller.routes is not None and section.name not in caller.routes:
            raise Forbidden(f"This API key may not use the model {section.name!r}", param="model")
        deadline = self.deadline(ticket, prompt.timeout, section)
        if now >= deadline:
            raise DeadlineExceeded("The deadline passed before the request was read")
        if self.draining:
            raise self._closed(_SHUTTING_DOWN)
        chosen = self._doorways[section.name].course(prompt.session_id, self._chance)
        if chosen is None:
            raise self._closed(_NO_WORKER)
        course = chosen if chosen.lane.pool is None else self._callable(chosen, now)
        if prompt.session_in_body:
            self._body_session_at = now
        if caller.quota is not None:
            self._charge(ticket, caller, prompt, course, now)
        request = self._admit(ticket, prompt, course, deadline, now)
        if course is not chosen and course.lane.pool is not None:
            course.lane.pool.fallbacks += 1
            ticket.first_error = translate(CircuitOpen(chosen.lane.reopens(now)))
        self._hooks.after_submit(request)
        if self._flow.rag.offer(request, now) is not Put.ACCEPTED:
            raise self._overloaded(course.lane, Reason.QUEUE_FULL, now, Place.RAG)

    def _callable(self, course: Course, now: float) -> Course:
        """The course itself where its worker may be called, else that of a fallback. Raises `Overloaded`, unless the
        route has something to say all the same."""
        found = course.open(now)
        if found is not None or course.section.static_answer is not None:
            return found or course
        raise self._circuit_open(course, now)

    def _circuit_open(self, course: Course, now: float, priority: Priority | None = None) -> Overloaded:
        error = Overloaded(
            f"{_WHY_REFUSED[Reason.CIRCUIT_OPEN]}; try again later",
            place=Place.INGRESS.label,
            reason=Reason.CIRCUIT_OPEN,
            retry_after=max(course.reopens(now), RETRY_AFTER_MIN) * (1.0 + 0.25 * self._chance()),  # not before
        )
        error.priority = priority
        return error

    def _charge(self, ticket: Ticket, caller: Caller, prompt: Prompt, course: Course, now: float) -> None:
        """Raises `RateLimited`."""
        quota = caller.quota
        if quota is None:
            return
        tokens = self._tokens(prompt, course.plan.answer_tokens) if quota.counts_tokens else 0
        quota.admit(tokens, now)
        ticket.charged = tokens

    def _tokens(self, prompt: Prompt, answer: int) -> int:
        """Of prompt and answer together, as they are charged."""
        if prompt.embedding is not None:
            inputs = prompt.embedding.inputs
            return sum([self._estimate(one) if isinstance(one, str) else len(one) for one in inputs])
        tokens = sum([self._estimate(message.text) for message in prompt.messages])
        return tokens + (prompt.parameters.max_tokens or answer) * prompt.parameters.n

    def _admit(self, ticket: Ticket, prompt: Prompt, course: Course, deadline: float, now: float) -> PromptRequest:
        """Lets a request in, in another's place if need be. Raises `Overloaded`."""
        lane, inbox = course.lane, self._flow.inference.inbox
        asker = lane.asker(ticket.caller or ANONYMOUS, ticket.priority, prompt.session_id or "")
        decision = None
        if not lane.idle or course.steps or inbox.vacancies <= 0:
            limit = prompt.parameters.max_tokens
            decision = self._decide(course, asker, deadline - now, limit, now)
            if decision.reason is Reason.TOO_LATE and course.steps:  # a shorter answer may be in time
                least = _smaller(limit, reduced(course.steps, inf).max_tokens)
                decision = self._decide(course, asker, deadline - now, least, now)
            if decision.verdict is Verdict.REFUSE:
                raise _explained(self._overloaded(lane, decision.reason, now), decision, ticket.priority)
            if decision.victim is not None:
                victim: Ticket = decision.victim.request.ticket
                victim.fail(self._overloaded(lane, Reason.DISPLACED, now, Place.INFERENCE), now)
        elif self.gate_closed and now - self._refused_at > _GATE_SECONDS:
            self.gate_closed = False
        if not inbox.reserve():  # it has been closed
            raise self._overloaded(lane, Reason.QUEUE_FULL, now)
        ticket.priority = asker.priority
        ticket.lane = lane
        ticket.flow = lane.admit(asker)
        ticket.held |= 1 << Place.INFERENCE
        ticket.place = Place.RAG
        return self._request(ticket, prompt, course, deadline, decision)

    def _request(
        self,
        ticket: Ticket,
        prompt: Prompt,
        course: Course,
        deadline: float,
        decision: Decision[AssembleOutput] | None,
    ) -> PromptRequest:
        parameters, passages, shortened = prompt.parameters, None, False
        section = course.section
        if decision is not None and course.steps:
            pressure = decision.wait / decision.allowed if decision.allowed > 0 else inf
            retrieved = 0 if section.collection is None else section.passages
            less = applied(reduced(course.steps, pressure), retrieved, prompt.parameters.max_tokens)
            ticket.reduced = less.labels
            passages = less.passages
            if less.max_tokens is not None:
                parameters, shortened = msgspec.structs.replace(parameters, max_tokens=less.max_tokens), True
        return PromptRequest(
            ticket,
            ticket.request_id,
            prompt.session_id,
            section.name,
            prompt.messages,
            prompt.question,
            parameters,
            prompt.stream,
            deadline,
            prompt.gap_limit,
            prompt.body,
            course.wait_budget,
            passages,
            shortened,
            course,
            prompt.native,
            prompt.native_dialect,
            prompt.embedding,
            prompt.native_only,
        )

    def _decide(
        self, course: Course, asker: Asker, deadline: float, answer: int | None, now: float
    ) -> Decision[AssembleOutput]:
        inbox = self._flow.inference.inbox
        full = inbox.vacancies <= inbox.capacity // 2 and self._full(course.lane, inbox.capacity, inbox.vacancies)
        return course.lane.decide(asker, course.wait_budget, deadline, answer, now, full=full)

    def _full(self, lane: Lane[AssembleOutput], capacity: int, vacancies: int) -> bool:
        """Whether there is no place left for this lane: those of the others' are kept for them."""
        others = [sum(other.waiting) for other in self._flow.lanes.values() if other is not lane]
        return vacancies <= 0 or bulkhead(capacity, sum(lane.waiting), others) <= 0

    def deadline(self, ticket: Ticket, timeout: float | None, section: RouteSection | None) -> float:
        """When a request is late, on our clock; `timeout` are the seconds that its client asked for."""
        if timeout is not None:
            seconds = timeout
        elif section is not None and section.deadline_ms is not None:
            seconds = section.deadline_ms / 1000
        else:
            seconds = self._default_deadline
        return ticket.arrived + min(seconds, self._max_deadline)

    def _overloaded(
        self, lane: Lane[AssembleOutput], reason: Reason, now: float, place: Place = Place.INGRESS
    ) -> Overloaded:
        return Overloaded(
            f"{_WHY_REFUSED[reason]}; try again later",
            place=place.label,
            reason=reason,
            retry_after=jittered(lane.drain(now), self._chance()),
            worker=lane.name,
        )

    def _closed(self, why: str, priority: Priority | None = None) -> Overloaded:
        wait = jittered(RETRY_AFTER_MIN, self._chance())
        error = Overloaded(why, place=Place.INGRESS.label, reason=Reason.DRAINING, retry_after=wait)
        error.priority = priority
        return error

    def _refused(self, now: float) -> None:
        self._refused_at = now
        self.gate_closed = True

    def _ended(self, ticket: Ticket) -> None:
        self.tickets.discard(ticket)
        self._flow.give_back(ticket)
        self._hooks.after_end(ticket)
        ending = ticket.ending
        if ticket.charged is not None:
            self._settle(ticket, ticket.charged)
        sink, ticket.sink = ticket.sink, None  # which refers back to it: freed now, not when the collector comes round
        if sink is not None and ending is not None and ending.error is not None:
            sink.fail(ending.error)
        if self._idle is not None and not self.tickets:
            callback, self._idle = self._idle, None
            callback()

    def _settle(self, ticket: Ticket, charged: int) -> None:
        """What a request that never reached a backend was charged is given back."""
        if ticket.caller is None or ticket.caller.quota is None:
            return
        usage = ticket.usage
        if usage is not None:
            used: int | None = min(usage.prompt_tokens + usage.completion_tokens, self._most_used(ticket, charged))
        else:
            used = ticket.prompt_tokens + ticket.chunks if ticket.started else None
        ticket.caller.quota.settle(charged, used, self._clock())

    def _most_used(self, ticket: Ticket, charged: int) -> int:
        """No answer is taken to have cost many times what was expected and seen of it: a backend may claim anything,
        and the key would be in debt for days."""
        return 4 * max(charged, ticket.prompt_tokens + ticket.chunks, _LITTLE)

    def _names(self, caller: Caller) -> str:
        names = sorted(name for name in self.routes if caller.routes is None or name in caller.routes)
        shown = ", ".join(names[:10])
        return shown if len(names) <= 10 else f"{shown} and {len(names) - 10} more"


def _explained(error: Overloaded, decision: Decision[AssembleOutput], priority: Priority) -> Overloaded:
    error.priority = priority
    if decision.reason is not Reason.QUEUE_FULL:
        error.wait, error.allowed = decision.wait, decision.allowed
    return error


def _smaller(one: int | None, other: int | None) -> int | None:
    return other if one is None else one if other is None else min(one, other)


_SHUTTING_DOWN = "The server is shutting down; try again later"
_NO_WORKER = "The workers of this model take no new requests at the moment; try again later"
_WHY_REFUSED = {
    Reason.QUEUE_FULL: "The server has no place left",
    Reason.WAIT_BUDGET: "The server is overloaded: the wait would be too long",
    Reason.TOO_LATE: "The server is overloaded: the answer would come after the request's deadline",
    Reason.CIRCUIT_OPEN: "The workers of this model have failed too often to be called now",
    Reason.DISPLACED: "The server is overloaded: a request with more right to it took this one's place",
}
