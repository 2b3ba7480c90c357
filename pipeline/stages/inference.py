"""Inference: starts the calls to the workers, each as soon as there is a place for it."""

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from msgspec import structs

from pipeline.core.access import ANONYMOUS
from pipeline.core.errors import Overloaded
from pipeline.core.messages import AssembleOutput, InferenceOutput, PostOutput, RagOutput
from pipeline.core.outcomes import Place, Reason
from pipeline.core.ports import Hooks
from pipeline.core.queue import Put, StageQueue
from pipeline.core.ticket import Ticket
from pipeline.policy.admission import jittered
from pipeline.policy.lane import Lane, Verdict
from pipeline.policy.lanes import LaneOrder
from pipeline.stages.backend import Backend
from pipeline.stages.base import Clock, Stage
from pipeline.stages.course import Course
from pipeline.stages.limits import Watch
from pipeline.stages.pump import Pump

_PLACES_AHEAD = (1 << Place.POST) | (1 << Place.STREAM)
_WHY_DROPPED = {
    Reason.OVERDUE: "The request waited for longer than its route allows; try again later",
    Reason.STANDING_QUEUE: "The server has been overloaded for too long; try again later",
    Reason.TOO_LATE: "The request could not have been answered before its deadline any more; try again later",
}


class InferenceStage(Stage[AssembleOutput, InferenceOutput]):
    """Starts a backend call only while it holds places in Post and Stream, so that a request whose inference has
    begun is never shed. How many calls run at once is the business of the workers' lanes, of which `order` is the
    discipline; `backends` are the workers to call, by their lanes' names."""

    place = Place.INFERENCE

    def __init__(
        self,
        inbox: StageQueue[AssembleOutput],
        following: Stage[Any, Any],
        clock: Clock,
        *,
        order: LaneOrder[AssembleOutput],
        ahead: StageQueue[PostOutput],
        hooks: Hooks,
        chance: Callable[[], float],
    ) -> None:
        super().__init__(inbox, following, sys.maxsize, clock)
        self._order = order
        self._ahead = (following.inbox, ahead)
        self.backends: dict[str, Backend] = {}
        self.hooks = hooks
        self._watch = Watch(clock)
        self.chance = chance
        self.back: Callable[[RagOutput, float], Put] | None = None  # to Assemble, for those who change their worker
        self._unblock: asyncio.TimerHandle | None = None

    def close(self) -> None:
        self._watch.stop()
        if self._unblock is not None:
            self._unblock.cancel()

    def room(self) -> int:
        room = self.concurrency
        for ahead in self._ahead:
            if ahead.vacancies < room:
                room = ahead.vacancies
                if room <= 0:
                    ahead.on_vacancy(self.nudge)
        return room

    def takes_at_once(self, message: Any) -> bool:
        if not self._idle or self.inbox.waiting or self.room() <= 0:
            return False
        lane = message.request.ticket.lane
        if lane.unanswered < self._order.kept:
            return bool(lane.room(self.clock()) > 0)
        return self._order.room(lane, self.clock()) > 0

    def handle(self, message: AssembleOutput) -> None:
        request = message.request
        ticket = request.ticket
        lane: Lane[AssembleOutput] = ticket.lane
        backend = self.backends[lane.name]
        ticket.worker = lane.name
        now = ticket.since
        sojourn = ticket.sojourn[Place.INFERENCE]
        if sojourn:
            reason = lane.drops(ticket.priority, sojourn, request.wait_budget, now)
            if reason is None and now + lane.typical.answer(request.parameters.max_tokens) > request.deadline:
                reason = Reason.TOO_LATE
            if reason is not None:
                self._drop(ticket, reason, now)
                return
        for ahead in self._ahead:
            ahead.hold()  # `room` has seen the place, and nobody else takes any
        ticket.held |= _PLACES_AHEAD
        pump = Pump(self, message, backend, lane, now)
        self._watch.add(pump)
        self.active += 1
        pump.task = task = self.loop.create_task(pump.run())
        ticket.tasks.append(task)
        task.add_done_callback(pump.over)

    def tick(self, now: float) -> None:
        super().tick(now)
        self._end_overdue(now)
        calls = [call for call in self._watch.calls if isinstance(call, Pump) and call.running]
        for lane in self._order.lanes:
            own = [call for call in calls if call.lane is lane]
            unanswered = max([call.silence(now) for call in own], default=0.0)
            lane.tick([now - call.paced for call in own], unanswered, now)
            if own and lane.inflight >= lane.limit:
                for replica in {replica for call in own if (replica := call.stuck(now)) is not None}:
                    own[0].backend.stuck(replica, now)
        for backend in self.backends.values():
            if backend.waiting:
                backend.changed()  # time may have brought back a replica
        self.nudge()  # a limit may have grown

    def elsewhere(self, message: AssembleOutput, ticket: Ticket, now: float, *, above: int = 0) -> bool:
        """See `CallingStage`. The next worker takes it as the door would: its own requests must not suffer."""
        for course in message.request.course.fallbacks:
            if course.plan.context_tokens > above and self._taken_over(message, course, ticket, now):
                return True
        return False

    def _taken_over(self, message: AssembleOutput, course: Course, ticket: Ticket, now: float) -> bool:
        request, lane, inbox = message.request, course.lane, self.inbox
        if self.back is None or lane not in self._order.lanes or lane.reopens(now) > 0.0:
            return False  # the worker may be gone since the request came in
        asker = lane.asker(ticket.caller or ANONYMOUS, ticket.priority, request.session_id or "")
        if not lane.idle or inbox.vacancies <= 0:
            left, limit = request.deadline - now, request.parameters.max_tokens
            decision = lane.decide(asker, course.wait_budget, left, limit, now, full=inbox.vacancies <= 0)
            if decision.verdict is not Verdict.ADMIT:
                return False
        if not inbox.reserve():
            return False
        self._let_go(ticket, now)
        ticket.lane = lane
        ticket.flow = lane.admit(asker)
        ticket.held |= self.bit
        ticket.place = Place.ASSEMBLE
        if lane.pool is not None:
            lane.pool.fallbacks += 1
        before = message.before
        moved = structs.replace(request, course=course)
        if self.back(RagOutput(moved, before.passages, before.degraded), now) is not Put.ACCEPTED:
            self._shed(ticket, Place.ASSEMBLE, now)
        return True

    def _let_go(self, ticket: Ticket, now: float) -> None:
        """The call is over for the request; what it held for its answer is free."""
        ticket.lane.leave(ticket.flow, ticket.priority, now, started=True)
        ticket.flow = None
        ticket.started = False
        ticket.held &= ~_PLACES_AHEAD
        for ahead in self._ahead:
            ahead.release()

    async def _park(self) -> None:
        wait = self._order.blocked()
        if wait > 0.0 and self._unblock is None:  # a quota: it will not nudge
            self._unblock = self.loop.call_later(wait, self._unblocked)
        await super()._park()

    def _unblocked(self) -> None:
        self._unblock = None
        self.nudge()

    def _end_overdue(self, now: float) -> None:
        """Also those whose turn does not come because a higher class takes all."""
        for lane in self._order.lanes:
            for entered, message in lane.waits_since():
                if now - entered > lane.patience(message.request.wait_budget, message.request.ticket.priority, now):
                    self._drop(message.request.ticket, Reason.OVERDUE, now)

    def _drop(self, ticket: Ticket, reason: Reason, now: float) -> None:
        wait = jittered(ticket.lane.drain(now), self.chance())
        ticket.lane.refused(now)
        ticket.fail(
            Overloaded(_WHY_DROPPED[reason], place=self.place.label, reason=reason, retry_after=wait),
            now,
        )
