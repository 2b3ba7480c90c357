"""What a worker whose backend speaks another dialect makes of an answer that is more than text: objects of OpenAI's
chat completions, the one dialect that everything behind the workers understands.

Source: OpenAI API reference, "Chat Completions" (the chat completion object, the chat completion chunk object).
`reasoning_content` is no part of it, but what vLLM, DeepSeek and llama.cpp's server call the text of a model's
reasoning, and clients expect.
"""

import array
import base64
import sys
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from workers.base import Delta, EmbeddingRequest, Embeddings, Usage

FinishReason = Literal["stop", "length", "tool_calls", "content_filter", "function_call"]

FINISH_REASONS: frozenset[str] = frozenset({"stop", "length", "tool_calls", "content_filter", "function_call"})


class Identity(msgspec.Struct, frozen=True):
    """What all chunks of one answer share. `created` is in Unix seconds."""

    id: str
    created: int
    model: str


class Choice(msgspec.Struct, frozen=True):
    """One choice of a whole answer. `message` are the fields of its message but for `role`: `content`, and where there
    are such `tool_calls`, `reasoning_content`, `refusal`."""

    message: Mapping[str, Any]
    finish_reason: FinishReason
    index: int = 0


def chunk(
    identity: Identity, delta: Mapping[str, Any], *, index: int = 0, finish_reason: FinishReason | None = None
) -> bytes:
    """A `chat.completion.chunk`, to go into `Delta.raw`."""
    return msgspec.json.encode(
        {
            "id": identity.id,
            "object": "chat.completion.chunk",
            "created": identity.created,
            "model": identity.model,
            "choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}],
        }
    )


def extra(
    identity: Identity, fields: Mapping[str, Any], *, index: int = 0, finish_reason: FinishReason | None = None
) -> Delta:
    """A delta that carries more than text: `fields` of a chunk's delta, such as `tool_calls` or `reasoning_content`."""
    text = fields.get("content")
    raw = chunk(identity, fields, index=index, finish_reason=finish_reason)
    return Delta(text if isinstance(text, str) else "", index, finish_reason, raw, extra=True)


def begun(identity: Identity, text: str) -> Delta:
    """The first delta of an answer that begins with text. Its chunk says what else there is to know of the answer: the
    name of the model."""
    return Delta(text, raw=chunk(identity, {"role": "assistant", "content": text}))


def tool_call(
    position: int, *, call_id: str | None = None, name: str | None = None, arguments: str = ""
) -> dict[str, Any]:
    """A member of a chunk delta's `tool_calls`. The first of a call has its id and name; `arguments` is a piece of
    their JSON text."""
    function: dict[str, Any] = {"arguments": arguments}
    if name is not None:
        function = {"name": name, "arguments": arguments}
    call: dict[str, Any] = {"index": position, "function": function}
    return call if call_id is None else {"index": position, "id": call_id, "type": "function", "function": function}


def completion(identity: Identity, choices: Sequence[Choice], usage: Usage | None) -> bytes:
    """A `chat.completion`, to go into `DeltaBatch.body`."""
    body: dict[str, Any] = {
        "id": identity.id,
        "object": "chat.completion",
        "created": identity.created,
        "model": identity.model,
        "choices": [
            {
                "index": choice.index,
                "message": {"role": "assistant", "content": None, **choice.message},
                "finish_reason": choice.finish_reason,
            }
            for choice in choices
        ],
    }
    if usage is not None:
        body["usage"] = usage_object(usage)
    return msgspec.json.encode(body)


def usage_object(usage: Usage) -> dict[str, Any]:
    """OpenAI's `usage`. Details are only there where they are known."""
    counts: dict[str, Any] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
    if usage.cached_tokens:
        counts["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.reasoning_tokens:
        counts["completion_tokens_details"] = {"reasoning_tokens": usage.reasoning_tokens}
    return counts


def embeddings(request: EmbeddingRequest, answer: Embeddings) -> bytes:
    """The list object of OpenAI's embeddings: the backend's own, or one that is made of the vectors."""
    if answer.body:
        return answer.body
    usage = answer.usage or Usage(0, 0)
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(vector, request.encoding)}
        for index, vector in enumerate(answer.vectors)
    ]
    counts = {"prompt_tokens": usage.prompt_tokens, "total_tokens": usage.prompt_tokens}
    return msgspec.json.encode(
        {"object": "list", "data": data, "model": answer.model or request.model, "usage": counts}
    )


def _vector(vector: Sequence[float], encoding: str) -> Any:
    """Base64 is of 32-bit numbers, the lowest byte first."""
    if encoding == "float":
        return vector
    numbers = array.array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return base64.b64encode(numbers.tobytes()).decode()
