"""One run in memory: from the moment that it is taken up until it has ended, waits, or is given back."""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog

from pipeline.workflow import endings
from pipeline.workflow.doing import Doing, Error, Leaving, described, timed_out
from pipeline.workflow.errors import RunFull, StepFailed
from pipeline.workflow.frame import Frame
from pipeline.workflow.history import INTERRUPTED, History, StepRecord, blemishes, open_ones
from pipeline.workflow.journal import AnyEntry, Lease, RunRecord, Signalled, StateChanged
from pipeline.workflow.ledger import Ledger
from pipeline.workflow.places import Share
from pipeline.workflow.plan import Node, Plan
from pipeline.workflow.shared import Shared
from pipeline.workflow.states import RunState
from pipeline.workflow.steps.control import doing_of
from pipeline.workflow.wait import Wait

log = structlog.get_logger("headgate.workflow")

RESUMED = "resumed"
WOKEN = "woken"


class Run:
    """`busy` counts what will go on by itself (steps under way, in line, between attempts); `tasks` are handlers under
    way. `records`: what is known of steps from before a restart and not yet asked for. `deadline` is of the loop's
    clock. `blemishes`: steps (paths) that were completed although one inside of them failed. `limits`: when (wall
    clock) the steps with steps inside that are under way come to their limits, by path. `woken`: it was waiting before
    it was taken up.

    While it is held (paused, stopping, or the journal cannot be written) nothing begins; what would, is noted.
    """

    __slots__ = (
        "_concluded",
        "_departing",
        "_ending",
        "_frame",
        "_held",
        "_history",
        "_ledger",
        "_left",
        "_paused_at",
        "_plan",
        "_stalled",
        "_stopping",
        "_timer",
        "blemishes",
        "busy",
        "deadline",
        "limits",
        "loop",
        "record",
        "records",
        "share",
        "shared",
        "signals",
        "state",
        "tasks",
        "underway",
        "waits",
        "wake_at",
        "woken",
    )

    def __init__(self, shared: Shared, record: RunRecord, lease: Lease, plan: Plan, history: History | None) -> None:
        self.shared = shared
        self.loop = shared.loop
        self.record = record
        self.state = record.state if history is None else history.state
        self.records: dict[str, StepRecord] = {} if history is None else open_ones(history.steps)
        self.signals: list[tuple[str, Any]] = [] if history is None else history.signals
        self.underway = history is not None and history.underway
        self.woken = history is not None and history.state is RunState.WAITING
        self.blemishes = set() if history is None else blemishes(history.steps)
        self.waits: dict[str, Wait] = {}
        self.limits: dict[str, float] = {}
        self.wake_at: float | None = None
        self.busy = 0
        self.tasks = 0
        self.share = Share(_at_once(shared, record))
        self.deadline: float | None = None
        self._paused_at: float | None = None
        self._plan = plan
        self._history = history
        self._frame: Frame | None = None
        self._held: deque[Callable[[], None]] | None = None
        self._stalled = self._stopping = self._ending = self._concluded = self._departing = False
        self._timer: asyncio.TimerHandle | None = None
        self._left: asyncio.Future[None] | None = None
        self._ledger = Ledger(
            shared,
            lease,
            settled=self._settle,
            trouble=self._stall,
            lost=self._lose,
            broke=self._break,
            posted=self._posted,
            last=record.last if history is None else history.last,
        )

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def lease(self) -> Lease:
        return self._ledger.lease

    def now(self) -> float:
        return self.shared.now()

    def count(self, what: str) -> None:
        self.shared.counters[what] += 1

    # Its life.

    def begin(self, because: str = "") -> None:
        """Starts, or goes on. One that was interrupted goes on when it is written that it does: it may be what ends
        this process."""
        if self.hold(partial(self.begin, because)):
            return
        history, self._history = self._history, None
        interrupted = because == INTERRUPTED
        self._change(RunState.RUNNING, because, then=self._open if interrupted else None)
        self._limit(history)
        if not interrupted:
            self._open()

    def begin_later(self, because: str, seconds: float) -> None:
        self._timer = self.loop.call_later(seconds, self.begin, because)

    def _open(self) -> None:
        if self.hold(self._open):
            return
        definition = self._plan.definition
        self._frame = Frame(
            self,
            self,
            self._plan.graph,
            "",
            inputs=self.record.inputs if isinstance(self.record.inputs, dict) else {},
            tolerant=definition.on_failure == "continue",
        )
        self._frame.begin()

    def _limit(self, history: History | None) -> None:
        """Arms its time-out. The time in which nobody had it does not count, nor that in which it was paused; and that
        in which it waited only for a limit that its workflow sets itself."""
        seconds = self._seconds
        if seconds is None:
            return
        spent = 0.0
        if history is not None:
            spent = history.used
            if self._plan.definition.timeout_seconds:
                spent += history.waited + (max(self.now() - history.last_at, 0.0) if self.woken else 0.0)
        self.deadline = self.loop.time() + seconds - spent
        self._timer = self.loop.call_at(self.deadline, self._expire)

    @property
    def _seconds(self) -> float | None:
        seconds: float | None = self._plan.definition.timeout_seconds or self.shared.run_timeout
        return seconds

    def _expire(self) -> None:
        self._timer = None
        self.fail(timed_out(self._seconds or 0.0, "", " (the whole run)"))

    @property
    def left(self) -> asyncio.Future[None]:
        """Done when the run is no longer executed here."""
        if self._left is None:
            self._left = self.loop.create_future()
        return self._left

    @property
    def ending(self) -> bool:
        """It has ended, or is about to leave."""
        return self._ending

    @property
    def departing(self) -> bool:
        """It is only left to write what it has."""
        return self._departing

    async def written(self) -> None:
        """Until all that was said so far is in the journal, or the run has left."""
        written = asyncio.Event()
        self._ledger.when_written(written.set)
        self.left.add_done_callback(lambda _: written.set())
        await written.wait()

    # What steps ask of it.

    def queue(self, entry: AnyEntry, effect: Callable[[], None] | None = None) -> None:
        """Journals; what follows from it happens when it is written."""
        self._ledger.add(entry, effect)

    def nudge(self) -> None:
        """Looks in the next turn whether anything is left to do."""
        self._ledger.nudge()

    def hold(self, begin: Callable[[], None]) -> bool:
        """Whether nothing may begin now: it is then called when that is over."""
        if self._ending:
            return True
        if self._held is None:
            return False
        self._held.append(begin)
        return True

    def later(self, then: Callable[..., None], *args: Any) -> bool:
        """Whether it must wait for its turn (`Turns`): it is then called in a later one."""
        turns = self.shared.turns
        if turns.free(self):
            return False
        self.busy += 1
        turns.line(self, partial(self._in_turn, then, args))
        return True

    def _in_turn(self, then: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.busy -= 1
        try:
            then(*args)
        except Exception as error:  # noqa: BLE001 - as in the ledger: a bug must not leave the run hanging
            self._break(error)
        self.nudge()

    def doing(self, frame: Frame, node: Node, record: StepRecord | None) -> Doing:
        return doing_of(frame, node, record)

    def closed(self, frame: Frame) -> None:
        """All steps have ended. (Paused: it ends when it is resumed.)"""
        if self.hold(partial(self.closed, frame)) or self.later(self.closed, frame):
            return
        self._conclude(endings.of_run(self._plan, frame, self.shared))

    def _conclude(self, making: endings.Making) -> None:
        if self.hold(partial(self._conclude, making)):
            return
        ending = endings.made(making, lambda: self.later(self._conclude, making))
        if ending is not None:
            self._end(ending.state, outputs=ending.outputs, error=ending.error)

    def failed_inside(self, _frame: Frame, error: Error) -> None:
        self.fail(error)

    def fail(self, error: Error) -> None:
        self._end(RunState.FAILED, error=error)

    # Its end.

    def cancel(self, because: str) -> None:
        self._end(RunState.CANCELLED, because)

    def _end(
        self, state: RunState, because: str = "", *, outputs: Any = None, error: dict[str, Any] | None = None
    ) -> None:
        """Cancels what is under way, and when it has gone says how the run ended."""
        if self._ending:
            return
        self._ending = True
        self._held = None
        self._disarm()
        leaving = Leaving(partial(self._ended, state, because, outputs, error))
        if self._frame is not None:
            self._frame.drop(leaving)
        leaving.gone()

    def _ended(self, state: RunState, because: str, outputs: Any, error: dict[str, Any] | None) -> None:
        self._concluded = True
        entry = StateChanged(self.now(), state, because, outputs, error)
        self.queue(entry, partial(self._over, state))

    def _over(self, state: RunState) -> None:
        self.state = state
        self.count(f"runs_{state.value}")
        self._leave()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _leave(self) -> None:
        """It is no longer executed here."""
        self._ledger.close()
        self._ending = True
        self._disarm()
        self._frame = None
        if self._left is not None and not self._left.done():
            self._left.set_result(None)
        self.shared.gone(self)

    def forget(self) -> None:
        """Leaves at once; whatever it has not written is lost."""
        self._abandon(lambda: None)
        self._leave()

    def _lose(self) -> None:
        """Somebody else has it: nothing that is done for it here counts."""
        log.warning("lease_lost", run=self.id)
        self.count("runs_lost")
        self._abandon(self._leave)

    def _break(self, error: Exception) -> None:
        """A bug of ours must not leave a run hanging."""
        if isinstance(error, RunFull):
            self._overflow(error)
            return
        log.error("run_broke", run=self.id, exc_info=error)
        if self._ending:
            self._abandon(self._leave)
        else:
            self.fail(described(StepFailed("internal", f"{type(error).__name__}: {error}"), ""))

    def _overflow(self, error: RunFull) -> None:
        """The journal takes no more of this run but how it ended."""
        failure = described(StepFailed("too_large", error.message), "")
        if self._concluded:
            self._ended(RunState.FAILED, "", None, failure)
        else:
            self.fail(failure)

    def _abandon(self, then: Callable[[], None]) -> None:
        self._ending = True
        self._held = None
        self._disarm()
        leaving = Leaving(then)
        if self._frame is not None:
            self._frame.drop(leaving)
        leaving.gone()

    # Pauses.

    def pause(self) -> None:
        self._hold_all()
        self._disarm()
        self._paused_at = self.loop.time()
        self._change(RunState.PAUSED, "asked for")

    def resume(self) -> None:
        if self.deadline is not None and self._paused_at is not None:
            self.deadline += self.loop.time() - self._paused_at
            self._timer = self.loop.call_at(self.deadline, self._expire)
        self._change(RunState.RUNNING, RESUMED)
        if self._history is not None:  # it was paused while it was to begin later
            self.begin(INTERRUPTED)
        self._let_go()

    def stop(self) -> None:
        """Begins nothing any more. It is given back once what is under way has ended, or by `give_back`."""
        self._stopping = True
        self._hold_all()
        self.nudge()

    def give_back(self) -> None:
        """Cancels what is under way; it will be done again. What has been done is written first."""
        self._abandon(self._depart)

    def _depart(self) -> None:
        self._departing = True
        self.nudge()

    def _hold_all(self) -> None:
        if self._held is None and not self._ending:
            self._held = deque()

    def _let_go(self) -> None:
        if self._stopping or self._stalled or self.state is RunState.PAUSED or self._held is None:
            return
        held, self._held = self._held, None
        for begin in held:
            begin()
        self.nudge()

    def _stall(self, failing: bool) -> None:  # noqa: FBT001 - what the ledger says
        self._stalled = failing
        if failing:
            self._hold_all()
        else:
            self._let_go()

    def _change(
        self,
        state: RunState,
        because: str = "",
        wake_at: float | None = None,
        then: Callable[[], None] | None = None,
    ) -> None:
        self.state, self.wake_at = state, wake_at
        self.queue(StateChanged(self.now(), state, because, wake_at=wake_at), then)

    # Signals.

    def signal(self, event: str, payload: Any) -> None:
        self.queue(Signalled(self.now(), event, payload), partial(self._signalled, event, payload))

    def _signalled(self, event: str, payload: Any) -> None:
        """The first wait for it takes it; while nothing may begin, all of them are to look later."""
        self.signals.append((event, payload))
        for wait in [wait for wait in self.waits.values() if wait.event == event]:
            wait.look()
            if self._held is None:
                return

    def _posted(self, entry: AnyEntry) -> None:
        if isinstance(entry, Signalled):
            self._signalled(entry.event, entry.payload)

    def take(self, event: str) -> tuple[Any] | None:
        """The payload of the first such signal, which is then taken."""
        for index, (name, payload) in enumerate(self.signals):
            if name == event:
                del self.signals[index]
                return (payload,)
        return None

    # Nothing is left to be written.

    def quiet(self) -> None:
        """No handler is under way."""
        if self._held is not None:
            self.nudge()

    def _settle(self) -> None:
        if self._departing:
            self._leave()
            return
        if self._ending or self._stalled:
            return
        if self._held is not None:
            if not (self.tasks or self.shared.turns.waits(self)) and (self._stopping or self.state is RunState.PAUSED):
                self._abandon(self._depart)
            return
        if self.busy or not self.waits:
            return
        if self.state is not RunState.WAITING:
            self._change(RunState.WAITING, wake_at=self._wake_at())
        else:
            self._abandon(self._depart)

    def rouse(self) -> None:
        """A wait is over."""
        if self.state is RunState.WAITING:
            self._change(RunState.RUNNING, WOKEN)

    def _wake_at(self) -> float | None:
        moments = [wait.wake_at for wait in self.waits.values() if wait.wake_at is not None]
        moments.extend(self.limits.values())
        if self.deadline is not None and self._plan.definition.timeout_seconds:
            moments.append(self.now() + self.deadline - self.loop.time())
        return min(moments, default=None)


def _at_once(shared: Shared, record: RunRecord) -> int:
    most = record.options.get("max_concurrency")
    limit: int = shared.section.max_steps_per_run
    return min(limit, most) if isinstance(most, int) and most > 0 else limit
