"""Runs plans: starts each step when its last dependency has ended, journals what comes of it, and goes on after a
crash.

(interface)
"""

from collections.abc import Callable, Mapping
from typing import Any

from config.schema import WorkflowsSection
from pipeline.workflow.journal import Bundle, Journal, RunRecord
from pipeline.workflow.plan import Plan
from pipeline.workflow.ports import Catalog, Kind, Services, Watcher


class Elsewhere(Exception):
    """Another process executes the run: ask that one. `holder` as in `RunRecord.holder`."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"the run is executed by {holder}")
        self.holder = holder


class Engine:
    """Executes the runs of one process. To be used from one event loop.

    `planned` makes a bundle's plan (it is asked once for each bundle, and may raise `DefinitionRefused`); `mine` tells
    which runs left behind by others are to be taken up here. start → … → stop.
    """

    def __init__(
        self,
        journal: Journal,
        services: Services,
        catalog: Catalog,
        section: WorkflowsSection,
        *,
        planned: Callable[[Bundle], Plan],
        kinds: Mapping[str, Kind],
        watcher: Watcher,
        mine: Callable[[str], bool] = lambda _: True,
    ) -> None:
        raise NotImplementedError

    async def start(self) -> None:
        """Takes up what was interrupted; keeps leases, due waits and retention going from now on."""
        raise NotImplementedError

    async def stop(self, grace: float = 0.0) -> None:
        """Starts no more steps, gives those under way `grace` seconds, cancels them, and gives all runs back: they are
        taken up again at the next start."""
        raise NotImplementedError

    async def submit(self, run: RunRecord, bundle: Bundle) -> RunRecord:
        """Journals a run and executes it. With a known idempotency key: the run that there is. Raises `TooManyRuns`,
        `Conflict`, `JournalFailed`."""
        raise NotImplementedError

    async def pause(self, run_id: str) -> RunRecord:
        """Steps under way end, no more are started. Raises `UnknownRun`, `Conflict`, `Elsewhere`; so do the others."""
        raise NotImplementedError

    async def resume(self, run_id: str) -> RunRecord:
        raise NotImplementedError

    async def cancel(self, run_id: str, because: str = "") -> RunRecord:
        """Steps under way are cancelled; when it returns, the run has ended."""
        raise NotImplementedError

    async def retry(self, run_id: str, step: str | None = None) -> RunRecord:
        """A run that has ended runs again: its failed, skipped and abandoned steps, or, with a `step` (its path), that
        one and all that depend on it. What else was completed is not done again."""
        raise NotImplementedError

    async def signal(self, run_id: str, event: str, payload: Any) -> RunRecord:
        raise NotImplementedError

    async def finished(self, run_id: str) -> RunRecord:
        """Waits until a run that is executed here has ended."""
        raise NotImplementedError

    def stats(self) -> dict[str, int]:
        """For metrics: runs executing, pending, waiting, steps under way and waiting for a place; counters since the
        start (`runs_completed`, `steps_completed`, `steps_retried`, `steps_postponed`, `runs_resumed`, …)."""
        raise NotImplementedError
