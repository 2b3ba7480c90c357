"""What can be wrong with workflows and runs.

`DefinitionRefused` holds every problem of a definition at once. `StepFailed` ends an attempt of a step. The others are
`HeadgateError`s: a client is answered with them.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.core.errors import HeadgateError, InvalidRequest


class Fault(msgspec.Struct, frozen=True):
    """One problem. `where` is a path like `steps[2].prompt` (by id where there is one: `steps.draft.prompt`); `line`
    and `column` count from 1, 0 where the definition has no text."""

    where: str
    message: str
    line: int = 0
    column: int = 0
    hint: str = ""


class DefinitionRefused(InvalidRequest):
    """A definition with problems: 422, the faults beside the message."""

    status = 422
    code = "invalid_workflow"

    def __init__(self, faults: Sequence[Fault]) -> None:
        first = faults[0]
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        super().__init__(f"The workflow is not valid: {first.where}: {first.message}{more}", param=first.where)
        self.faults = tuple(faults)


class InputRefused(InvalidRequest):
    """A run's inputs do not fit the workflow's schema."""

    status = 422
    code = "invalid_inputs"

    def __init__(self, faults: Sequence[Fault]) -> None:
        first = faults[0]
        super().__init__(f"The inputs are not valid: {first.where}: {first.message}", param=first.where)
        self.faults = tuple(faults)


class UnknownWorkflow(InvalidRequest):
    status = 404
    code = "workflow_not_found"


class UnknownRun(InvalidRequest):
    status = 404
    code = "run_not_found"


class VersionTaken(InvalidRequest):
    """A registered version never changes: this one is there already, with other content."""

    status = 409
    code = "version_exists"


class Conflict(InvalidRequest):
    """The run's state does not allow this, or an idempotency key came with another request."""

    status = 409
    code = "conflict"


class UnknownStep(InvalidRequest):
    status = 404
    code = "step_not_found"


class RunFull(Conflict):
    """The run has come to the most that the journal keeps of one."""

    code = "too_large"


class TooManyRuns(HeadgateError):
    """No place for another run. `retry_after` says when to come back."""

    status = 503
    code = "overloaded"
    type = "server_error"
    reason = "queue_full"


class TooManyWatchers(HeadgateError):
    """No place for another one who watches. 503; 429 where it is the run that has too many."""

    status = 503
    code = "overloaded"
    type = "server_error"
    reason = "queue_full"


class RunWatched(TooManyWatchers):
    status = 429
    code = "rate_limit_exceeded"
    type = "requests"


class JournalFailed(HeadgateError):
    """The journal cannot be written or read now: its disk is full, read-only, locked or gone. Nothing was promised that
    is not in it."""

    status = 503
    code = "journal_unavailable"
    type = "server_error"


class LeaseLost(Exception):
    """Another process runs this run now: whatever this one still does for it no longer counts."""


class StepFailed(Exception):
    """An attempt of a step failed. `kind` is a word for programs; `retryable` tells whether another attempt may help,
    `retry_after` (seconds) when at the earliest. `details` is JSON."""

    def __init__(
        self,
        kind: str,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        details: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        self.details = details or {}


class Postponed(Exception):
    """An attempt found no place (shed, or its caller's limit): it is made again after `retry_after` seconds, and does
    not count as one."""

    def __init__(self, reason: str, retry_after: float) -> None:
        super().__init__(reason)
        self.reason = reason
        self.retry_after = retry_after
