"""The native dialect on the wire: the request, and the events of an answer."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pipeline.edge import decode, head
from pipeline.edge.citations import Citation
from pipeline.edge.errors import ErrorObject


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How the model draws its answer."""

    max_tokens: decode.Positive | None = None
    temperature: decode.Temperature | None = None
    top_p: decode.Share | None = None
    stop: decode.Stop | None = None
    seed: decode.Seed | None = None


class PromptFields(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    route: decode.Name
    prompt: Annotated[str, Meta(min_length=1)] | UnsetType = UNSET
    session_id: head.SessionId | None = None
    timeout_ms: head.TimeoutMs | None = None
    parameters: Sampling | None = None


class PromptBody(PromptFields, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """As it is decoded: each message keeps its own JSON."""

    messages: decode.RawMessages | UnsetType = UNSET


class PromptSubmission(PromptFields, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A prompt for a route: either `prompt`, a text, or `messages`, a conversation. `session_id` and `timeout_ms` go
    before the headers `X-Session-Id` and `X-Request-Timeout-Ms`."""

    messages: decode.Messages | UnsetType = UNSET


class Accepted(msgspec.Struct, frozen=True):
    """The request is answered now. `deadline_ms` is its limit, counted from its arrival."""

    request_id: str
    session_id: str | None
    route: str
    deadline_ms: int


class CutCounts(msgspec.Struct, frozen=True):
    """What did not fit the model's window: passages and older turns."""

    passages: int
    turns: int


class Retrieved(msgspec.Struct, frozen=True):
    """The passages that the model is given; only on routes with a collection. `degraded` says that the search failed
    and the answer is given without."""

    passages: list[Citation]
    degraded: bool
    cut: CutCounts


class TextDelta(msgspec.Struct, frozen=True):
    """The next piece of the answer's text."""

    text: str
    index: int = 0


class TokenUsage(msgspec.Struct, frozen=True):
    """Tokens as the backend counted them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class StageTiming(msgspec.Struct, frozen=True):
    """Milliseconds in the queue in front of a stage and in the stage."""

    queue: float
    service: float


class Timings(msgspec.Struct, frozen=True):
    rag: StageTiming
    assemble: StageTiming
    inference: StageTiming
    post: StageTiming


class Done(msgspec.Struct, frozen=True):
    """The answer is complete. `timings` has the stages before Stream; inference's ends at the first delta."""

    finish_reason: str
    timings: Timings
    outcome: Literal["completed"] = "completed"


class Failed(msgspec.Struct, frozen=True):
    """The answer broke off; nothing follows."""

    error: ErrorObject


EVENTS: dict[str, type[msgspec.Struct]] = {
    "accepted": Accepted,
    "retrieved": Retrieved,
    "delta": TextDelta,
    "usage": TokenUsage,
    "done": Done,
    "error": Failed,
}
