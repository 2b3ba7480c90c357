"""Inference: calls the route's worker and pumps its deltas into the request's channel."""

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from pipeline.core.deltas import DeltaChannel
from pipeline.core.errors import BackendFailed, BackendRefused, HeadgateError
from pipeline.core.messages import AssembleOutput, InferenceOutput, PostOutput
from pipeline.core.outcomes import Place
from pipeline.core.ports import Hooks
from pipeline.core.queue import StageQueue
from pipeline.stages.base import Clock, Stage
from pipeline.stages.limits import CallLimits, Watch, WatchedCall
from workers.base import DeltaBatch, GenerationRequest, ModelWorker
from workers.errors import WorkerError, WorkerErrorKind

GAPS_KEPT = 64  # between deltas, until an observer looks at them
_PLACES_AHEAD = (1 << Place.POST) | (1 << Place.STREAM)


class Backend(msgspec.Struct, frozen=True):
    """A worker under its configured name, with its limits; `high_water` deltas may wait for a slow client."""

    name: str
    worker: ModelWorker
    limits: CallLimits
    high_water: int


class InferenceStage(Stage[AssembleOutput, InferenceOutput]):
    """Starts a backend call only while it holds places in Post and Stream, so that a request whose inference has
    begun is never shed. `backends` says which worker serves a route."""

    place = Place.INFERENCE

    def __init__(
        self,
        inbox: StageQueue[AssembleOutput],
        following: Stage[Any, Any],
        concurrency: int,
        clock: Clock,
        *,
        ahead: StageQueue[PostOutput],
        backends: Mapping[str, Backend],
        hooks: Hooks,
    ) -> None:
        super().__init__(inbox, following, concurrency, clock)
        self._ahead = (following.inbox, ahead)
        self._backends = backends
        self.hooks = hooks
        self._watch = Watch(clock)

    def close(self) -> None:
        self._watch.stop()

    def room(self) -> int:
        room = self.concurrency - self.active
        for ahead in self._ahead:
            if ahead.vacancies < room:
                room = ahead.vacancies
                if room <= 0:
                    ahead.on_vacancy(self.nudge)
        return room

    def handle(self, message: AssembleOutput) -> None:
        ticket = message.request.ticket
        backend = self._backends[message.request.route]
        ticket.worker = backend.name
        for ahead in self._ahead:
            ahead.hold()  # `room` has seen the place, and nobody else takes any
        ticket.held |= _PLACES_AHEAD
        pump = _Pump(self, message, backend, self.clock)
        self._watch.add(pump)
        pump.task = self.spawn(pump.run(), ticket)


class _Pump(WatchedCall):
    """One backend call: reads the worker's batches into the channel until the answer is complete or nobody wants it."""

    __slots__ = ("_backend", "_channel", "_clock", "_message", "_stage", "task")

    def __init__(self, stage: "InferenceStage", message: AssembleOutput, backend: Backend, clock: Clock) -> None:
        request = message.request
        super().__init__(request.ticket, _tighter(backend.limits, request.gap_limit), clock(), request.deadline)
        self._stage = stage
        self._message = message
        self._backend = backend
        self._clock = clock
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
            self.expire(translate(error))
        except asyncio.CancelledError:
            if self.ticket.ending is None and not self._channel.closed:  # the worker cancelled itself
                self.expire(translate(WorkerError(WorkerErrorKind.PROTOCOL, "the call was cancelled from within")))
            raise

    def _deliver(self, batch: DeltaBatch) -> bool:
        """Puts a batch into the channel; False when it is full or not wanted."""
        now = self._clock()
        ticket = self.ticket
        if batch.usage is not None:
            ticket.usage = batch.usage
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
        ticket.service[Place.INFERENCE] = now - self._began
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
        )


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
