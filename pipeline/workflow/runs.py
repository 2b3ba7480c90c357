"""The runs that are executed here: how they come in, and what happens when they leave."""

import asyncio
import heapq
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import structlog

from pipeline.workflow.errors import DefinitionRefused, Fault, JournalFailed, LeaseLost, UnknownWorkflow
from pipeline.workflow.history import INTERRUPTED, History, fold
from pipeline.workflow.journal import AnyEntry, Bundle, Journal, Lease, Numbered, RunRecord, StateChanged
from pipeline.workflow.ledger import LONGEST_PAUSE
from pipeline.workflow.plan import Plan
from pipeline.workflow.plans import Plans
from pipeline.workflow.run import WOKEN, Run
from pipeline.workflow.shared import Shared
from pipeline.workflow.states import RunState

AT_A_TIME = 20  # runs that begin in one turn of the loop
_UNSUSPECTED = 5  # interruptions after which a run is taken up again at once
_SHORTEST_DELAY = 5.0
_DELAY_GROWS = 3.0
_DELAY_GROWS_FOR = 10
_LONGEST_DELAY = 600.0
_FAULTS = 20  # of a definition, in the error of a run

log = structlog.get_logger("headgate.workflow")


class Runs:
    """`open` counts those that have not ended, as far as is known; `coming` those that are being taken in. `backlog`:
    some are left in the journal for lack of a place here. `freed` is called when there is one. `wakes`: when those that
    wait in the journal are due (a heap; no more is kept of them). `left_behind`: how many are in which state, by the
    last count."""

    def __init__(self, shared: Shared, plans: Plans, freed: Callable[[], None]) -> None:
        self._shared = shared
        self._plans = plans
        self._freed = freed
        self._runs: dict[str, Run] = {}
        self._ends: dict[str, asyncio.Future[None]] = {}
        self._leaving: dict[str, asyncio.Task[None]] = {}
        self._empty: asyncio.Event = asyncio.Event()
        self.left_behind: dict[RunState, int] = {}
        self.open = 0
        self.coming = 0
        self.backlog = False
        self.stopping = False
        self.wakes: list[float] = []

    @property
    def journal(self) -> Journal:
        return self._shared.journal

    @property
    def room(self) -> int:
        """How many more may be executed."""
        most: int = self._shared.section.max_executing
        return 0 if self.stopping else max(most - len(self._runs) - self.coming, 0)

    def __len__(self) -> int:
        return len(self._runs)

    def all(self) -> list[Run]:
        return list(self._runs.values())

    def get(self, run_id: str) -> Run | None:
        return self._runs.get(run_id)

    # Coming.

    def plan(self, bundle: Bundle) -> Plan:
        """Raises `DefinitionRefused`."""
        return self._plans.of(bundle)

    def enter(self, record: RunRecord, lease: Lease, plan: Plan, history: History | None = None) -> Run:
        run = Run(self._shared, record, lease, plan, history)
        self._runs[record.id] = run
        because = ""
        if history is not None:
            because = INTERRUPTED if history.interrupted else WOKEN if history.state is RunState.WAITING else ""
            self._shared.counters["runs_resumed"] += history.interrupted
        interruptions = history.interruptions if history is not None and history.interrupted else 0
        seconds = _delay(interruptions)
        if seconds:
            log.warning("run_delayed", run=record.id, seconds=seconds, interruptions=interruptions)
            run.begin_later(because, seconds)
        else:
            run.begin(because)
        return run

    async def load(self, claimed: Sequence[tuple[RunRecord, Lease]]) -> None:
        """Takes in runs whose leases were claimed, and that are counted as coming. A journal that fails is asked again:
        the leases are ours."""
        known = [record.id for record, _ in claimed if record.last > 1]
        entries: dict[str, list[Numbered]] = {}
        if known:
            entries = await self.persist(lambda: self.journal.histories(known))
        for index, (record, lease) in enumerate(claimed, 1):
            try:
                await self._load(record, lease, entries.pop(record.id, None))
            finally:
                self.coming -= 1
            if index % AT_A_TIME == 0:
                await asyncio.sleep(0)

    async def _load(self, record: RunRecord, lease: Lease, entries: list[Numbered] | None) -> None:
        if self.stopping:
            self.give_back(record.id, lease)
            return
        try:
            plan = await self.plan_of(record)
            self.enter(record, lease, plan, None if entries is None else fold(entries))
        except Exception as error:  # noqa: BLE001 - one run that cannot be taken up must not keep the others
            await self._refuse(record, lease, error)

    async def plan_of(self, record: RunRecord) -> Plan:
        """Raises `DefinitionRefused`, `UnknownWorkflow`."""
        plan = self._plans.get(record.bundle)
        if plan is None:
            plan = self.plan(await self.persist(lambda: self.journal.bundle(record.bundle)))
        return plan

    async def _refuse(self, record: RunRecord, lease: Lease, error: Exception) -> None:
        """It cannot be executed any more, as where a custom type is no longer there."""
        run = self._runs.pop(record.id, None)
        if not isinstance(error, DefinitionRefused | UnknownWorkflow):
            log.error("run_broke", run=record.id, exc_info=error)
        kind = "definition" if isinstance(error, DefinitionRefused | UnknownWorkflow) else "internal"
        described: dict[str, Any] = {"kind": kind, "message": str(error)}
        if isinstance(error, DefinitionRefused):
            described["details"] = {"errors": [_shown(fault) for fault in error.faults[:_FAULTS]]}
        if run is not None:
            run.forget()
        entry = StateChanged(self._shared.now(), RunState.FAILED, error=described)
        try:
            await self.persist(lambda: self.say(lease, [entry]))
        except LeaseLost:
            return
        self._shared.counters["runs_failed"] += 1
        self.ended(record.id)
        self.give_back(record.id, lease)

    async def say(self, lease: Lease, entries: Sequence[AnyEntry]) -> None:
        """Appends for a run that is not in memory. Raises `LeaseLost`, `JournalFailed`."""
        last = await self.journal.append(lease, entries)
        first = last - len(entries) + 1
        numbered = [Numbered(first + index, entry) for index, entry in enumerate(entries)]
        self._shared.watcher.entries(lease.run, numbered)

    async def persist(self, doing: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """Does it until the journal can."""
        pause = 0.0
        who = object()
        try:
            while True:
                try:
                    return await doing()
                except JournalFailed as error:
                    self._shared.journal_failed(error, who)
                    pause = min(max(pause * 2, 0.1), LONGEST_PAUSE)
                    await asyncio.sleep(pause)
        finally:
            self._shared.journal_works(who)  # it has said so; or nobody waits any more

    # Leaving.

    def gone(self, run: Run) -> None:
        """It is no longer executed here."""
        if self._runs.get(run.id) is not run:
            return
        del self._runs[run.id]
        if run.state.final:
            self.ended(run.id)
        self.give_back(run.id, run.lease, run.wake_at if run.state is RunState.WAITING else None)
        if not self._runs:
            self._empty.set()
        if self.backlog:
            self._freed()

    def ended(self, run_id: str) -> None:
        self.open = max(self.open - 1, 0)
        end = self._ends.pop(run_id, None)
        if end is not None and not end.done():
            end.set_result(None)

    def end_of(self, run_id: str) -> asyncio.Future[None]:
        """Done when the run has ended."""
        end = self._ends.get(run_id)
        if end is None:
            end = self._ends[run_id] = self._shared.loop.create_future()
        return end

    def give_back(self, run_id: str, lease: Lease, wake_at: float | None = None) -> None:
        """Gives the lease back; a run that waits is then due at `wake_at`."""
        task = self._shared.loop.create_task(self._release(lease, wake_at))
        self._leaving[run_id] = task
        task.add_done_callback(lambda done: self._given_back(run_id, done))

    async def _release(self, lease: Lease, wake_at: float | None) -> None:
        await self.persist(lambda: self.journal.release(lease))
        self._shared.journal_works(self, written=True)
        if wake_at is not None:
            heapq.heappush(self.wakes, wake_at)
            self._freed()

    def _given_back(self, run_id: str, task: asyncio.Task[None]) -> None:
        if self._leaving.get(run_id) is task:
            del self._leaving[run_id]
        if not task.cancelled() and task.exception() is not None:
            log.error("lease_not_given_back", run=run_id, exc_info=task.exception())

    async def left(self, run_id: str) -> None:
        """Until its lease, if it was ours and is given back, is."""
        task = self._leaving.get(run_id)
        if task is not None:
            await asyncio.wait({task})

    async def empty(self, seconds: float) -> None:
        """Until none is left and all leases are given back, or for so long."""
        try:
            async with asyncio.timeout(seconds):
                while self._runs:
                    self._empty.clear()
                    await self._empty.wait()
                while self._leaving:
                    await asyncio.wait(set(self._leaving.values()))
        except TimeoutError:
            pass

    def abandon(self) -> None:
        """Whatever is left is left to the leases' end."""
        for run in self.all():
            run.forget()
        for task in [*self._leaving.values(), *self._shared.writers]:
            task.cancel()


def _delay(interruptions: int) -> float:
    """Seconds until a run is taken up again that was interrupted so often without a step that ended: it may be what
    ends its process, and others are to have their time in between."""
    steps = interruptions - _UNSUSPECTED
    return 0.0 if steps < 0 else min(_SHORTEST_DELAY * _DELAY_GROWS ** min(steps, _DELAY_GROWS_FOR), _LONGEST_DELAY)


def _shown(fault: Fault) -> dict[str, Any]:
    return {"where": fault.where, "message": fault.message}
