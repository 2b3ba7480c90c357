"""What a backend's errors and counts mean: for its replica, for the client, for the books."""

from pipeline.core.errors import (
    BackendFailed,
    BackendRefused,
    ContentFiltered,
    ContextLength,
    HeadgateError,
    Overloaded,
)
from pipeline.core.outcomes import Place, Reason
from pipeline.policy.admission import RETRY_AFTER_MIN
from pipeline.policy.pool import Result
from pipeline.stages.backend import CircuitOpen
from workers.base import Usage
from workers.errors import WorkerError, WorkerErrorKind

_TOO_MUCH = frozenset({WorkerErrorKind.RATE_LIMITED, WorkerErrorKind.OVERLOADED})
_TOKENS_MAX = 10_000_000


def verdict(error: WorkerError) -> tuple[Result, float | None]:
    """What it says of the replica, and for how long that wants to be left alone."""
    if error.kind in _TOO_MUCH:
        return Result.PUSHED_BACK, error.retry_after
    return Result.REFUSED if error.kind.of_request else Result.FAULT, None


def credible(usage: Usage) -> Usage:
    """What the backend says it counted, within what any model can count: quotas and averages rely on it."""
    if 0 <= usage.prompt_tokens <= _TOKENS_MAX and 0 <= usage.completion_tokens <= _TOKENS_MAX:
        return usage
    prompt, completion = (min(max(n, 0), _TOKENS_MAX) for n in (usage.prompt_tokens, usage.completion_tokens))
    cached, reasoning = min(usage.cached_tokens, prompt), min(usage.reasoning_tokens, completion)
    return Usage(prompt, completion, usage.raw, cached, reasoning)


def translate(error: WorkerError) -> HeadgateError:
    """What a worker raised, as what the client is told."""
    told = _told(error)
    told.__cause__ = error
    return told


def _told(error: WorkerError) -> HeadgateError:
    match error.kind:
        case WorkerErrorKind.BAD_REQUEST:
            return BackendRefused(f"The backend refused the request: {error.message}")
        case WorkerErrorKind.CONTEXT_TOO_LONG:
            return ContextLength(f"The backend refused the request: {error.message}", param="messages")
        case WorkerErrorKind.CONTENT_FILTERED:
            return ContentFiltered(f"The backend would not answer: {error.message}")
    if isinstance(error, CircuitOpen):
        return Overloaded(
            f"The backend failed: {error.message}",
            place=Place.INFERENCE.label,
            reason=Reason.CIRCUIT_OPEN,
            retry_after=max(error.retry_after or 0.0, RETRY_AFTER_MIN),
        )
    return BackendFailed(
        f"The backend failed: {error.message}",
        reason=f"backend_{error.kind}",
        backend_status=error.status,
        retry_after=error.retry_after,
    )
