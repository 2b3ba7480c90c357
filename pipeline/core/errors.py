"""Every error that can end a request, as data.

HeadgateError
├── InvalidRequest           the request itself is at fault (400); `param` says where
│   ├── UnknownModel         no route of that name (404)
│   ├── TooLarge             body over the limit (413)
│   ├── ContextLength        the prompt exceeds the model's budget, by our count or the backend's (400)
│   ├── SlowClient           head or body did not arrive in time (408)
│   ├── BackendRefused       the backend says that the request is at fault (400)
│   ├── ContentFiltered      the backend would not answer such content (400)
│   ├── Unauthorized         no API key, or none that is known (401)
│   ├── Forbidden            the key may not use this route (403)
│   └── RateLimited          the key's own limit is reached (429)
├── Overloaded               shed: no place left, no replica may be called, or draining (503)
├── DeadlineExceeded         the deadline passed (504)
├── Cancelled                the client left, or the process stops (503)
├── ShardLost                the process that the request was in died (503)
├── StageFailed              a stage's handler raised (500)
├── RetrievalFailed          the collection could not be searched and the route does not answer without it (502)
└── BackendFailed            the backend failed and nothing is left to try (502)
    └── BackendStalled       it sent nothing in time

`status` is the HTTP status where the answer has not begun, `code` and `type` the fields of an OpenAI-style error
object.
"""

from typing import ClassVar


class HeadgateError(Exception):
    """Root of all errors that reach a client.

    `reason` is the label under which the ending is counted (`pipeline.core.outcomes.Reason`), `place` the label of
    the stage at fault where that is not simply where the request was. `param` names the request's field,
    `retry_after` is in seconds, None where no time is better than another. `retry` false tells official clients not
    to repeat the call although the status would make them.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal_error"
    type: str = "server_error"
    retry: ClassVar[bool | None] = None
    reason: str = "stage_error"
    place: str | None = None

    def __init__(self, message: str, *, param: str | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.retry_after = retry_after


class InvalidRequest(HeadgateError):
    status = 400
    code = "invalid_value"
    type = "invalid_request_error"
    reason = "invalid"


class UnknownModel(InvalidRequest):
    status = 404
    code = "model_not_found"
    reason = "unknown_model"


class TooLarge(InvalidRequest):
    status = 413
    code = "request_too_large"
    reason = "too_large"


class ContextLength(InvalidRequest):
    code = "context_length_exceeded"
    reason = "context_length"


class SlowClient(InvalidRequest):
    status = 408
    code = "request_timeout"
    retry = False
    reason = "slow_client"


class BackendRefused(InvalidRequest):
    code = "backend_refused"
    reason = "backend_refused"
    place = "inference"


class ContentFiltered(InvalidRequest):
    code = "content_filter"
    reason = "content_filtered"
    place = "inference"


class Unauthorized(InvalidRequest):
    """Never says more about a key than that it is not known or has been revoked."""

    status = 401
    code = "invalid_api_key"
    reason = "unauthorized"
    place = "ingress"


class Forbidden(InvalidRequest):
    status = 403
    code = "permission_denied"
    reason = "forbidden"
    place = "ingress"


class RateLimited(HeadgateError):
    """`reason` is `request_limit`, `token_limit` or `concurrency_limit`. Official clients come back by themselves."""

    status = 429
    code = "rate_limit_exceeded"
    place = "ingress"

    def __init__(self, message: str, *, reason: str, retry_after: float) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason
        self.type = "tokens" if reason == "token_limit" else "requests"


class Overloaded(HeadgateError):
    """`place` and `reason` are shown in the answer's headers; `worker` is whose lane was full, where it was one's.

    For those who observe: `priority` is the class of who was refused, `wait` the seconds that were estimated and
    `allowed` those that would have been allowed, None where that was not the question.
    """

    status = 503
    code = "overloaded"

    def __init__(self, message: str, *, place: str, reason: str, retry_after: float, worker: str | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.worker = worker
        self.priority: int | None = None
        self.wait: float | None = None
        self.allowed: float | None = None
        self.place = place
        self.reason = reason


class DeadlineExceeded(HeadgateError):
    status = 504
    code = "deadline_exceeded"
    retry = False
    reason = "deadline"


class Cancelled(HeadgateError):
    """`reason` is `client_gone` or `shutdown`."""

    status = 503
    code = "cancelled"

    def __init__(self, message: str, *, reason: str, retry_after: float | None = None) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason


class ShardLost(HeadgateError):
    """The next process that its session belongs to can take it at once."""

    status = 503
    code = "shard_lost"
    reason = "shard_lost"


class StageFailed(HeadgateError):
    """Chained to what the stage's handler raised."""


class RetrievalFailed(HeadgateError):
    status = 502
    code = "retrieval_error"
    reason = "retrieval"
    place = "rag"


class BackendFailed(HeadgateError):
    """`reason` is `backend_` and the worker error's kind; `backend_status` the backend's own HTTP status where it
    sent one."""

    status = 502
    code = "backend_error"
    place = "inference"

    def __init__(
        self, message: str, *, reason: str, backend_status: int | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(message, retry_after=retry_after)
        self.reason = reason
        self.backend_status = backend_status


class BackendStalled(BackendFailed):
    """Within its time limits nothing came, or not enough; `what` says which limit that was."""

    def __init__(self, what: str) -> None:
        super().__init__(f"The backend {what}", reason="backend_timeout")
        self.what = f"it {what}"


class RetrievalError(Exception):
    """Raised by a `Retriever` or `CollectionStore` when it cannot answer. Rag turns it into `RetrievalFailed` or goes
    on without passages, as the route says. `collection` names what was asked for."""

    def __init__(self, message: str, *, collection: str) -> None:
        super().__init__(message)
        self.message = message
        self.collection = collection


class CollectionMismatch(RetrievalError):
    """The collection was made by another embedder (or with another dimension) than the one configured now."""
