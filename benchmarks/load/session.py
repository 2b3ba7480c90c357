"""One measurement, from its first request to its report."""

import asyncio
import gc
import resource
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import msgspec

from benchmarks.load import capacity as ramp
from benchmarks.load.accounting import Clients, agree_backend, compare
from benchmarks.load.arrivals import schedule
from benchmarks.load.assemble import basis, partial, phases, totals
from benchmarks.load.backend_client import Backend, BackendError, connect
from benchmarks.load.driver import Arrivals, Driver
from benchmarks.load.environment import environment
from benchmarks.load.mix import Mix
from benchmarks.load.processes import Found, Watch, find
from benchmarks.load.progress import Progress
from benchmarks.load.remarks import of_generator, of_scenario
from benchmarks.load.scenario import Change, Phase, Scenario
from benchmarks.load.scrape import Difference, Look, difference, look, settle
from benchmarks.load.target import first_answer, run_id
from benchmarks.load.trace import Entry, read_trace
from benchmarks.load.wire import Wire
from benchmarks.report.model import (
    BackendCounts,
    Capacity,
    Environment,
    Outlived,
    Report,
    Target,
)
from benchmarks.service import Service
from benchmarks.service import capacity as service_capacity

T = TypeVar("T")


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """What is to be measured, decided. `target` is a base URL, `backend` that of a simulated backend behind it;
    `capacity` what the user says it is; `pids` the target's processes where they were named."""

    scenario_name: str
    scenario: Scenario
    target: str
    model: str
    api_key: str | None
    headers: dict[str, str]
    backend: str | None
    pids: list[int]
    capacity: float | None
    name: str
    command: list[str]


class Session:
    """Holds what a measurement needs while it goes on. `measure` makes the report, whatever happens on the way."""

    def __init__(self, plan: Plan, wire: Wire, progress: Progress) -> None:
        self.plan = plan
        self.wire = wire
        self.progress = progress
        self.run = run_id()
        self.backend: Backend | None = None
        self.notes: list[str] = []
        self.faults: list[str] = []
        self._environment: Environment = environment()
        self._driver: Driver | None = None
        self._stopped: str | None = None
        self._beginning: asyncio.Task[Any] | None = None

    def stop(self, why: str) -> None:
        """End early, with a report of what there was. May come at any time."""
        self._stopped = self._stopped or why
        if self._driver is not None:
            self._driver.stop(why)
        if self._beginning is not None:
            self._beginning.cancel()

    async def measure(self) -> Report:
        """Raises BackendError before anything is sent, and NoProcess."""
        plan = self.plan
        found = self._found()
        async with AsyncExitStack() as stack:
            if plan.backend is not None:
                await self._unless_stopped(self._connect(plan.backend, stack))
            unfit = await self._unfit()
            capacity = None if unfit or self._stopped else await self._capacity()
            watch = Watch(found)
            before = await look(plan.target)
            sampling = asyncio.ensure_future(watch.run())
            stack.callback(sampling.cancel)
            mix = Mix(plan.scenario, plan.scenario.seed)
            driver = self._driver = self._driving(plan.scenario, mix, capacity, self.run)
            if unfit is not None:
                driver.ended = unfit
            elif self._stopped is None:
                await self._drive(driver)
            driver.ended = self._stopped or driver.ended
            await self.wire.aclose()  # what follows needs descriptors too
            return await self._report(driver, capacity, watch, before)

    async def _unfit(self) -> str | None:
        """Why the target cannot be measured, None where it can or nobody waits for it any more."""
        asking = first_answer(self.wire, self.plan.model, run_id(), self.plan.scenario.hang_seconds)
        return await self._unless_stopped(asking)

    async def _connect(self, url: str, stack: AsyncExitStack) -> None:
        self.backend = await stack.enter_async_context(await connect(url))
        self._compare_settings(self.backend)

    async def _unless_stopped(self, doing: Coroutine[Any, Any, T]) -> T | None:
        """What it returns, or None when the run was stopped before or meanwhile."""
        if self._stopped is not None:
            doing.close()
            return None
        self._beginning = asyncio.ensure_future(doing)
        await asyncio.wait([self._beginning])
        return None if self._beginning.cancelled() else self._beginning.result()

    def _found(self) -> Found:
        pids = self.plan.pids
        if not pids:
            return find(self.plan.target)
        every = [find(self.plan.target, pid).pids for pid in pids]
        return Found("pid", sorted({pid for family in every for pid in family}))

    def _compare_settings(self, backend: Backend) -> None:
        wanted = self.plan.scenario.backend
        if wanted is not None and wanted != backend.service:
            theirs, meant = msgspec.structs.asdict(backend.service), msgspec.structs.asdict(wanted)
            differing = ", ".join(f"{key} {theirs[key]} ({meant[key]})" for key in theirs if theirs[key] != meant[key])
            self.notes.append(f"The backend is not set as the scenario means it to be: {differing}.")

    async def _drive(self, driver: Driver) -> None:
        before = self.backend.service if self.backend is not None else None
        following = asyncio.ensure_future(self.progress.follow(driver))
        try:
            with undisturbed():
                await driver.run()
        finally:
            following.cancel()
            self.progress.done()
            if self.backend is not None and before is not None:
                await self._restore(self.backend, before, changed=driver.changed)

    async def _restore(self, backend: Backend, before: Service, *, changed: bool) -> None:
        """The backend as it was found, for the next run; or a word about who else changed it."""
        try:
            if changed:
                await backend.change(msgspec.structs.asdict(before))
            elif await backend.settings() != before:
                self.faults.append("Somebody else changed the backend during the run; the oracle does not know of it.")
        except BackendError as error:
            self.faults.append(f"The backend's settings are not known after the run, or not restored: {error}")

    def _driving(self, scenario: Scenario, mix: Mix, capacity: Capacity | None, run: str) -> Driver:
        rate = capacity.rate if capacity is not None else None
        arrivals = _arrivals(scenario, rate)
        change = self._change if self.backend is not None else None
        return Driver(scenario, self.wire, mix, model=self.plan.model, run=run, arrivals=arrivals, change=change)

    async def _change(self, change: Change) -> None:
        assert self.backend is not None
        await self.backend.change(partial(change))

    async def _capacity(self) -> Capacity | None:
        """What a load of 1 is: as the user or the scenario says, as the simulated backend is set, or found out."""
        plan = self.plan
        if plan.capacity is not None:
            return Capacity(rate=plan.capacity, how="given", in_flight=None, steps=[])
        if self.backend is not None:
            words, tokens = Mix(plan.scenario, 0).expected()
            rate = service_capacity(self.backend.whole, words, tokens)
            if rate is not None:
                return Capacity(rate=rate, how="backend", in_flight=None, steps=[])
        if plan.scenario.capacity is not None:
            return Capacity(rate=plan.scenario.capacity, how="scenario", in_flight=None, steps=[])
        if not any(phase.load is not None for phase in plan.scenario.phases):
            return None
        return await self._find_capacity()

    async def _find_capacity(self) -> Capacity | None:
        async def measure(scenario: Scenario) -> tuple[int, float]:
            driver = self._driver = self._driving(scenario, Mix(scenario, 0), None, run_id())
            if self._stopped is None:
                await driver.run()
            ledger = driver.phases[-1] if driver.phases else None
            return (ledger.in_time, ledger.phase.seconds) if ledger is not None else (0, 1.0)

        try:
            return await ramp.find(self.plan.scenario, measure, self.progress.say)
        except ramp.NoCapacity as error:
            self.stop(f"the target's capacity could not be found: {error}")
            return None

    async def _report(self, driver: Driver, capacity: Capacity | None, watch: Watch, before: Look) -> Report:
        plan = self.plan
        seconds = driver.clock() - driver.began
        after = await settle(plan.target) if before.snapshot is not None else before
        counted, outlived = await self._backend_counts(driver)
        replicas = len(self.backend.urls) if self.backend is not None else 1
        base = basis(self.backend.service if self.backend is not None else None, replicas, capacity)
        reports = phases(driver, capacity, base, outlived)
        counts, times = totals(reports)
        everything, _ = totals([msgspec.structs.replace(report, warmup=False) for report in reports])
        return Report(
            run=self.run,
            name=plan.name,
            scenario_name=plan.scenario_name,
            scenario=msgspec.to_builtins(plan.scenario),
            command=plan.command,
            seed=plan.scenario.seed,
            seconds=seconds,
            ended=driver.ended,
            environment=self._environment,
            target=self._target(before, after, local=watch.found.how in ("port", "pid")),
            capacity=capacity,
            totals=counts,
            timings=times,
            phases=reports,
            moments=driver.timeline.moments(),
            generator=driver.punctuality.result(driver.clock(), self.wire.opened, driver.attempts.resent),
            processes=watch.result(driver.attempts.sent),
            backend=counted,
            accounting=compare(everything, driver.attempts, self._difference(driver, before, after)),
            notes=[*self.notes, *of_generator(driver), *of_scenario(plan.scenario, reports)],
            faults=[*self.faults, *(f"{problem[0].upper()}{problem[1:]}." for problem in driver.problems)],
        )

    async def _backend_counts(self, driver: Driver) -> tuple[BackendCounts | None, list[Outlived | None]]:
        nothing: list[Outlived | None] = [None] * len(driver.phases)
        if self.backend is None:
            return None, nothing
        try:
            log = await self.backend.settle(self.run)
        except BackendError as error:
            self.faults.append(f"The simulated backend's counts are missing: {error}")
            return None, nothing
        if log.idle and log.counts.arrivals:
            self.notes.append(
                f"No request came to {', '.join(log.idle)}, but the capacity and the oracle count all replicas."
            )
        # The driver's times are of the loop's clock, the backend's of the wall's.
        offset = time.time() - driver.clock()
        gone = {number: at + offset for ledger in driver.phases for number, at in ledger.gone.items()}
        completed = {number for ledger in driver.phases for number in ledger.completed}
        starts = [ledger.first_number for ledger in driver.phases] + [driver.next_number]
        numbers = [range(start, end) for start, end in pairwise(starts)]
        once = not any(ledger.retried for ledger in driver.phases)
        shed = [number for ledger in driver.phases for number in ledger.shed] if once else None
        clients = Clients(completed, driver.attempts.sent, gone, shed)
        counts, outlived = agree_backend(log, clients, numbers, len(self.backend.urls))
        return counts, list(outlived)

    def _difference(self, driver: Driver, before: Look, after: Look) -> Difference | None:
        if before.snapshot is None:
            if not before.foreign and driver.phases:
                self.faults.append(f"The target's /metrics could not be read: {before.why}")
            return None
        if after.snapshot is None:
            self.faults.append(f"The target's /metrics could not be read after the run: {after.why}")
            return None
        return difference(before.snapshot, after.snapshot, self.plan.model)

    def _target(self, before: Look, after: Look, *, local: bool) -> Target:
        seen = after.snapshot or before.snapshot
        return Target(
            url=self.plan.target,
            model=self.plan.model,
            server=self.wire.server,
            version=seen.version if seen is not None else "",
            ours=seen is not None,
            local=local,
        )


@contextmanager
def undisturbed() -> Iterator[None]:
    """While load is sent: few collections of garbage, and as many open files as the system allows."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    gc.collect()
    gc.freeze()
    thresholds = gc.get_threshold()
    gc.set_threshold(100_000, 50, 100)
    try:
        yield
    finally:
        gc.set_threshold(*thresholds)
        gc.unfreeze()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _arrivals(scenario: Scenario, rate: float | None) -> Callable[[Phase], Arrivals]:
    """Each phase's own, whatever the ones before it drew; traces are read once, before load is sent."""
    traces: dict[str, list[Entry]] = {
        phase.file: read_trace(Path(phase.file)) for phase in scenario.phases if phase.file is not None
    }

    def arrivals(phase: Phase) -> Arrivals:
        random = Random(f"{scenario.seed} {phase.name}")
        return schedule(phase, rate, random, traces.get(phase.file or "", ()))

    return arrivals
