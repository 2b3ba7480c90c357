"""What can go wrong between Headgate and a model backend.

WorkerError
    kind tells what happened, `retryable` whether the same call may succeed later or elsewhere.
EmbedderUnavailable
    an embedder cannot be made here.
WorkerUnavailable
    a worker cannot be made here.
"""

import enum


class WorkerErrorKind(enum.StrEnum):
    """Why a backend call failed; becomes the `reason` of the request's ending, so the set is closed.

    The first eight are what providers say, whatever their words for it; the others are what went wrong on the way.
    """

    RATE_LIMITED = "rate_limited"  # too many calls or tokens, by the provider's limits for us (429)
    OVERLOADED = "overloaded"  # the provider has too much to do (503, 529)
    CONTEXT_TOO_LONG = "context_too_long"  # prompt and answer exceed the model's window
    BAD_REQUEST = "bad_request"  # the request itself is at fault (400, 404, 409, 413, 422, 501)
    AUTH = "auth"  # our credentials are at fault (401, 403)
    UNAVAILABLE = "unavailable"  # any other 5xx or unexpected status; no replica may be called now
    TIMEOUT = "timeout"  # no first delta, or no next one, within its limit; 408, 504
    CONTENT_FILTERED = "content_filtered"  # the provider would not answer such content
    UNREACHABLE = "unreachable"  # no connection: refused, name not resolved, TLS, connect time-out
    RESET = "reset"  # the connection broke before or between deltas
    CUT = "cut"  # the stream ended cleanly but before the answer did
    PROTOCOL = "protocol"  # the answer is not what the dialect promises: HTML, broken JSON, half a frame
    INJECTED = "injected"  # a failure that the `echo` worker was configured to produce

    @property
    def of_request(self) -> bool:
        """Whether the request is at fault: no other replica would answer it, and the backend is well."""
        return self in _OF_REQUEST


_OF_REQUEST = frozenset(
    {WorkerErrorKind.CONTEXT_TOO_LONG, WorkerErrorKind.BAD_REQUEST, WorkerErrorKind.CONTENT_FILTERED}
)


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


class WorkerUnavailable(Exception):
    """Raised when a worker cannot be made: a package is missing, a class is not there or cannot be made with its
    options. `key` is the key of the worker's table at fault, `expected` what would do."""

    def __init__(self, key: str, found: str, expected: str) -> None:
        super().__init__(f"{key}: {found}; expected {expected}")
        self.key = key
        self.found = found
        self.expected = expected
