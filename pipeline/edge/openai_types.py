"""What OpenAI's dialect looks like on the wire, as far as Headgate makes or reads it.

Source: OpenAI API reference, "Chat Completions" and "Models".
"""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType

from pipeline.edge import decode, head
from pipeline.edge.citations import Citation


class StreamOptions(msgspec.Struct, frozen=True):
    include_usage: bool | None = None


class ChatFields(msgspec.Struct, kw_only=True, frozen=True):
    model: decode.Name
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: decode.Positive | None = None
    max_completion_tokens: decode.Positive | None = None
    temperature: decode.Temperature | None = None
    top_p: decode.Share | None = None
    stop: decode.Stop | None = None
    n: decode.Choices | None = None
    seed: decode.Seed | None = None
    prompt_cache_key: head.SessionId | None = None


class ChatBody(ChatFields, kw_only=True, frozen=True):
    """A chat completion request as it is decoded: messages are only found at first, so that each keeps its own JSON."""

    messages: decode.RawMessages


class ChatCompletionRequest(ChatFields, kw_only=True, frozen=True):
    """A request for a chat completion. Fields that are not described here, and those of messages, reach an
    OpenAI-compatible backend as they are."""

    messages: decode.Messages


class CompletionUsage(msgspec.Struct, frozen=True):
    """Details are only there where the backend told them."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: dict[str, int] | UnsetType = UNSET
    completion_tokens_details: dict[str, int] | UnsetType = UNSET


class AssistantMessage(msgspec.Struct, kw_only=True, frozen=True):
    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: str | None = None


class CompletionChoice(msgspec.Struct, frozen=True):
    index: int
    message: AssistantMessage
    finish_reason: str


class ChatCompletion(msgspec.Struct, kw_only=True, frozen=True):
    """An answer that was not streamed. `citations` is ours: the passages that the model was given, on routes with a
    collection."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage | UnsetType = UNSET
    citations: list[Citation] | UnsetType = UNSET


class ChunkDelta(msgspec.Struct, frozen=True):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET


class ChunkChoice(msgspec.Struct, frozen=True):
    index: int
    delta: ChunkDelta
    finish_reason: str | None = None


class ChatCompletionChunk(msgspec.Struct, kw_only=True, frozen=True):
    """One event of a streamed answer. `citations` is ours, and comes with the first, on routes with a collection."""

    id: str
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: CompletionUsage | UnsetType = UNSET
    citations: list[Citation] | UnsetType = UNSET


class Model(msgspec.Struct, kw_only=True, frozen=True):
    """A route, as clients see it."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["headgate"] = "headgate"


class ModelList(msgspec.Struct, kw_only=True, frozen=True):
    object: Literal["list"] = "list"
    data: list[Model]
