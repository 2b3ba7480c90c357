"""Bodies of the workflow API, in and out: its endpoints, their description and the client are made from these.

Times are seconds since the epoch. What may be left out of a request has a default; unknown fields are refused.
"""

from typing import Annotated, Any, Literal

from msgspec import Meta, Raw, Struct, field

from pipeline.workflow.definition import Concurrency
from pipeline.workflow.errors import Fault
from pipeline.workflow.states import RunState, StepState

PAGE_MAX = 1000  # runs of one page
PAGE_DEFAULT = 100
REFERENCE_MAX = 256  # characters of `name@version`
EVENT_MAX = 256  # characters of a signal's name

Object = dict[str, Any]


class Asked(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Root of all requests' bodies."""


class StartRun(Asked, frozen=True, kw_only=True):
    """Starts a run: either of a registered `workflow` (`name`, its newest version, or `name@version`) or of a
    `definition` that is sent along. `max_concurrency`: steps of this run under way at once. `metadata` is kept with
    it."""

    workflow: Annotated[str, Meta(min_length=1, max_length=REFERENCE_MAX)] | None = None
    definition: Object | None = None
    inputs: Object = field(default_factory=dict)
    max_concurrency: Concurrency | None = None
    metadata: Object = field(default_factory=dict)


class CancelRun(Asked, frozen=True, kw_only=True):
    """`because`: for people; it stands in the run's events."""

    because: Annotated[str, Meta(max_length=1024)] = ""


class RetryRun(Asked, frozen=True, kw_only=True):
    """`step`: the path of the step from which on the run is done again; without it, all that did not complete."""

    step: Annotated[str, Meta(min_length=1, max_length=4096)] | None = None


class SignalRun(Asked, frozen=True, kw_only=True):
    """`event`: what a `wait` step waits for; `payload` is then its value."""

    event: Annotated[str, Meta(min_length=1, max_length=EVENT_MAX)]
    payload: Any = None


class ValidationReport(Struct, frozen=True):
    """Whether a definition could be registered here, and everything that is wrong with it."""

    valid: bool
    errors: list[Fault]


class WorkflowSummary(Struct, frozen=True, kw_only=True):
    """A registered version. `digest` tells contents apart."""

    name: str
    version: str
    digest: str
    created_at: float
    description: str = ""


class WorkflowList(Struct, frozen=True):
    """By name, then the newest first."""

    data: list[WorkflowSummary]
    object: Literal["list"] = "list"


class WorkflowView(WorkflowSummary, frozen=True, kw_only=True):
    """`source` is the text as it was registered, `definition` what was read in it."""

    source: str
    definition: Raw


class RunSummary(Struct, frozen=True, kw_only=True):
    """A run as lists show it. `wake_at`: when it goes on, where it waits for a time. `last`: the number of its newest
    event."""

    id: str
    workflow: str
    version: str
    state: RunState
    created_at: float
    updated_at: float
    error: Object | None = None
    wake_at: float | None = None
    metadata: Object = field(default_factory=dict)
    last: int = 0


class RunList(Struct, frozen=True):
    """Newest first. `next`: what to ask for as `after` to get what follows; null at the end."""

    data: list[RunSummary]
    next: str | None = None
    object: Literal["list"] = "list"


class StepView(Struct, frozen=True, kw_only=True):
    """A step of a run that has begun or was skipped, by its `path`: its id, after those of the steps and turns that it
    is in (`each[3]/draft`). `fallback`: it failed, and `value` is what stands for it. `tolerated`: it failed, and the
    run went on. `again_at`: when its next attempt begins; `wake_at` and `event`: what a wait waits for. `truncated`:
    value and fields are large (`size` bytes, about) and left out in lists: the step's own address has them."""

    path: str
    state: StepState
    attempt: int = 0
    value: Any = None
    fields: Object = field(default_factory=dict)
    error: Object | None = None
    fallback: bool = False
    tolerated: bool = False
    because: str = ""
    started_at: float | None = None
    ended_at: float | None = None
    again_at: float | None = None
    wake_at: float | None = None
    event: str | None = None
    truncated: bool = False
    size: int | None = None


class RunView(RunSummary, frozen=True, kw_only=True):
    """A run in full; its steps in the order in which they were first heard of. `truncated`: which of inputs and outputs
    are too large to be shown here (the run's last event has its outputs). `steps_missing`: so many more steps found no
    room; its events tell of them."""

    inputs: Any = None
    outputs: Any = None
    steps: list[StepView] = field(default_factory=list)
    truncated: list[Literal["inputs", "outputs"]] = field(default_factory=list)
    steps_missing: int = 0


class Token(Struct, frozen=True, tag_field="kind", tag="token", omit_defaults=True):
    """A piece of a step's answer as it comes. Nobody remembers it: the step's `completed` event has the whole text.
    `missed`: so many characters before it were left out, because whoever watches was behind."""

    path: str
    text: str
    attempt: int = 1
    missed: int = 0


class ErrorDetail(Struct, frozen=True):
    """As everywhere in the API; `errors` lists all that is wrong with a definition, or with inputs."""

    message: str
    type: str
    code: str
    param: str | None = None
    errors: list[Fault] | None = None


class WorkflowError(Struct, frozen=True):
    """What is answered instead, when a request cannot be served."""

    error: ErrorDetail
