"""How a request ends: exactly one `Outcome`, at one place, for one reason.

The sets are closed, because each combination is an integer in shared memory (see `pipeline.observe.metrics`).
"""

import enum

import msgspec

from pipeline.core.errors import HeadgateError


class Outcome(enum.StrEnum):
    COMPLETED = "completed"
    SHED = "shed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    FAILED = "failed"


class Place(enum.IntEnum):
    """Where a request is or was: the five stages in order, and the door before them."""

    RAG = 0
    ASSEMBLE = 1
    INFERENCE = 2
    POST = 3
    STREAM = 4
    INGRESS = 5  # the door: decoding, access, limits, reservation

    @property
    def label(self) -> str:
        return self.name.lower()


class Priority(enum.IntEnum):
    """The class of a request: lower numbers are served first."""

    CRITICAL = 0
    HIGH = 1
    NORMAL = 2
    LOW = 3

    @property
    def label(self) -> str:
        return self.name.lower()


STAGES = (Place.RAG, Place.ASSEMBLE, Place.INFERENCE, Place.POST, Place.STREAM)


class Reason(enum.StrEnum):
    """Why a request ended as it did. Each reason belongs to one outcome (`OUTCOME_OF`)."""

    DONE = "done"
    # shed
    QUEUE_FULL = "queue_full"
    DRAINING = "draining"
    WAIT_BUDGET = "wait_budget"  # at the door: it would have to wait longer than its route allows
    TOO_LATE = "too_late"  # at the door, or before inference: it could not be served within its deadline
    DISPLACED = "displaced"  # it waited, and its place went to a request with more right to it
    STANDING_QUEUE = "standing_queue"  # CoDel: it waited in a queue that had not been short for too long
    OVERDUE = "overdue"  # it waited longer than its route allows
    CIRCUIT_OPEN = "circuit_open"  # every replica of its workers has failed too often to be called now
    # rejected
    INVALID = "invalid"
    UNKNOWN_MODEL = "unknown_model"
    TOO_LARGE = "too_large"
    CONTEXT_LENGTH = "context_length"
    SLOW_CLIENT = "slow_client"
    BACKEND_REFUSED = "backend_refused"
    CONTENT_FILTERED = "content_filtered"  # the backend would not answer such content
    UNAUTHORIZED = "unauthorized"
    FORBIDDEN = "forbidden"
    REQUEST_LIMIT = "request_limit"
    TOKEN_LIMIT = "token_limit"  # noqa: S105 - tokens of a language model
    CONCURRENCY_LIMIT = "concurrency_limit"
    # expired
    DEADLINE = "deadline"
    # cancelled
    CLIENT_GONE = "client_gone"
    SHUTDOWN = "shutdown"
    # failed
    STAGE_ERROR = "stage_error"
    RETRIEVAL = "retrieval"
    BACKEND_UNREACHABLE = "backend_unreachable"
    BACKEND_RESET = "backend_reset"
    BACKEND_CUT = "backend_cut"
    BACKEND_UNAVAILABLE = "backend_unavailable"
    BACKEND_OVERLOADED = "backend_overloaded"
    BACKEND_RATE_LIMITED = "backend_rate_limited"
    BACKEND_AUTH = "backend_auth"
    BACKEND_PROTOCOL = "backend_protocol"
    BACKEND_TIMEOUT = "backend_timeout"
    BACKEND_INJECTED = "backend_injected"
    SHARD_LOST = "shard_lost"


_OUTCOMES: dict[Outcome, tuple[Reason, ...]] = {
    Outcome.COMPLETED: (Reason.DONE,),
    Outcome.SHED: (
        Reason.QUEUE_FULL,
        Reason.DRAINING,
        Reason.WAIT_BUDGET,
        Reason.TOO_LATE,
        Reason.DISPLACED,
        Reason.STANDING_QUEUE,
        Reason.OVERDUE,
        Reason.CIRCUIT_OPEN,
    ),
    Outcome.REJECTED: (
        Reason.INVALID,
        Reason.UNKNOWN_MODEL,
        Reason.TOO_LARGE,
        Reason.CONTEXT_LENGTH,
        Reason.SLOW_CLIENT,
        Reason.BACKEND_REFUSED,
        Reason.CONTENT_FILTERED,
        Reason.UNAUTHORIZED,
        Reason.FORBIDDEN,
        Reason.REQUEST_LIMIT,
        Reason.TOKEN_LIMIT,
        Reason.CONCURRENCY_LIMIT,
    ),
    Outcome.EXPIRED: (Reason.DEADLINE,),
    Outcome.CANCELLED: (Reason.CLIENT_GONE, Reason.SHUTDOWN),
}
OUTCOME_OF: dict[Reason, Outcome] = {
    reason: next((o for o, reasons in _OUTCOMES.items() if reason in reasons), Outcome.FAILED) for reason in Reason
}


class Ending(msgspec.Struct, frozen=True):
    """The one ending of a request. `error` is what its client is told, None only for `completed`."""

    reason: Reason
    place: Place
    error: HeadgateError | None = None

    @property
    def outcome(self) -> Outcome:
        return OUTCOME_OF[self.reason]
