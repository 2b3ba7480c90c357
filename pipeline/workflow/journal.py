"""The journal port: what is remembered of workflows and runs, so that a process that dies loses nothing that was said.

A run is its row (`RunRecord`) and its entries, numbered from 1 without gaps. An entry that was appended stays; what a
run has come to is its entries read in order (`pipeline.workflow.history`). Whoever executes a run holds its lease, and
every append names it: appends of somebody who has lost it raise `LeaseLost` and write nothing.

Times are seconds since the epoch (wall clock): they outlive processes. Methods raise `JournalFailed` when the journal
cannot be reached, and then have done nothing. A value that is not JSON (NaN, a set, nested a thousand deep) is a
`ValueError`; lone surrogates in texts become U+FFFD.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import msgspec

from pipeline.workflow.states import RunState

RUN_MAX = 256 << 20  # bytes of one run: more is not taken


class Entry(msgspec.Struct, frozen=True, tag_field="kind", omit_defaults=True):
    """Root of all entries. `at` is when."""

    at: float


class StateChanged(Entry, frozen=True, tag="run", omit_defaults=True):
    """The run's state. `because`: who or what, for people. `outputs` and `error` with a final one; `wake_at` with
    waiting."""

    state: RunState
    because: str = ""
    outputs: Any = None
    error: dict[str, Any] | None = None
    wake_at: float | None = None


class StepStarted(Entry, frozen=True, tag="started", omit_defaults=True):
    """An attempt began. `path`: the step's id, after those of the steps and turns that it is in: `review[3].draft`."""

    path: str
    attempt: int = 1


class StepWaiting(Entry, frozen=True, tag="waiting", omit_defaults=True):
    """A wait began: until `wake_at`, or for a signal (then `wake_at` is when it is given up, None: never)."""

    path: str
    wake_at: float | None = None
    event: str | None = None


class StepRetrying(Entry, frozen=True, tag="retrying", omit_defaults=True):
    """An attempt failed and there will be another one."""

    path: str
    attempt: int
    error: dict[str, Any]
    again_at: float


class StepCompleted(Entry, frozen=True, tag="completed", omit_defaults=True):
    """`value` is what the step came to, `fields` the others of its fields by name. `fallback`: it failed (`error`), and
    this is what stands for it."""

    path: str
    value: Any = None
    fields: dict[str, Any] = {}
    attempt: int = 1
    fallback: bool = False
    error: dict[str, Any] | None = None


class StepSkipped(Entry, frozen=True, tag="skipped", omit_defaults=True):
    path: str
    because: str = ""


class StepFailedFinally(Entry, frozen=True, tag="failed", omit_defaults=True):
    """After its last attempt. `tolerated`: the run goes on (`on_failure: continue`)."""

    path: str
    error: dict[str, Any]
    attempt: int = 1
    tolerated: bool = False


class Signalled(Entry, frozen=True, tag="signal", omit_defaults=True):
    """A signal came: the first wait for it takes it."""

    event: str
    payload: Any = None


class Rewound(Entry, frozen=True, tag="rewound", omit_defaults=True):
    """A retry: what these steps came to (and everything inside of them) no longer counts."""

    paths: list[str]


AnyEntry = (
    StateChanged
    | StepStarted
    | StepWaiting
    | StepRetrying
    | StepCompleted
    | StepSkipped
    | StepFailedFinally
    | Signalled
    | Rewound
)


class Left(msgspec.Struct, frozen=True):
    """Stands for a value that was left out: with the step's fields it has about so many bytes."""

    size: int


class Numbered(msgspec.Struct, frozen=True, array_like=True):
    """An entry with its number in its run."""

    number: int
    entry: AnyEntry


class Bundle(msgspec.Struct, frozen=True):
    """What a run executes: a definition and those that it refers to, as they were when the run was made.

    `main` is a definition as JSON (`pipeline.workflow.definition.Definition`), `others` by the text that
    `WorkflowStep.workflow` has. `digest` is the SHA-256 of it all: the same bundle is stored once.
    """

    digest: str
    main: msgspec.Raw
    others: dict[str, msgspec.Raw] = {}


class Registered(msgspec.Struct, frozen=True):
    """A version of a workflow. `source` is the text as it was registered."""

    name: str
    version: str
    digest: str
    created_at: float
    description: str
    source: str
    bundle: Bundle


class RunRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """A run's row: what lists show, and what decides who executes it. `caller` is the name of the key that made it;
    `priority` its class (`pipeline.core.outcomes.Priority`). `options`: JSON, the engine's. `holder` is empty where
    nobody holds the lease. `parent`: unused by runs of workflows in workflows, which are the same run."""

    id: str
    workflow: str
    version: str
    bundle: str  # its digest
    state: RunState
    created_at: float
    updated_at: float
    caller: str = "-"
    priority: int = 2
    inputs: Any = None
    outputs: Any = None
    error: dict[str, Any] | None = None
    idempotency_key: str | None = None
    request_digest: str = ""  # of what came with the idempotency key
    options: dict[str, Any] = {}
    wake_at: float | None = None
    last: int = 0  # number of its newest entry
    holder: str = ""
    epoch: int = 0  # how often the lease changed hands


class Page(msgspec.Struct, frozen=True):
    """`next` asks for what follows; None at the end."""

    runs: list[RunRecord]
    next: str | None = None


class Lease(msgspec.Struct, frozen=True):
    """The right to execute a run, as its holder shows it with every append."""

    run: str
    holder: str
    epoch: int


class Journal(Protocol):
    """See the module's docstring. Safe to use from one event loop; several processes may share what is behind it."""

    holder: str  # who we are, unlike everybody else who is or was

    async def open(self) -> None: ...

    async def aclose(self) -> None:
        """Writes what was appended, gives back all leases, and closes."""
        ...

    # Workflows.

    async def register(self, workflow: Registered) -> Registered:
        """What is registered then: the same where it was there already. Raises `VersionTaken`."""
        ...

    async def workflow(self, name: str, version: str | None) -> Registered | None:
        """None as version: the newest registered."""
        ...

    async def workflows(self) -> list[Registered]:
        """All versions, by name, then the newest first. Without sources and bundles (empty)."""
        ...

    async def bundle(self, digest: str) -> Bundle:
        """Raises `UnknownWorkflow`."""
        ...

    # Runs.

    async def create(self, run: RunRecord, bundle: Bundle, *, take: bool) -> tuple[RunRecord, Lease | None]:
        """Adds a run, with the first entry (its state). With the idempotency key of one that its caller has made, that
        run is returned and nothing added; raises `Conflict` where that one's `request_digest` is another. `take`: and
        take its lease."""
        ...

    async def run(self, run_id: str, *, whole: bool = True) -> RunRecord | None:
        """Without `whole`, inputs and outputs are left out (None)."""
        ...

    async def runs(
        self,
        *,
        caller: str | None = None,
        workflow: str | None = None,
        states: Sequence[RunState] = (),
        limit: int = 100,
        after: str | None = None,
    ) -> Page:
        """Newest first. `after`: a page's `next`. `caller` None: everybody's. Inputs, outputs are left out (None)."""
        ...

    async def entries(
        self, run_id: str, after: int = 0, limit: int | None = None, *, most: int | None = None
    ) -> list[Numbered]:
        """With `most`, no more of them once they have so many bytes; at least one, where there is one."""
        ...

    async def outline(self, run_id: str, most: int) -> list[Numbered]:
        """All entries, without what is large: where one has more than `most` bytes, a `Left` stands for the step's
        value and its fields are none; outputs and payloads are None."""
        ...

    async def histories(self, run_ids: Sequence[str]) -> dict[str, list[Numbered]]:
        """All entries of each of these runs, by its id: many at once cost little. Unknown runs are left out."""
        ...

    async def counts(self) -> dict[RunState, int]:
        """How many runs have not ended, everybody's, by state (all four of them)."""
        ...

    async def append(self, lease: Lease, entries: Sequence[AnyEntry]) -> int:
        """Writes them together, durably (against the end of the process), and returns the last one's number. A
        `StateChanged` changes the row as well, in the same transaction. Where the number is larger than the last one
        known and what was appended, somebody has posted in between: read `entries` after the last one known. Raises
        `LeaseLost`, and `RunFull` where the run has `RUN_MAX` bytes; after that, only small entries."""
        ...

    async def post(self, run_id: str, entries: Sequence[AnyEntry]) -> int:
        """The same without a lease, for what others than the holder may say: signals, and the state of a run that
        nobody holds. A `Signalled` makes a run that is waiting due at once. Raises `Conflict` for a `StateChanged` or
        `Rewound` where somebody alive holds the lease, `UnknownRun`, `RunFull`."""
        ...

    # Leases.

    def alive(self, holder: str) -> bool:
        """Whether this holder lives and renews. Quick: may be asked in the event loop."""
        ...

    async def claim(self, run_id: str) -> Lease | None:
        """Takes the lease where nobody alive holds it; None where somebody does. A holder is dead when its process is,
        or when it has not renewed for a lease's length. Raises `UnknownRun`."""
        ...

    async def claim_many(self, limit: int, *, due: float, mine: Callable[[str], bool]) -> list[tuple[RunRecord, Lease]]:
        """Runs that should be executed, that nobody alive holds and that are `mine` (asked with the run's id, in the
        event loop), the oldest first, with their leases: pending and running ones, and waiting ones whose `wake_at` is
        before `due`."""
        ...

    async def next_due(self) -> float | None:
        """The earliest `wake_at` of waiting runs that nobody alive holds, a signal's time where that came sooner."""
        ...

    async def release(self, lease: Lease) -> None:
        """Gives it back; nothing happens where it is lost."""
        ...

    async def renew(self) -> None:
        """Renews all leases that are held here."""
        ...

    # Upkeep.

    async def expire(self, before: float, limit: int = 1000) -> int:
        """Deletes runs that ended before then, with everything of theirs, and bundles that nobody needs; returns how
        many."""
        ...
