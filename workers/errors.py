"""What can go wrong between Headgate and a model backend.

WorkerError
    kind tells what happened, `retryable` whether the same call may succeed later or elsewhere.
EmbedderUnavailable
    an embedder cannot be made here.
"""

import enum


class WorkerErrorKind(enum.StrEnum):
    """Why a backend call failed; becomes the `reason` of the request's ending, so the set is closed."""

    UNREACHABLE = "unreachable"  # no connection: refused, name not resolved, connect time-out
    RESET = "reset"  # the connection broke before or between deltas
    CUT = "cut"  # the stream ended cleanly but before the answer did
    STATUS = "status"  # the backend answered 5xx or an unexpected status
    RATE_LIMITED = "rate_limited"  # the backend answered 429
    REFUSED = "refused"  # the backend answered 400, 404, 413, 422: the request itself is at fault
    UNAUTHORIZED = "unauthorized"  # the backend answered 401 or 403: our credentials are at fault
    PROTOCOL = "protocol"  # the answer is not what the dialect promises: HTML, broken JSON, half a frame
    STALLED = "stalled"  # no first delta, or no next one, within its limit
    INJECTED = "injected"  # a failure that the `echo` worker was configured to produce


class WorkerError(Exception):
    """Raised by `ModelWorker.generate` when the backend call cannot go on.

    `message` says what was seen, free of secrets; it reaches the client. `status` is the backend's HTTP status where
    there was one, `retry_after` its wish in seconds.
    """

    def __init__(
        self,
        kind: WorkerErrorKind,
        message: str,
        *,
        retryable: bool = False,
        retry_after: float | None = None,
        status: int | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retryable = retryable
        self.retry_after = retry_after
        self.status = status


class EmbedderUnavailable(Exception):
    """Raised when an embedder cannot be made: a package is missing, or carries other weights than the pinned ones."""

    def __init__(self, embedder: str, reason: str) -> None:
        super().__init__(f"the {embedder} embedder is not available: {reason}")
        self.embedder = embedder
        self.reason = reason
