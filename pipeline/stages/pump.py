"""One backend call: from the worker's batches to the request's channel."""

import asyncio
from contextlib import aclosing
from typing import Any, Protocol

import msgspec

from pipeline.core.deltas import DeltaChannel
from pipeline.core.errors import BackendFailed, BackendRefused, HeadgateError
from pipeline.core.messages import AssembleOutput, InferenceOutput
from pipeline.core.outcomes import Place
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.policy.lane import Lane
from pipeline.stages.base import Clock, Trace
from pipeline.stages.limits import CallLimits, WatchedCall
from workers.base import DeltaBatch, GenerationRequest, ModelWorker, Usage
from workers.errors import WorkerError, WorkerErrorKind

GAPS_KEPT = 64  # between deltas, until an observer looks at them
_UNAVAILABLE = 503
_TOKENS_MAX = 10_000_000


class Backend(msgspec.Struct, eq=False):
    """A worker, with its limits for the next calls; `high_water` deltas may wait for a slow client. `calls` are under
    way."""

    worker: ModelWorker
    limits: CallLimits
    high_water: int
    calls: int = 0


class CallingStage(Protocol):
    """The stage that a call is made for."""

    clock: Clock
    hooks: Hooks
    trace: Trace | None

    @property
    def loop(self) -> asyncio.AbstractEventLoop: ...

    def hand_on(self, message: InferenceOutput, ticket: Ticket, now: float) -> None: ...

    def over(self, ticket: Ticket, began: float, task: "asyncio.Task[Any]") -> None: ...


class Pump(WatchedCall):
    """One backend call: reads the worker's batches into the channel until the answer is complete or nobody wants it."""

    __slots__ = (
        "_backend",
        "_channel",
        "_clock",
        "_estimated",
        "_first_delta",
        "_inflight",
        "_message",
        "_stage",
        "lane",
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
        self._backend = backend
        self._clock = stage.clock
        self.lane = lane
        self.running = True  # the call holds its place at the worker
        backend.calls += 1
        self._estimated = lane.cost(message.prompt_tokens, request.parameters)
        lane.start(request.ticket.priority, self._estimated, now)
        request.ticket.started = True
        self._inflight = lane.inflight
        self._first_delta: float | None = None  # seconds after the call began
        self._channel = DeltaChannel(backend.high_water, stage.loop)
        self.task: asyncio.Task[Any] | None = None  # that runs it

    async def run(self) -> None:
        try:
            async with aclosing(self._backend.worker.generate(self._request())) as batches:
                async for batch in batches:
                    full = not self._deliver(batch)
                    if self.ticket.ending is not None or (full and not await self._room()):
                        return
            self._complete()
        except WorkerError as error:
            if error.kind is WorkerErrorKind.RATE_LIMITED or error.status == _UNAVAILABLE:
                self.lane.push_back(error.retry_after, self._inflight, self._clock(), self.began)
            self.expire(translate(error))
        except asyncio.CancelledError:
            if self.ticket.ending is None and not self._channel.closed:  # the worker cancelled itself
                self.expire(translate(WorkerError(WorkerErrorKind.PROTOCOL, "the call was cancelled from within")))
            raise

    def over(self, task: "asyncio.Task[Any]") -> None:
        """The call has ended, however: its place at the worker is free."""
        now = self._clock()
        usage, first = self.ticket.usage, self._first_delta
        self.running = False
        self._backend.calls -= 1
        prompt, tokens = self._message.prompt_tokens, self.ticket.chunks
        if usage is not None:
            prompt, tokens = usage.prompt_tokens, usage.completion_tokens
        elif first is None and not task.cancelled():
            prompt = 0  # it failed, and nobody counts that
        self.lane.finish(self._estimated, prompt + tokens, now, answered=first is not None)
        if task.cancelled():
            first = None  # of whole answers it tells nothing
        self.lane.ended(now - self.began, first, tokens, now, self._inflight, prompt)
        self._stage.over(self.ticket, self.began, task)

    def _deliver(self, batch: DeltaBatch) -> bool:
        """Puts a batch into the channel; False when it is full or not wanted."""
        now = self._clock()
        ticket = self.ticket
        if batch.usage is not None:
            ticket.usage = _credible(batch.usage)
        if not batch.deltas:
            return True
        last, self.last = self.last, now
        count = len(batch.deltas)
        ticket.chunks += count
        if last is None:
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

    async def _room(self) -> bool:
        self.waiting = False
        try:
            return await self._channel.room()
        finally:
            self.waiting = True
            self.last = self._clock()

    def _hand_on(self, now: float) -> None:
        ticket, stage, message = self.ticket, self._stage, self._message
        ticket.first_delta = now - ticket.arrived
        self._first_delta = ticket.service[Place.INFERENCE] = now - self.began
        self.lane.answered(self._first_delta, message.prompt_tokens, self._inflight, now)
        if stage.trace is not None:
            stage.trace(ticket, Place.INFERENCE)
        stage.hand_on(InferenceOutput(message.request, message, self._channel), ticket, now)

    def _complete(self) -> None:
        self.done = True
        if self.last is None:
            self.expire(translate(WorkerError(WorkerErrorKind.PROTOCOL, "the answer is empty")))
            return
        if self.task is not None:
            self.ticket.tasks.remove(self.task)  # it has nothing left to be stopped at
        self._channel.close()

    def expire(self, error: HeadgateError) -> None:
        """The call failed or is overdue. An answer that has begun is given out to its end before its error."""
        self.done = True
        if self.last is None or not isinstance(error, BackendFailed | BackendRefused):
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
        )


def _credible(usage: Usage) -> Usage:
    """What the backend says it counted, within what any model can count: quotas and averages rely on it."""
    if 0 <= usage.prompt_tokens <= _TOKENS_MAX and 0 <= usage.completion_tokens <= _TOKENS_MAX:
        return usage
    prompt = min(max(usage.prompt_tokens, 0), _TOKENS_MAX)
    return Usage(prompt, min(max(usage.completion_tokens, 0), _TOKENS_MAX), usage.raw)


def _tighter(limits: CallLimits, client: float | None) -> CallLimits:
    if client is None:
        return limits
    return CallLimits(min(limits.first_delta, client), min(limits.gap, client), limits.total)


def translate(error: WorkerError) -> HeadgateError:
    """What a worker raised, as what the client is told."""
    if error.kind is WorkerErrorKind.REFUSED:
        refused = BackendRefused(f"The backend refused the request: {error.message}")
        refused.__cause__ = error
        return refused
    failed = BackendFailed(
        f"The backend failed: {error.message}",
        reason=f"backend_{error.kind}",
        backend_status=error.status,
        retry_after=error.retry_after,
    )
    failed.__cause__ = error
    return failed
