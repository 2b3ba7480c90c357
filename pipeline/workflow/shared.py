"""What all runs of an engine have in common."""

import asyncio
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import structlog

from config.schema import WorkflowsSection
from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.journal import Journal
from pipeline.workflow.places import Places
from pipeline.workflow.ports import Catalog, Clock, Handler, Services, Watcher
from pipeline.workflow.templates import Limits
from pipeline.workflow.turns import Turns

if TYPE_CHECKING:
    from pipeline.workflow.run import Run

log = structlog.get_logger("headgate.workflow")

_SURE_S = 1.0  # that the journal must have worked before it is said that it does

COUNTERS = (
    "runs_submitted",
    "runs_completed",
    "runs_partial",
    "runs_failed",
    "runs_cancelled",
    "runs_resumed",
    "runs_lost",
    "steps_completed",
    "steps_failed",
    "steps_skipped",
    "steps_retried",
    "steps_postponed",
    "journal_failures",
)


class Shared:
    """`gone` is told of every run that is no longer executed here, with its last state. `now` is the wall clock: the
    journal's times outlive the process. `forsaken`: tasks of handlers that would not stop. `trouble`: why the
    journal cannot be used now, empty where it can."""

    __slots__ = (
        "_back",
        "_down",
        "_failing",
        "_written",
        "catalog",
        "counters",
        "forsaken",
        "gone",
        "handlers",
        "journal",
        "limits",
        "loop",
        "now",
        "places",
        "run_timeout",
        "section",
        "services",
        "step_timeout",
        "trouble",
        "turns",
        "watcher",
        "writers",
    )

    def __init__(
        self,
        journal: Journal,
        services: Services,
        catalog: Catalog,
        section: WorkflowsSection,
        *,
        handlers: Mapping[str, Handler],
        watcher: Watcher,
        now: Clock,
    ) -> None:
        self.journal = journal
        self.services = services
        self.catalog = catalog
        self.section = section
        self.handlers = handlers
        self.watcher = watcher
        self.now = now
        self.turns = Turns()
        self.places = Places(section.max_steps, section.type_limits)
        self.limits = Limits(section.template_max_chars, section.template_timeout_ms / 1000)
        self.step_timeout = section.step_timeout_ms / 1000 or None
        self.run_timeout = section.run_timeout_ms / 1000 or None
        self.counters = dict.fromkeys(COUNTERS, 0)
        self.writers: set[asyncio.Task[None]] = set()
        self.forsaken: set[asyncio.Task[Any]] = set()
        self._failing: set[object] = set()  # who could not reach the journal the last time
        self._down = False
        self.trouble = ""
        self._written = False  # since it last failed
        self._back: asyncio.TimerHandle | None = None
        self.loop: asyncio.AbstractEventLoop
        self.gone: Callable[[Run], None]

    def open(self, loop: asyncio.AbstractEventLoop, gone: "Callable[[Run], None]") -> None:
        self.loop = loop
        self.turns.open(loop)
        self.gone = gone

    def journal_failed(self, error: JournalFailed, who: object) -> None:
        """Said once when it begins, and once when it is over: it may be read and not be written, so that it is not over
        before everybody found that it works, and somebody that it can be written, and a while has passed since."""
        if not self._down:
            self._down = True
            self.counters["journal_failures"] += 1
            log.error("journal_unavailable", error=str(error))
        self.trouble = error.message
        self._failing.add(who)
        self._written = False
        if self._back is not None:
            self._back.cancel()
            self._back = None

    def journal_works(self, who: object, *, written: bool = False) -> None:
        self._failing.discard(who)
        self._written |= written
        if self._down and self._written and not self._failing and self._back is None:
            self._back = self.loop.call_later(_SURE_S, self._is_back)

    def _is_back(self) -> None:
        self._back = None
        self._down = False
        self.trouble = ""
        log.info("journal_back")
