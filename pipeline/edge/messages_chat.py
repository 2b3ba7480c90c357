"""What answers in OpenAI's chat dialect tell beyond text, as Anthropic's Messages tell it."""

from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET

from pipeline.core.errors import BackendFailed
from pipeline.core.messages import PostOutput
from pipeline.core.outcomes import Reason
from pipeline.edge.citations import citations
from pipeline.edge.messages_types import AnsweredMessage, MessageUsage, StopReason
from workers.base import Usage

Object = dict[str, Any]

_REASONS: dict[str, StopReason] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "function_call": "tool_use",
    "content_filter": "refusal",
}
_UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


class Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class ToolCall(msgspec.Struct, gc=False):
    index: int = 0
    id: str | None = None
    function: Function | None = None


class Said(msgspec.Struct, gc=False):
    """A message, or the delta of a chunk. `reasoning` is vLLM's and OpenRouter's newer name."""

    content: Any = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    thinking_blocks: list[Object] | None = None
    tool_calls: list[ToolCall] | None = None
    function_call: Function | None = None
    refusal: str | None = None

    @property
    def thought(self) -> str:
        return self.reasoning_content or self.reasoning or ""

    @property
    def calls(self) -> Sequence[ToolCall]:
        if self.function_call is not None:
            return (ToolCall(0, None, self.function_call),)
        return self.tool_calls or ()


class Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: Said | None = None
    message: Said | None = None


class Chat(msgspec.Struct, gc=False):
    """A chunk, or a whole completion."""

    model: str | None = None
    choices: list[Choice] | None = None

    @property
    def said(self) -> Said:
        """In its first choice; Messages have no others."""
        for choice in self.choices or ():
            if choice.index == 0:
                return choice.delta or choice.message or _NOTHING
        return _NOTHING


class _Model(msgspec.Struct, gc=False):
    model: str | None = None


_NOTHING = Said()
_decode = msgspec.json.Decoder(Chat).decode
_decode_model = msgspec.json.Decoder(_Model).decode


class Answering(msgspec.Struct, frozen=True):
    """Which answer this is. With `rename` it names `model`, what the client asked for, whatever the backend calls its
    model. `cites`: the route has a collection, and the answer `citations`."""

    request_id: str
    model: str
    rename: bool
    cites: bool = False

    def named(self, raw: bytes) -> str:
        """The model's name for the client; `raw` is the backend's first chunk, or its whole answer."""
        if not self.rename and raw:
            with suppress(*_UNDECODABLE):
                return _decode_model(raw).model or self.model
        return self.model

    def message(
        self, output: PostOutput, model: str, content: list[Object], reason: StopReason | None, usage: MessageUsage
    ) -> AnsweredMessage:
        return AnsweredMessage(
            id=f"msg_{self.request_id}",
            model=model,
            content=content,
            stop_reason=reason,
            usage=usage,
            citations=citations(output.before.before.passages) if self.cites else UNSET,
        )

    def call_id(self, call: ToolCall) -> str:
        """The backend's, or one of ours."""
        return call.id or f"toolu_{self.request_id}_{call.index}"


def chat_in(raw: bytes) -> Chat:
    """A backend's chunk or completion; empty where it is not as it should be: its text is known without it."""
    try:
        return _decode(raw)
    except _UNDECODABLE:
        return Chat()


def stop_reason(finish_reason: str | None, *, called: bool) -> StopReason:
    """`called`: tools were. Some servers say `stop` then, and a client would not look at its calls."""
    if called and finish_reason in {None, "stop"}:
        return "tool_use"
    return _REASONS.get(finish_reason or "stop", "end_turn")


def counts(usage: Usage) -> MessageUsage:
    return MessageUsage(
        input_tokens=max(0, usage.prompt_tokens - usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        cache_read_input_tokens=usage.cached_tokens,
    )


def broken(what: str) -> BackendFailed:
    return BackendFailed(f"The backend failed: {what}", reason=Reason.BACKEND_PROTOCOL)
