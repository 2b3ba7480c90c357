"""Inference: calls the route's worker and pumps its deltas into the request's channel."""

import asyncio
from collections.abc import Coroutine, Mapping
from contextlib import aclosing
from typing import Any

import msgspec

from pipeline.core.deltas import DeltaChannel
from pipeline.core.errors import BackendFailed, BackendRefused, HeadgateError
from pipeline.core.messages import AssembleOutput, InferenceOutput, PostOutput
from pipeline.core.outcomes import Place
from pipeline.core.ports import Hooks
from pipeline.core.queue import StageQueue
from pipeline.core.ticket import Ticket
from pipeline.stages.base import Clock, Stage
from pipeline.stages.limits import CallLimits, Watchdog
from workers.base import DeltaBatch, GenerationRequest, ModelWorker
from workers.errors import WorkerError, WorkerErrorKind

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
        outbox: StageQueue[InferenceOutput],
        concurrency: int,
        clock: Clock,
        *,
        ahead: StageQueue[PostOutput],
        backends: Mapping[str, Backend],
        hooks: Hooks,
    ) -> None:
        super().__init__(inbox, outbox, concurrency, clock)
        self._post = outbox
        self._stream = ahead
        self._backends = backends
        self._hooks = hooks

    def room(self) -> int:
        free = self.concurrency - self.active
        places = min(self._post.vacancies, self._stream.vacancies)
        if places < free and places <= 0:
            self._post.on_vacancy(self.nudge)
            self._stream.on_vacancy(self.nudge)
        return min(free, places)

    def handle(self, message: AssembleOutput) -> Coroutine[Any, Any, InferenceOutput | None]:
        ticket = message.request.ticket
        backend = self._backends[message.request.route]
        ticket.worker = backend.name
        self._post.reserve()  # `room` has seen these places, and nobody else takes any
        self._stream.reserve()
        ticket.held |= _PLACES_AHEAD
        return _Pump(self, message, backend, self._clock, self._hooks).run()


class _Pump:
    """One backend call: reads the worker's batches into the channel until the answer is complete or nobody wants it."""

    __slots__ = (
        "_backend",
        "_began",
        "_channel",
        "_clock",
        "_hooks",
        "_message",
        "_stage",
        "_task",
        "_ticket",
        "_watchdog",
    )

    def __init__(
        self, stage: InferenceStage, message: AssembleOutput, backend: Backend, clock: Clock, hooks: Hooks
    ) -> None:
        self._stage = stage
        self._message = message
        self._backend = backend
        self._clock = clock
        self._hooks = hooks
        self._ticket: Ticket = message.request.ticket
        self._began = clock()
        self._channel = DeltaChannel(backend.high_water)
        self._watchdog = Watchdog(self._ticket, self._limits(), message.request.deadline, clock, self._broken)
        self._task: asyncio.Task[Any] | None = None

    async def run(self) -> None:
        self._task = asyncio.current_task()
        try:
            async with aclosing(self._backend.worker.generate(self._request())) as batches:
                async for batch in batches:
                    if not self._deliver(batch) and not await self._room():
                        return
            self._complete()
        except WorkerError as error:
            self._broken(translate(error))
        except asyncio.CancelledError:
            if self._ticket.ending is None and not self._channel.closed:  # the worker cancelled itself
                self._broken(translate(WorkerError(WorkerErrorKind.PROTOCOL, "the call was cancelled from within")))
            raise

    def _deliver(self, batch: DeltaBatch) -> bool:
        """Puts a batch into the channel; False when it is full or not wanted."""
        now = self._clock()
        watchdog, ticket = self._watchdog, self._ticket
        if batch.usage is not None:
            ticket.usage = batch.usage
        if not batch.deltas:
            return True
        gap = None if watchdog.last is None else now - watchdog.last
        watchdog.last = now
        ticket.chunks += len(batch.deltas)
        self._hooks.after_deltas(ticket, len(batch.deltas), gap)
        more = self._channel.put(batch)
        if gap is None:
            self._hand_on(now)
        return more

    async def _room(self) -> bool:
        self._watchdog.waiting = False
        try:
            return await self._channel.room()
        finally:
            self._watchdog.waiting = True
            self._watchdog.last = self._clock()

    def _hand_on(self, now: float) -> None:
        ticket, stage, message = self._ticket, self._stage, self._message
        ticket.first_delta = now - ticket.arrived
        ticket.service[Place.INFERENCE] = now - self._began
        if stage.trace is not None:
            stage.trace(ticket, Place.INFERENCE)
        stage.hand_on(InferenceOutput(message.request, message, self._channel), ticket, now)

    def _complete(self) -> None:
        self._watchdog.call_done()
        if self._watchdog.last is None:
            self._broken(translate(WorkerError(WorkerErrorKind.PROTOCOL, "the answer is empty")))
            return
        self._channel.close()

    def _broken(self, error: HeadgateError) -> None:
        """The call failed or is overdue. An answer that has begun is given out to its end before its error."""
        self._watchdog.call_done()
        if self._watchdog.last is None or not isinstance(error, BackendFailed | BackendRefused):
            self._ticket.fail(error, self._clock())
        else:
            self._channel.fail(error)
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()

    def _limits(self) -> CallLimits:
        limits, client = self._backend.limits, self._message.request.gap_limit
        if client is None:
            return limits
        return CallLimits(min(limits.first_delta, client), min(limits.gap, client), limits.total)

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
