"""One backend call: from the worker's batches to the request's channel."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from math import inf
from typing import Any, Protocol

from pipeline.core.deltas import DeltaChannel
from pipeline.core.errors import (
    BackendRefused,
    BackendStalled,
    ContextLength,
    DeadlineExceeded,
    HeadgateError,
    InvalidRequest,
)
from pipeline.core.messages import AssembleOutput, InferenceOutput
from pipeline.core.outcomes import Place
from pipeline.core.ports import Hooks
from pipeline.core.ticket import STATIC, Ticket
from pipeline.policy.lane import Lane
from pipeline.policy.pool import Attempt, Replica, Result
from pipeline.stages.assemble import learn
from pipeline.stages.backend import Backend, BrokenOff, embedded, missing
from pipeline.stages.base import Clock, Trace
from pipeline.stages.course import Course
from pipeline.stages.limits import CallLimits, WatchedCall
from pipeline.stages.verdicts import credible, translate, verdict
from workers.base import Delta, DeltaBatch, GenerationRequest, ModelWorker, NativeDialect, Usage
from workers.errors import WorkerError, WorkerErrorKind

GAPS_KEPT = 64  # between deltas, until an observer looks at them
_LONG = 5.0  # seconds without a first delta that no caller's haste explains,
_MUCH_LONGER = 20.0  # nor so many times what is usual
_UNUSUAL = 4.0  # times what is usual without a first delta, that several callers in a row who leave are believed,
_UNUSUAL_LEAST = 0.5  # and seconds;
_UNUSUAL_UNKNOWN = 1.0  # while nothing is known
_STUBBORN = 1.0  # seconds in which a call that is broken off has to be over


class CallingStage(Protocol):
    """The stage that a call is made for."""

    clock: Clock
    hooks: Hooks
    trace: Trace | None

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def chance(self) -> float:
        """From 0.0 to below 1.0."""
        ...

    def elsewhere(self, message: AssembleOutput, ticket: Ticket, now: float, *, above: int = 0) -> bool:
        """Hands a request whose worker has failed to the next one that takes it, and whose window has more than `above`
        tokens. False: there is none."""
        ...

    def hand_on(self, message: InferenceOutput, ticket: Ticket, now: float) -> None: ...

    def over(self, ticket: Ticket, began: float, task: "asyncio.Task[Any]") -> None: ...


class Pump(WatchedCall):
    """One backend call: reads the worker's batches into the channel until the answer is complete or nobody wants it."""

    __slots__ = (
        "_attempt",
        "_channel",
        "_clock",
        "_estimated",
        "_first_delta",
        "_inflight",
        "_message",
        "_moved",
        "_stage",
        "_stalled",
        "_tried",
        "backend",
        "lane",
        "paced",
        "running",
        "task",
    )

    def __init__(
        self, stage: CallingStage, message: AssembleOutput, backend: Backend, lane: Lane[AssembleOutput], now: float
    ) -> None:
        request = message.request
        super().__init__(request.ticket, _tighter(backend.limits, request.gap_limit), now, request.deadline)
        self._stage = stage
        self._message = message
        self.backend = backend
        self._clock = stage.clock
        self.lane = lane
        self.running = True  # the call holds its place at the worker
        self.paced = now  # since when that says something of the worker's pace
        backend.calls += 1
        backend.budget.request()
        self._estimated = lane.cost(message.prompt_tokens, request.parameters)
        lane.start(request.ticket.priority, self._estimated, now)
        request.ticket.started = True
        self._inflight = lane.inflight
        self._attempt: Attempt | None = None
        self._tried: Sequence[Replica] = ()  # in turn
        self._stalled: WorkerError | None = None  # why the call is being broken off, to be made again perhaps
        self._moved = False  # the request is another worker's now, and so is what it counts
        self._first_delta: float | None = None  # seconds after the call was begun the last time
        self._channel = DeltaChannel(backend.high_water, stage.loop)
        self.task: asyncio.Task[Any] | None = None  # that runs it

    async def run(self) -> None:
        unable = self._message.unfit or self._unsaid()
        if unable is not None:
            self._give_up(unable, self._clock())
            return
        missed = False
        while (error := await self._call()) is not None:
            if self.ticket.ending is not None:  # and the worker made an error of it that it was stopped
                return
            if self.last is not None:
                self.expire(translate(error))
                return
            now = self._clock()
            elsewhere = any(not course.lane.reopens(now) for course in self._message.request.course.fallbacks)
            chance, latest = self._stage.chance(), self._latest()
            wait = self.backend.again(error, self._tried, chance, now, latest, elsewhere=elsewhere, missed=missed)
            if wait is None:
                self._give_up(translate(error), now)
                return
            missed |= missing(error)
            self.ticket.retries += 1
            if wait > 0.0:
                await asyncio.sleep(wait)

    def _unsaid(self) -> HeadgateError | None:
        """The refusal of a request that the worker's dialect has no words for."""
        request = self._message.request
        worker: Any = self.backend.replicas[0]
        if request.native_only is None or (
            request.native_dialect in getattr(worker, "native_dialects", ()) and self._native()[0]
        ):
            return None
        return BackendRefused(
            f"The model {request.route!r} has no completions of its own, only chat: it cannot serve"
            f" {request.native_only!r} as given.",
            param=request.native_only,
        )

    async def _call(self) -> WorkerError | None:
        """Makes the call, or makes it again. Returns why it failed; None: its answer is complete, or not wanted any
        more."""
        ticket = self.ticket
        result, hold = Result.ABANDONED, None
        try:
            worker, embedding = await self._begin(), self._message.request.embedding
            pour = getattr(worker, "pour", None)
            if pour is not None and embedding is None:
                await pour(self._request(), self)
            elif not await self._drawn(
                worker.generate(self._request()) if embedding is None else embedded(worker, embedding)
            ):
                return None
            if ticket.ending is not None:
                return None
            if self.last is None:
                raise WorkerError(WorkerErrorKind.PROTOCOL, "the answer is empty", retryable=True)  # noqa: TRY301
            result = Result.OK
        except WorkerError as error:
            result, hold = verdict(error)
            return self._blamed(error)
        except asyncio.CancelledError:
            stalled = self._broken_off()
            if stalled is None:
                raise
            # A time-out may be its caller's.
            result = Result.ABANDONED if stalled.kind is WorkerErrorKind.TIMEOUT else Result.FAULT
            return self._blamed(stalled)
        except Exception:
            result = Result.FAULT
            raise
        finally:
            self._settle(result, hold)
        self._complete()
        return None

    def over(self, task: "asyncio.Task[Any]") -> None:
        """The call has ended, however: its place at the worker is free."""
        now = self._clock()
        usage, first = self.ticket.usage, self._first_delta
        self.running = False
        self.backend.calls -= 1
        prompt, tokens = self._message.prompt_tokens, self.ticket.chunks
        if self._moved:
            prompt = tokens = 0
        elif usage is not None:
            prompt, tokens = usage.prompt_tokens, usage.completion_tokens
            learn(self._message, prompt)
        elif first is None and not task.cancelled():
            prompt = 0  # it failed, and nobody counts that
        self.lane.finish(self._estimated, prompt + tokens, now, answered=first is not None)
        if task.cancelled():
            first = None  # of whole answers it tells nothing
        if self._tried:  # else there was no call
            self.lane.ended(now - self.paced, first, tokens, now, self._inflight, prompt)
        self._stage.over(self.ticket, self.began, task)

    async def _drawn(self, made: AsyncGenerator[DeltaBatch, None]) -> bool:
        """Takes an answer batch by batch; False when it is not wanted any more."""
        async with aclosing(made) as batches:
            async for batch in batches:
                full = not self.put(batch)
                if self.ticket.ending is not None or (full and not await self.room()):
                    return False
        return True

    def put(self, batch: DeltaBatch) -> bool:
        """Puts a batch into the channel; False when it is full or not wanted."""
        now = self._clock()
        ticket = self.ticket
        if batch.usage is not None:
            ticket.usage = credible(batch.usage)
        if not batch.deltas:
            return True
        last, self.last = self.last, now
        count = len(batch.deltas)
        ticket.chunks += count
        if last is None:
            if ticket.ending is not None:  # of a worker that would not be stopped
                return False
            more = self._channel.put(batch)
            self._hand_on(now)
            return more
        gaps = ticket.gaps
        if count == 1:
            gaps.append(now - last)
        else:
            gaps += [(now - last) / count] * count
        if len(gaps) >= GAPS_KEPT:
            self._stage.hooks.after_deltas(ticket)
        return self._channel.put(batch)

    async def room(self) -> bool:
        """See `workers.base.Spout`."""
        self.waiting = False
        try:
            return await self._channel.room() and self.ticket.ending is None
        finally:
            self.waiting = True
            self.last = self._clock()

    def _blamed(self, error: WorkerError) -> WorkerError:
        """For the log of its circuit, should that open now."""
        if self._attempt is not None:
            self._attempt.replica.fault = str(error.kind)
        return error

    def _broken_off(self) -> WorkerError | None:
        """The call was cancelled: why, where it was only this one attempt, and not the request that ended."""
        stalled = self._called_back()
        if stalled is not None and self.ticket.ending is None:
            if isinstance(stalled, BrokenOff):
                self.paced = self._clock()
            return stalled
        if self.ticket.ending is None and not self._channel.closed:  # the worker cancelled itself
            self.expire(translate(WorkerError(WorkerErrorKind.PROTOCOL, "the call was cancelled from within")))
        return None

    def _called_back(self) -> WorkerError | None:
        """The task goes on, though it was cancelled to break off one attempt; returns why."""
        stalled, self._stalled = self._stalled, None
        if stalled is not None and self.task is not None:
            self.task.uncancel()
        return stalled

    async def _begin(self) -> ModelWorker:
        """Has the call booked at a replica. Raises `CircuitOpen`."""
        attempt = await self.backend.place(self._message.request.session_id, self._tried, self._clock)
        self._attempt = attempt
        self._tried = (*self._tried, attempt.replica)
        backend = self.backend.current
        if backend is not self.backend:  # since a reload
            self.backend.calls -= 1
            backend.calls += 1
            self.backend = backend
        backend.unanswered[attempt] = self.leave
        if self._stalled is not None:  # the worker made another error of that
            self._called_back()
        self.ticket.usage = None  # of an attempt that came to nothing
        self.since = self._clock()
        return backend.replicas[attempt.index]

    def leave(self, error: WorkerError) -> bool:
        """Breaks off this attempt, which has no first delta yet, as if it had failed with `error`. False: it is not,
        because it could not be made again."""
        if self.last is not None or self._stalled is not None or self.ticket.ending is not None:
            return False
        if len(self._tried) > self.backend.retrying.attempts or self._clock() >= self._latest():
            return False
        self._break_off(error)
        return True

    def silence(self, now: float) -> float:
        """Seconds that the call has been waiting for its first delta; 0.0 while it does not. One at a replica that
        others do without already says nothing of how many calls the worker can bear."""
        attempt = self._attempt
        if self.last is not None or attempt is None or self.since > now:
            return 0.0
        replica = attempt.replica
        return 0.0 if replica.misses and self.backend.pool.another((replica,), now, free=False) else now - self.since

    def stuck(self, now: float) -> Replica | None:
        """The replica where it waits for a first delta, unusually long, while others answered and that one none."""
        attempt = self._attempt
        if self.last is not None or attempt is None or self.since > now:
            return None
        here, pool = attempt.replica, self.backend.pool
        silent = now - max(self.since, here.answered_at)
        if silent < _UNUSUAL_UNKNOWN or not any(
            replica is not here and replica.answered_at > attempt.began for replica in pool.replicas
        ):
            return None
        return here if silent >= self._unusual(now) else None

    def _break_off(self, error: WorkerError) -> None:
        if self.task is not None:
            self._stalled = error
            self.task.cancel()
            self._stage.loop.call_later(_STUBBORN, self._insist, self._attempt, error)

    def _insist(self, attempt: Attempt | None, error: WorkerError) -> None:
        """A worker that catches its cancellation keeps its place, but not its request."""
        if attempt is not None and self._attempt is attempt and self.last is None and self.ticket.ending is None:
            self.done = True
            self.ticket.fail(translate(error), self._clock())

    def _settle(self, result: Result, hold: float | None) -> None:
        """The call is over, however: its replica is told."""
        attempt, self._attempt = self._attempt, None
        if attempt is None:
            return
        now, last, since = self._clock(), self.last, self.since
        self.since = inf
        if result is Result.ABANDONED and self.waiting:
            if now - (since if last is None else last) >= self._patience():
                result = Result.FAULT  # whoever gave up had waited for long enough
            elif last is None and now - max(since, attempt.replica.answered_at) >= self._unusual(now):
                result = Result.LEFT
        self.backend.ended(attempt, now, result, hold)
        if result is Result.PUSHED_BACK:
            elsewhere = self.backend.pool.another((attempt.replica,), now, free=False)
            self.lane.push_back(hold, self._inflight, now, since, elsewhere=elsewhere)

    def _patience(self) -> float:
        """Seconds without a delta after which it is the backend that is at fault, and not a caller in a hurry."""
        limits = self.backend.limits
        if self.last is not None:
            return limits.gap
        usual = self.lane.typical.first
        return min(limits.first_delta, max(_LONG, _MUCH_LONGER * usual)) if usual else limits.first_delta

    def _unusual(self, now: float) -> float:
        """Seconds without a first delta that neither what is usual explains, nor how long the prompt is, nor what
        another one had to wait lately."""
        typical, longest = self.lane.typical, self.backend.pool.longest(now)
        if not typical.first:
            return max(_UNUSUAL_UNKNOWN, longest)
        length = max(self._message.prompt_tokens / typical.tokens, 1.0) if typical.tokens else 1.0
        return max(_UNUSUAL_LEAST, _UNUSUAL * typical.first * length, longest)

    def _patience_of_client(self) -> float:
        """When the client, by what it said, will have left, on our clock."""
        limit = self._message.request.gap_limit
        return inf if limit is None else self.ticket.arrived + limit

    def _latest(self) -> float:
        """From when on a call would be too late for the client, or for its deadline."""
        typical = self.lane.typical
        return min(self.deadline - typical.answer(None), self._patience_of_client() - typical.first)

    def _give_up(self, error: HeadgateError, now: float) -> None:
        """The worker has failed, and is not asked again: the next one is, or the route's static answer given.

        A request that the first worker could not serve, but not because of what it is, has come here as a guest. What
        is wrong with it for this one does not make it wrong."""
        request, ticket = self._message.request, self.ticket
        if self.task is not None and self.task in ticket.tasks:
            ticket.tasks.remove(self.task)  # it has nothing left to be stopped at
        first = ticket.first_error
        guest = first is not None and not isinstance(first, InvalidRequest)
        at_fault = isinstance(error, InvalidRequest) and not guest
        above = request.course.plan.context_tokens if isinstance(error, ContextLength) else 0
        text = request.course.section.static_answer
        hopeful = (above or not at_fault) and now < self._patience_of_client()
        if hopeful and first is None:
            ticket.first_error = error
        if hopeful and self._stage.elsewhere(self._message, ticket, now, above=above):
            self.done = self._moved = True
        elif text is None or request.embedding is not None or at_fault:
            self.expire(first if guest and first is not None and isinstance(error, InvalidRequest) else error)
        else:
            ticket.reduced = (*ticket.reduced, STATIC)
            choices = range(request.parameters.n)
            self.put(DeltaBatch(tuple([Delta(text, index, "stop") for index in choices]), Usage(0, 0)))
            self._complete()

    def _hand_on(self, now: float) -> None:
        ticket, stage, message = self.ticket, self._stage, self._message
        ticket.first_delta = now - ticket.arrived
        ticket.service[Place.INFERENCE] = now - self.began
        if self._attempt is not None:  # else it is no backend's
            self.backend.unanswered.pop(self._attempt, None)
            self._first_delta = now - self.since
            self.backend.pool.answered(self._attempt, now)
            self.lane.answered(self._first_delta, message.prompt_tokens, self._inflight, now)
        if stage.trace is not None:
            stage.trace(ticket, Place.INFERENCE)
        stage.hand_on(InferenceOutput(message.request, message, self._channel), ticket, now)

    def _complete(self) -> None:
        self.done = True
        if self.task is not None and self.task in self.ticket.tasks:
            self.ticket.tasks.remove(self.task)  # it has nothing left to be stopped at
        self._channel.close()

    def expire(self, error: HeadgateError) -> None:
        """The call failed or is overdue. An answer that has begun is given out to its end before its error; one that
        has not is called for again, perhaps."""
        if isinstance(error, BackendStalled) and self.last is None and self.task is not None:
            if self._stalled is None:  # else it is on its way
                self._break_off(WorkerError(WorkerErrorKind.TIMEOUT, error.what, retryable=True))
            return
        self.done = True
        if self.last is None or isinstance(error, DeadlineExceeded):
            self.ticket.fail(error, self._clock())
        else:
            self._channel.fail(error)
        if self.task is not None and self.task is not asyncio.current_task():
            self.task.cancel()

    def _request(self) -> GenerationRequest:
        message, request = self._message, self._message.request
        return GenerationRequest(
            request.request_id,
            request.session_id,
            request.route,
            message.messages,
            request.parameters,
            request.stream,
            message.passages,
            request.body,
            message.rewritten,
            request.shortened,
            *(self._native() if request.native else ()),
        )

    def _native(self) -> tuple[bytes, NativeDialect | None, bool]:
        """The body as it came, where nothing of it has to be changed on the way; and whether that goes for the answer.
        Completions are small enough to be changed by whoever speaks them."""
        message, request = self._message, self._message.request
        course: Course = request.course
        section = course.section
        old = request.native_dialect == "completions"
        if message.rewritten or section.collection or (request.shortened and not old):
            return b"", None, False
        return request.native, request.native_dialect, old or not (course.filters or section.rename_model)


def _tighter(limits: CallLimits, client: float | None) -> CallLimits:
    if client is None:
        return limits
    return CallLimits(min(limits.first_delta, client), min(limits.gap, client), limits.total)
