"""Runs a scenario's phases: sends each request at its time, whatever became of those before it."""

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from random import Random
from typing import Any

from benchmarks.load.accounting import Attempts
from benchmarks.load.answer import Answer, End
from benchmarks.load.lag import Punctuality
from benchmarks.load.ledger import Done, PhaseLedger, Timeline, outcome
from benchmarks.load.mix import Intent, Mix, body, headers
from benchmarks.load.retries import delay
from benchmarks.load.scenario import Change, Phase, Scenario
from benchmarks.load.trace import Entry
from benchmarks.load.wire import Wire

TOO_LATE = 5.0  # seconds: what the generator would send later than that, it does not send
LOST_AFTER = 10.0  # seconds without a single connection, after which the target counts as lost
_PROBLEMS = 20  # that are told
_AT_ONCE = 32  # sends in a row before the loop may look at its sockets

Arrivals = Iterator[tuple[float, Entry | None]]
Changer = Callable[[Change], Coroutine[Any, Any, None]]


class Driver:
    """One run. `arrivals` gives a phase's times with what a trace says of each; `change` tells the simulated backend.

    After `run` the ledgers, attempts, timeline and punctuality hold what happened, also when it was stopped early;
    `ended` says how it ended: `done`, or what `stop` was given.
    """

    def __init__(
        self,
        scenario: Scenario,
        wire: Wire,
        mix: Mix,
        *,
        model: str,
        run: str,
        arrivals: Callable[[Phase], Arrivals],
        change: Changer | None = None,
    ) -> None:
        self.scenario = scenario
        self.phases: list[PhaseLedger] = []
        self.attempts = Attempts()
        self.ended = "done"
        self.stopped_at = 0.0
        self.problems: list[str] = []
        self.refused_here = 0  # not sent: as many were in flight as the scenario allows
        self.limited = False  # `max_requests` were sent, and no more
        self.short = 0  # not sent: the generator had no descriptor or port left for a connection
        self.changed = False  # the simulated backend may not be as it was found
        self.too_late = 0  # not sent: their time was long past
        self._wire = wire
        self._mix = mix
        self._model = model
        self._run = run
        self._arrivals = arrivals
        self._change = change
        self.clock = time.monotonic  # the loop's clock, but uvloop's stands still for a millisecond at a time
        self._random = Random(scenario.seed)
        self._tasks: set[asyncio.Task[None]] = set()
        self._main: asyncio.Task[None] | None = None
        self._without: float | None = None  # since when no connection could be made
        self.began = self.clock()
        self.punctuality = Punctuality(self.began)
        self.timeline = Timeline(self.began, sum(p.seconds + p.pause_seconds for p in scenario.phases))

    @property
    def next_number(self) -> int:
        return self._mix.next_number

    @property
    def in_flight(self) -> int:
        return len(self._tasks)

    async def run(self) -> None:
        """All phases in order. Returns when the last request has ended, or soon after `stop`."""
        self._main = asyncio.ensure_future(self._all_phases())
        with suppress(asyncio.CancelledError):
            await self._main
        while self._tasks:  # only after `stop`
            for task in self._tasks:
                task.cancel()
            await asyncio.wait(self._tasks)

    def stop(self, why: str) -> None:
        """Send no more and give up what is in flight."""
        if self.ended == "done" and self._main is not None and not self._main.done():
            self.ended = why
            self.stopped_at = self.clock()
            self._main.cancel()

    async def _all_phases(self) -> None:
        for phase in self.scenario.phases:
            await asyncio.sleep(phase.pause_seconds)
            ledger = PhaseLedger(phase, self.clock(), self._mix.next_number)
            self.phases.append(ledger)
            await self._phase(ledger)

    async def _phase(self, ledger: PhaseLedger) -> None:
        changes = [asyncio.ensure_future(self._change_at(change, ledger.began)) for change in ledger.phase.changes]
        try:
            if ledger.phase.arrivals == "closed":
                await self._closed(ledger)
            else:
                await self._open(ledger)
            while self._tasks:
                await asyncio.wait(self._tasks)
        finally:
            for task in changes:
                task.cancel()
            await asyncio.gather(*changes, return_exceptions=True)
            ledger.ended = max(ledger.ended, min(self.clock(), ledger.began + ledger.phase.seconds))

    async def _open(self, ledger: PhaseLedger) -> None:
        unbroken = 0
        for at, entry in self._arrivals(ledger.phase):
            if self._exhausted():
                break
            intended = ledger.began + at
            wait = intended - self.clock()
            if wait > 0:
                unbroken = 0
                await asyncio.sleep(wait)
            elif (unbroken := unbroken + 1) % _AT_ONCE == 0:
                await asyncio.sleep(0)
            self._launch(self._mix.intent(at, entry), intended, ledger)
        await asyncio.sleep(max(ledger.began + ledger.phase.seconds - self.clock(), 0))

    def _launch(self, intent: Intent, intended: float, ledger: PhaseLedger) -> None:
        ledger.offer(intent)
        ledger.arrival(intent, self._patience(intent))
        if self.clock() - intended > TOO_LATE:
            self.too_late += 1
            self._unsent(intent, intended, ledger)
        elif len(self._tasks) >= self.scenario.max_in_flight:
            self.refused_here += 1
            self._unsent(intent, intended, ledger)
        else:
            self._start(intent, intended, ledger)

    def _start(self, intent: Intent, intended: float, ledger: PhaseLedger) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(self._request(intent, intended, ledger))
        self._tasks.add(task)
        task.add_done_callback(self._over)
        return task

    def _over(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and len(self.problems) < _PROBLEMS:
            self.problems.append(f"the generator failed at a request, which is not counted: {error!r}")

    async def _closed(self, ledger: PhaseLedger) -> None:
        clients = [asyncio.ensure_future(self._client(ledger)) for _ in range(ledger.phase.clients or 1)]
        try:
            await asyncio.gather(*clients)
        finally:
            for client in clients:
                client.cancel()

    async def _client(self, ledger: PhaseLedger) -> None:
        until = ledger.began + ledger.phase.seconds
        while (now := self.clock()) < until and not self._exhausted():
            intent = self._mix.intent(now - ledger.began, None)
            ledger.offer(intent)
            task = self._start(intent, now, ledger)  # of its own, so that stopping books it like any other
            answered = await self._answer_of(task)
            if not answered:  # a target that cannot be reached would be asked a hundred thousand times a second
                await asyncio.sleep(0.1)
            await asyncio.sleep(ledger.phase.think_seconds)

    async def _answer_of(self, task: "asyncio.Task[None]") -> bool:
        await asyncio.wait([task])
        return self._without is None

    def _exhausted(self) -> bool:
        if self._mix.next_number < self.scenario.max_requests:
            return False
        self.limited = True
        return True

    def _patience(self, intent: Intent) -> float:
        deadline = intent.kind.deadline_ms
        hang = self.scenario.hang_seconds
        return hang if deadline is None else min(deadline / 1000, hang)

    async def _request(self, intent: Intent, intended: float, ledger: PhaseLedger) -> None:
        begun = intended
        self.punctuality.sent(intended, self.clock())
        in_flight = len(self._tasks)
        self.punctuality.peak_in_flight = max(self.punctuality.peak_in_flight, in_flight)
        self.timeline.offered(intended, in_flight)
        deadline = intended + self._patience(intent)
        payload = body(intent, self._model, self._run)
        answer, taken = Answer(), 0
        try:
            while True:
                answer = await self._attempt(intent, payload, intended, begun, deadline, ledger)
                wait = delay(answer, taken, self.scenario.retries, self._random)
                if wait is None or self.clock() + wait >= deadline:
                    break
                await asyncio.sleep(wait)
                begun, taken = self.clock(), taken + 1
        except asyncio.CancelledError:  # stopped; nobody awaits this task for its cancellation
            answer = self._stopped(answer, begun, taken, ledger)
        ledger.retried += taken
        self._book(intent, intended, begun, answer, ledger)
        if answer.end is End.STOPPED and not answer.sent:
            self.short += 1

    async def _attempt(
        self, intent: Intent, payload: bytes, intended: float, begun: float, deadline: float, ledger: PhaseLedger
    ) -> Answer:
        leave = intent.kind.leave if intent.leaves else None
        answer = await self._wire.ask(
            payload,
            headers=headers(intent, deadline - self.clock()),
            stream=intent.kind.stream,
            deadline=deadline,
            leave=leave,
            leave_at=intended + leave.seconds if leave is not None and leave.after == "seconds" else None,
        )
        ledger.attempt(answer, begun)
        self.attempts.book(answer)
        self._watch_reach(answer)
        return answer

    def _stopped(self, answer: Answer, begun: float, taken: int, ledger: PhaseLedger) -> Answer:
        """The last answer where the request waited to try again; else that of an attempt that was cut short."""
        if answer.ended and answer.ended >= begun:
            return answer
        now = self.clock()
        answer = Answer(end=End.STOPPED, sent=now, ended=now, detail=f"stopped in attempt {taken + 1}")
        ledger.attempt(answer, begun)
        self.attempts.book(answer)
        return answer

    def _unsent(self, intent: Intent, intended: float, ledger: PhaseLedger) -> None:
        self.timeline.offered(intended, len(self._tasks))
        self._book(intent, intended, intended, Answer(ended=self.clock()), ledger)

    def _book(self, intent: Intent, intended: float, begun: float, answer: Answer, ledger: PhaseLedger) -> None:
        name = outcome(answer)
        hang = self.scenario.hang_seconds
        if answer.end is End.TIMED_OUT and self._patience(intent) >= hang and begun == intended:
            name = "unanswered"  # a second attempt had an answer to the first, and less time
        done = Done(intent, intended, begun, answer, name)
        ledger.book(done)
        self.timeline.ended(done)

    def _watch_reach(self, answer: Answer) -> None:
        if answer.end is not End.UNREACHABLE:
            self._without = None
        elif self._without is None:
            self._without = self.clock()
        elif self.clock() - self._without > LOST_AFTER:
            self.stop(f"the target was lost: for {LOST_AFTER:.0f} s no connection could be made ({answer.detail})")

    async def _change_at(self, change: Change, began: float) -> None:
        await asyncio.sleep(max(began + change.at - self.clock(), 0))
        if self._change is None:
            self.problems.append("the scenario changes the simulated backend, but none is known (--backend)")
            return
        self.changed = True
        try:
            await self._change(change)
        except Exception as error:  # noqa: BLE001 - the run goes on, and its report says so
            self.problems.append(
                f"the simulated backend was not changed {change.at:g} s after its phase began: {error}"
            )
