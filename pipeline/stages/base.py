"""The one run loop of the five stages."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from types import CoroutineType
from typing import Any, Generic, Protocol, TypeVar

from pipeline.core.errors import DeadlineExceeded, HeadgateError, Overloaded, StageFailed
from pipeline.core.outcomes import Place, Reason
from pipeline.core.queue import Put, StageQueue
from pipeline.core.ticket import Ticket
from pipeline.policy.admission import retry_after

BATCH = 64  # messages taken at once before other tasks get their turn
_RATE_WEIGHT = 0.2  # of the newest tick in the moving average of the service rate


class Message(Protocol):
    """What every stage takes; `request` is a `PromptRequest`."""

    @property
    def request(self) -> Any: ...


In = TypeVar("In", bound=Message)
Out = TypeVar("Out")
Trace = Callable[[Ticket, Place], None]
Clock = Callable[[], float]


class Stage(Generic[In, Out]):
    """Takes messages from `inbox`, handles them, and offers the results to the stage that is `following`.

    A subclass implements `handle`. Returning a message hands it on at once; returning None means that the stage has
    taken care of it; returning a coroutine makes it a task of its own, whose result is treated the same. An error
    ends the one request as `failed` and the stage goes on. At most `concurrency` requests are in the stage's tasks at
    a time; the rest wait in `inbox`.
    """

    place: Place

    def __init__(
        self, inbox: StageQueue[In], following: "Stage[Any, Any] | None", concurrency: int, clock: Clock
    ) -> None:
        self.inbox = inbox
        self.concurrency = concurrency
        self.active = 0
        self.rate = 0.0  # requests a second that leave the queue, averaged over about a second
        self.trace: Trace | None = None  # called when a request has passed the stage
        self._following = following
        self.bit = 1 << self.place  # of `Ticket.held`
        self._idle = False  # waits for its inbox
        self.clock = clock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._parked: asyncio.Future[None] | None = None
        self._last_tick = (clock(), 0)

    def handle(self, message: In) -> "Out | Coroutine[Any, Any, Out | None] | None":
        raise NotImplementedError

    def room(self) -> int:
        """How many more messages may be taken now. When this turns positive, `nudge` must be called."""
        return self.concurrency - self.active

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        """The event loop that the stage runs on, looked up once: until Python 3.12 that is a system call."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()
        return self._loop

    async def run(self) -> None:
        """Runs until the inbox is closed and drained, or until cancelled."""
        inbox, clock = self.inbox, self.clock
        while True:
            if not inbox.waiting:
                if inbox.closed:
                    return
                self._idle = True
                await inbox.wait()
                self._idle = False
                continue
            room = self.room()
            taken = inbox.take_ready(min(room, BATCH)) if room > 0 else ()
            if not taken:
                await self._park()
                continue
            for entered, message in taken:
                now = clock()
                self.carry(message, now - entered, now)
            if inbox.waiting:
                await asyncio.sleep(0)  # the others' turn

    def offer(self, message: In, now: float) -> Put:
        """Puts a message into the inbox, or says at once why not.

        When the stage is idle and has room, it handles the message here and now instead of being woken for it: an
        empty queue costs no turn of the event loop.
        """
        if not self.takes_at_once(message):
            ticket: Ticket = message.request.ticket
            ticket.waits, ticket.since = True, now
            return self.inbox.try_put(message, now)
        result = self.inbox.pass_by()
        if result is Put.ACCEPTED:
            self.carry(message, 0.0, now)
        return result

    def resize(self, capacity: int, concurrency: int) -> None:
        """Other bounds from now on. What waits and what is worked on stays, also where it is more."""
        self.inbox.capacity = capacity
        self.concurrency = concurrency
        self.nudge()

    def nudge(self) -> None:
        """There may be room again."""
        if self._parked is not None and not self._parked.done():
            self._parked.set_result(None)

    def tick(self, now: float) -> None:
        """Updates `rate` and ends what waits beyond its deadline. To be called about ten times a second."""
        then, taken = self._last_tick
        if now > then:
            self.rate += _RATE_WEIGHT * ((self.inbox.taken - taken) / (now - then) - self.rate)
            self._last_tick = (now, self.inbox.taken)
        if self.inbox.waiting:
            for message in self.inbox.withdraw(lambda waiting: bool(waiting.request.deadline <= now)):
                self._expire(message.request.ticket, now)

    def hand_on(self, message: Out, ticket: Ticket, now: float) -> None:
        """Offers `message` to the next stage, or sheds its request."""
        following = self._following
        if following is not None and self._pass_on(message, ticket, now, following):
            following.carry(message, 0.0, now)

    def spawn(self, work: Coroutine[Any, Any, Out | None], ticket: Ticket) -> "asyncio.Task[Out | None]":
        """Runs `work` as a task of the request: cancelled with it, and counted against the stage's concurrency."""
        self.active += 1
        task = self.loop.create_task(work)
        ticket.tasks.append(task)
        task.add_done_callback(partial(self.over, ticket, self.clock()))
        return task

    def takes_at_once(self, message: Any) -> bool:  # noqa: ARG002 - for stages whose room depends on it
        return self._idle and not self.inbox.waiting and self.room() > 0

    def carry(self, message: Any, sojourn: float, now: float) -> None:
        """Takes a message through this stage, and on through the following ones as far as they are idle.

        A loop rather than calls from stage to stage: this is what every request passes through five times.
        """
        stage: Stage[Any, Any] = self
        ticket: Ticket = message.request.ticket
        deadline: float = message.request.deadline
        clock = self.clock
        while ticket.ending is None:
            place = stage.place
            ticket.sojourn[place] = sojourn
            ticket.waits = False
            ticket.since = now
            if now >= deadline:
                stage._expire(ticket, now)
                return
            try:
                result = stage.handle(message)
            except Exception as error:  # noqa: BLE001 - one request's failure must not be another's
                stage.fail(ticket, error)
                return
            if result is None:
                return
            if isinstance(result, CoroutineType):
                stage.spawn(result, ticket)
                return
            after = clock()
            ticket.service[place] = after - now
            if stage.trace is not None:
                stage.trace(ticket, place)
            following = stage._following
            if following is None or not stage._pass_on(result, ticket, after, following):
                return
            stage, message, sojourn, now = following, result, 0.0, after

    def _pass_on(self, message: Any, ticket: Ticket, now: float, following: "Stage[Any, Any]") -> bool:
        """Puts a message into the next stage's queue, or sheds its request; True when that stage is to take it now."""
        ticket.place = following.place
        bit = following.bit
        reserved = bool(ticket.held & bit)
        if reserved:
            ticket.held ^= bit
        at_once = following.takes_at_once(message)
        ticket.waits = not at_once
        ticket.since = now
        inbox = following.inbox
        result = inbox.pass_by(reserved=reserved) if at_once else inbox.try_put(message, now, reserved=reserved)
        if result is Put.ACCEPTED:
            return at_once
        self._shed(ticket, following.place, now)
        return False

    def over(self, ticket: Ticket, began: float, task: "asyncio.Task[Any]") -> None:
        """A task of the request has ended: its place is free, and what it returned goes on."""
        self.active -= 1
        self.nudge()
        if task.cancelled():
            if ticket.ending is None and ticket.place is self.place:  # by itself, not because its request ended
                self.fail(ticket, asyncio.CancelledError("the task was cancelled from within"))
            return
        error = task.exception()
        if error is not None:
            self.fail(ticket, error)
            return
        result = task.result()
        if result is None or ticket.ending is not None:
            return
        now = self.clock()
        ticket.service[self.place] = now - began
        if self.trace is not None:
            self.trace(ticket, self.place)
        self.hand_on(result, ticket, now)

    def fail(self, ticket: Ticket, error: BaseException) -> None:
        """Ends a request with what its handler raised."""
        if isinstance(error, HeadgateError):
            ticket.fail(error, self.clock())
            return
        failed = StageFailed(f"The {self.place.label} stage failed on this request")
        failed.__cause__ = error
        ticket.fail(failed, self.clock())

    def _expire(self, ticket: Ticket, now: float) -> None:
        message = f"The deadline passed while the request waited for {self.place.label}"
        ticket.fail(DeadlineExceeded(message), now)

    def _shed(self, ticket: Ticket, place: Place, now: float) -> None:
        wait = retry_after(len(self.inbox), self.rate)
        error = Overloaded(
            f"The queue in front of {place.label} is full; try again later",
            place=place.label,
            reason=Reason.QUEUE_FULL,
            retry_after=wait,
        )
        ticket.fail(error, now)

    async def _park(self) -> None:
        """Waits for a nudge, or for something new to come: that may be taken although what waits may not."""
        self._parked = self.inbox.wait()
        try:
            await self._parked
        finally:
            self._parked = None
