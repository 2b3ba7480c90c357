"""What OpenAI's older completions look like on the wire, as far as Headgate makes or reads them.

Source: OpenAI API reference, "Completions".
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pipeline.edge import decode, head
from pipeline.edge.citations import Citation
from pipeline.edge.openai_types import CompletionUsage, StreamOptions

PROMPTS_MAX = 128

NotNegative = Annotated[int, Meta(ge=0, le=2_147_483_647)]
Logprobs = Annotated[int, Meta(ge=0, le=100)]


class CompletionFields(msgspec.Struct, kw_only=True, frozen=True):
    model: decode.Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: NotNegative | None = None
    temperature: decode.Temperature | None = None
    top_p: decode.Share | None = None
    stop: decode.Stop | None = None
    n: decode.Choices | None = None
    seed: decode.Seed | None = None
    best_of: decode.Choices | None = None
    echo: bool | None = None
    logprobs: Logprobs | None = None
    suffix: str | None = None
    prompt_cache_key: head.SessionId | None = None


class CompletionBody(CompletionFields, kw_only=True, frozen=True):
    """A request as it is decoded: the prompt has more forms than its type can tell apart."""

    prompt: str | list[Any]


class CompletionRequest(CompletionFields, kw_only=True, frozen=True):
    """A request for a completion. Several prompts, `best_of`, `echo`, `logprobs`, `suffix` and a `max_tokens` of 0 need
    a worker whose backend has this endpoint too. Fields that are not described here reach a backend as they are."""

    prompt: str | Annotated[list[str], Meta(min_length=1, max_length=PROMPTS_MAX)]


class TextChoice(msgspec.Struct, frozen=True):
    text: str
    index: int
    logprobs: Any = None
    finish_reason: str | None = None


class TextCompletion(msgspec.Struct, kw_only=True, frozen=True):
    """An answer, or one event of a streamed one. `citations` is ours: the passages that the model was given, on routes
    with a collection; in a stream they come with the first event."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: CompletionUsage | UnsetType = UNSET
    citations: list[Citation] | UnsetType = UNSET
