"""Runs plans: starts each step when its last dependency has ended, journals what comes of it, and goes on after a
crash.

In memory are the runs that are executed here. One that waits, is paused or has ended is in the journal only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from config.schema import WorkflowsSection
from pipeline.workflow import values
from pipeline.workflow.errors import Conflict, JournalFailed, LeaseLost, StepFailed, TooManyRuns, UnknownRun
from pipeline.workflow.history import fold
from pipeline.workflow.journal import AnyEntry, Bundle, Journal, Lease, Rewound, RunRecord, Signalled, StateChanged
from pipeline.workflow.plan import Plan
from pipeline.workflow.plans import Plans
from pipeline.workflow.ports import Catalog, Clock, Kind, Result, Services, Watcher
from pipeline.workflow.rewind import rewound
from pipeline.workflow.run import RESUMED, Run
from pipeline.workflow.runs import Runs
from pipeline.workflow.shared import Shared
from pipeline.workflow.states import RunState, may_follow
from pipeline.workflow.steps import handlers
from pipeline.workflow.steps.control import HANDLERS
from pipeline.workflow.upkeep import Upkeep

PATIENCE = 20.0  # seconds that a caller waits for the journal, and for steps that do not want to stop
LAST_PATIENCE = 15.0  # seconds that a stop waits for what does not want to go
_MOMENT = 0.02
_RETRY_AFTER = 5.0


class Elsewhere(Exception):
    """Another process executes the run: ask that one. `holder` as in `RunRecord.holder`."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"the run is executed by {holder}")
        self.holder = holder


class Engine:
    """Executes the runs of one process. To be used from one event loop.

    `plans` makes and keeps the plans of bundles, and may raise `DefinitionRefused`; `mine` tells which runs left behind
    by others are to be taken up here. `kinds` may bring types of their own, or other handlers for the built-in ones
    that have no steps inside. start → … → stop.
    """

    def __init__(
        self,
        journal: Journal,
        services: Services,
        catalog: Catalog,
        section: WorkflowsSection,
        *,
        plans: Plans,
        kinds: Mapping[str, Kind],
        watcher: Watcher,
        mine: Callable[[str], bool] = lambda _: True,
        now: Clock = time.time,
    ) -> None:
        self._journal = journal
        self._section = section
        self._shared = Shared(
            journal,
            services,
            catalog,
            section,
            handlers={**handlers(), **HANDLERS, **{name: kind.handler for name, kind in kinds.items()}},
            watcher=watcher,
            now=now,
        )
        self._upkeep = Upkeep(self._shared, mine)
        self._runs = Runs(self._shared, plans, self._upkeep.nudge)
        self._guard: asyncio.Task[None] | None = None

    # Its life.

    async def start(self) -> None:
        """Takes up what was interrupted; keeps leases, due waits and retention going from now on."""
        loop = asyncio.get_running_loop()
        self._shared.open(loop, self._runs.gone)
        if self._guard is None:
            self._guard = loop.create_task(self._guarding())
        await self._upkeep.start(self._runs)

    async def stop(self, grace: float = 0.0) -> None:
        """Starts no more steps, gives those under way `grace` seconds, cancels them, and gives all runs back: they are
        taken up again at the next start."""
        self._runs.stopping = True
        await self._upkeep.leave()
        for run in self._runs.all():
            run.stop()
        await self._runs.empty(grace)
        for run in self._runs.all():
            run.give_back()
        await self._runs.empty(LAST_PATIENCE)
        self._runs.abandon()
        await self._upkeep.stop()
        if self._guard is not None:
            self._guard.cancel()
            await asyncio.wait({self._guard})
            self._guard = None

    async def _guarding(self) -> None:
        """Where all tasks are cancelled, the process ends without having stopped us (`asyncio.run` does that). Steps
        that are cancelled so have not failed. (It hears of it before anybody hears that a step's task has ended.)"""
        try:
            await self._shared.loop.create_future()
        finally:
            self._runs.stopping = True
            self._runs.abandon()

    async def submit(self, run: RunRecord, bundle: Bundle) -> RunRecord:
        """Journals a run and executes it. With a known idempotency key: the run that there is. Raises `TooManyRuns`,
        `Conflict`, `JournalFailed`, and `DefinitionRefused` where it cannot be planned."""
        runs = self._runs
        if runs.open >= self._section.max_runs or runs.stopping:
            raise TooManyRuns("There are too many runs that have not ended", retry_after=_RETRY_AFTER)
        plan = runs.plan(bundle)
        # Those that are left in the journal have been waiting longer.
        take = runs.room > 0 and not runs.backlog
        runs.coming += take
        runs.open += 1
        new = False
        try:
            record, lease = await self._journal.create(run, bundle, take=take)
            new = lease is not None or (record.id == run.id and record.created_at == run.created_at and not take)
        finally:
            runs.coming -= take
            runs.open -= not new
        if lease is not None:
            self._enter(record, lease, plan)
        elif new:
            runs.backlog = True
            self._upkeep.nudge()
        self._shared.counters["runs_submitted"] += new
        return record

    def _enter(self, record: RunRecord, lease: Lease, plan: Plan) -> None:
        if self._runs.stopping:
            self._runs.give_back(record.id, lease)
        else:
            self._runs.enter(record, lease, plan)

    # What people ask of a run.

    async def pause(self, run_id: str) -> RunRecord:
        """Steps under way end, no more are started. Raises `UnknownRun`, `Conflict`, `Elsewhere`, `JournalFailed`; so
        do the others."""
        return await self._ask(run_id, self._pause_here, self._pause_there)

    async def resume(self, run_id: str) -> RunRecord:
        return await self._ask(run_id, self._resume_here, self._resume_there)

    async def cancel(self, run_id: str, because: str = "") -> RunRecord:
        """Steps under way are cancelled; when it returns, the run has ended."""

        async def here(run: Run) -> None:
            _check(run.state, RunState.CANCELLED, ending=run.ending)
            run.cancel(because)
            await asyncio.shield(run.left)

        async def there(record: RunRecord, lease: Lease) -> None:
            _check(record.state, RunState.CANCELLED)
            await self._say(lease, StateChanged(self._shared.now(), RunState.CANCELLED, because))
            self._shared.counters["runs_cancelled"] += 1
            self._runs.ended(run_id)

        return await self._ask(run_id, here, there)

    async def retry(self, run_id: str, step: str | None = None) -> RunRecord:
        """A run that has ended runs again: its failed, skipped and abandoned steps, or, with a `step` (its path), that
        one and all that depend on it. What else was completed is not done again."""

        async def here(run: Run) -> None:
            if not run.ending:
                raise Conflict(f"The run is {run.state.value}: only one that has ended can be retried")
            await asyncio.shield(run.left)
            await self.retry(run_id, step)

        async def there(record: RunRecord, lease: Lease) -> None:
            _check(record.state, RunState.PENDING, only_ended=True)
            history = fold(await self._journal.entries(run_id))
            paths = rewound(await self._runs.plan_of(record), history, step)
            now = self._shared.now()
            await self._say(lease, Rewound(now, paths), StateChanged(now, RunState.PENDING, "retry"))
            self._runs.open += 1
            await self._go_on(run_id, lease)

        return await self._ask(run_id, here, there)

    async def signal(self, run_id: str, event: str, payload: Any) -> RunRecord:
        try:
            payload = values.checked(Result(payload), self._section.max_value_bytes).value
        except StepFailed as failure:
            raise Conflict(f"The signal's payload cannot be taken: {failure.message}", param="payload") from failure

        async def here(run: Run) -> None:
            if run.ending:
                raise Conflict("The run has ended")
            run.signal(event, payload)
            await run.written()

        async def there(record: RunRecord, lease: Lease) -> None:
            if record.state.final:
                raise Conflict(f"The run has ended: it is {record.state.value}")
            await self._say(lease, Signalled(self._shared.now(), event, payload))
            if record.state is RunState.WAITING:
                await self._go_on(run_id, lease)

        return await self._ask(run_id, here, there)

    async def finished(self, run_id: str) -> RunRecord:
        """Waits until a run that is executed here has ended."""
        end = self._runs.end_of(run_id)
        record = await self._record(run_id)
        if not record.state.final:
            await asyncio.shield(end)
            record = await self._record(run_id)
        return record

    @property
    def trouble(self) -> str:
        """Why the journal cannot be used now; empty where it can."""
        return self._shared.trouble

    def stats(self) -> dict[str, int]:
        """For metrics: runs executing, pending, waiting, steps under way and waiting for a place; counters since the
        start (`runs_completed`, `steps_completed`, `steps_retried`, `steps_postponed`, `runs_resumed`, …)."""
        runs, places = self._runs, self._shared.places
        return {
            **self._shared.counters,
            "runs_open": runs.open,
            "runs_executing": len(runs),
            "runs_pending": runs.left_behind.get(RunState.PENDING, 0),
            "runs_waiting": runs.left_behind.get(RunState.WAITING, 0),
            "runs_paused": runs.left_behind.get(RunState.PAUSED, 0),
            "steps_executing": places.in_use,
            "steps_pending": places.waiting,
        }

    # Here: it is in memory. There: it is in the journal, and nobody has it.

    async def _ask(
        self,
        run_id: str,
        here: Callable[[Run], Awaitable[None]],
        there: Callable[[RunRecord, Lease], Awaitable[None]],
    ) -> RunRecord:
        try:
            async with asyncio.timeout(PATIENCE):
                run = await self._find(run_id)
                if isinstance(run, Run):
                    await here(run)
                else:
                    await self._there(run, there)
        except TimeoutError:
            raise JournalFailed("The journal cannot be written now; what was asked for will be done") from None
        return await self._record(run_id)

    async def _there(self, lease: Lease, there: Callable[[RunRecord, Lease], Awaitable[None]]) -> None:
        try:
            await there(await self._record(lease.run), lease)
        except LeaseLost:
            raise Conflict("The run is changing hands; ask again") from None
        finally:
            if self._runs.get(lease.run) is None:
                self._runs.give_back(lease.run, lease)
                await self._runs.left(lease.run)

    async def _find(self, run_id: str) -> Run | Lease:
        """The run, where it is executed here; else its lease, claimed."""
        while True:
            run = self._runs.get(run_id)
            if run is not None and not run.departing:
                return run
            if run is not None:
                await asyncio.shield(run.left)
            await self._runs.left(run_id)
            lease = await self._journal.claim(run_id)
            if lease is not None:
                return lease
            holder = (await self._record(run_id)).holder
            if holder and holder != self._journal.holder:
                raise Elsewhere(holder)
            await asyncio.sleep(_MOMENT)  # it is on its way in or out

    async def _record(self, run_id: str) -> RunRecord:
        record = await self._journal.run(run_id)
        if record is None:
            raise UnknownRun(f"There is no run {run_id[:128]!r}", param="id")
        return record

    async def _say(self, lease: Lease, *entries: AnyEntry) -> None:
        await self._runs.say(lease, entries)

    async def _go_on(self, run_id: str, lease: Lease) -> None:
        """It may be executed: here and now, or when there is a place."""
        if not self._runs.room or self._runs.backlog:
            self._runs.backlog = True
            self._upkeep.nudge()
            return
        self._runs.coming += 1
        await self._runs.load([(await self._record(run_id), lease)])

    async def _pause_here(self, run: Run) -> None:
        _check(run.state, RunState.PAUSED, ending=run.ending)
        run.pause()
        await run.written()

    async def _pause_there(self, record: RunRecord, lease: Lease) -> None:
        _check(record.state, RunState.PAUSED)
        await self._say(lease, StateChanged(self._shared.now(), RunState.PAUSED, "asked for"))

    async def _resume_here(self, run: Run) -> None:
        if run.state is not RunState.PAUSED or run.ending:
            raise Conflict(f"The run is {run.state.value}, not paused")
        run.resume()
        await run.written()

    async def _resume_there(self, record: RunRecord, lease: Lease) -> None:
        if record.state is not RunState.PAUSED:
            raise Conflict(f"The run is {record.state.value}, not paused")
        await self._say(lease, StateChanged(self._shared.now(), RunState.PENDING, RESUMED))
        await self._go_on(record.id, lease)


def _check(state: RunState, following: RunState, *, ending: bool = False, only_ended: bool = False) -> None:
    """Raises `Conflict`."""
    if ending:
        raise Conflict("The run is about to end")
    if not may_follow(state, following) or (only_ended and not state.final):
        raise Conflict(f"The run is {state.value}, and cannot become {following.value}")
