"""What Anthropic's Messages look like on the wire, as far as Headgate makes or reads them.

Source: Anthropic API reference, "Create a Message", "Count tokens in a Message".
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from pipeline.edge import decode
from pipeline.edge.citations import Citation

Object = dict[str, Any]


class SystemBlock(msgspec.Struct, frozen=True):
    type: Literal["text"]
    text: str


class ToolChoiceAuto(msgspec.Struct, frozen=True, tag_field="type", tag="auto"):
    disable_parallel_tool_use: bool | None = None


class ToolChoiceAny(msgspec.Struct, frozen=True, tag_field="type", tag="any"):
    disable_parallel_tool_use: bool | None = None


class ToolChoiceTool(msgspec.Struct, frozen=True, tag_field="type", tag="tool"):
    name: str
    disable_parallel_tool_use: bool | None = None


class ToolChoiceNone(msgspec.Struct, frozen=True, tag_field="type", tag="none"):
    pass


ToolChoice = ToolChoiceAuto | ToolChoiceAny | ToolChoiceTool | ToolChoiceNone


class Thinking(msgspec.Struct, frozen=True):
    type: str
    budget_tokens: int | None = None


class OutputFormat(msgspec.Struct, frozen=True):
    type: Literal["json_schema"]
    schema: Object


class OutputConfig(msgspec.Struct, frozen=True):
    effort: str | None = None
    format: OutputFormat | None = None


class Metadata(msgspec.Struct, frozen=True):
    user_id: str | None = None


class CountFields(msgspec.Struct, kw_only=True, frozen=True):
    model: decode.Name
    system: str | Annotated[list[SystemBlock], Meta(max_length=decode.PARTS_MAX)] | None = None
    tools: Annotated[list[Object], Meta(max_length=1024)] | None = None
    tool_choice: ToolChoice | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None


class MessagesFields(CountFields, kw_only=True, frozen=True):
    max_tokens: decode.Positive
    stop_sequences: Annotated[list[decode.StopSequence], Meta(max_length=64)] | None = None
    stream: bool | None = None
    temperature: decode.Share | None = None
    top_p: decode.Share | None = None
    top_k: Annotated[int, Meta(ge=0, le=2_147_483_647)] | None = None
    metadata: Metadata | None = None


class ContentBlock(msgspec.Struct, frozen=True):
    """At most 4096 in a message: `text`, `image`, `document`, `tool_use`, `tool_result`, `thinking` or
    `redacted_thinking`, as in Anthropic's reference. Blocks of other types reach a backend of the same dialect as they
    are."""

    type: str


class InputMessage(msgspec.Struct, frozen=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[ContentBlock]


class GivenMessage(msgspec.Struct, frozen=True):
    """An `InputMessage` as it is decoded: its role is looked at by us, who can say what would do."""

    role: str
    content: str | Annotated[list[Object], Meta(max_length=decode.PARTS_MAX)]


GivenMessages = Annotated[list[GivenMessage], Meta(min_length=1, max_length=decode.MESSAGES_MAX)]
InputMessages = Annotated[list[InputMessage], Meta(min_length=1, max_length=decode.MESSAGES_MAX)]


class MessagesBody(MessagesFields, kw_only=True, frozen=True):
    """As it is decoded."""

    messages: GivenMessages


class CountBody(CountFields, kw_only=True, frozen=True):
    """As it is decoded."""

    messages: GivenMessages


class MessageRequest(MessagesFields, kw_only=True, frozen=True):
    """A request for a message. Fields that are not described here reach a backend of the same dialect as they are."""

    messages: InputMessages


class TokenCountRequest(CountFields, kw_only=True, frozen=True):
    """Whose tokens are to be counted."""

    messages: InputMessages


class TokenCount(msgspec.Struct, frozen=True):
    """How many tokens the prompt has, by the backend or an estimate."""

    input_tokens: int


class MessageUsage(msgspec.Struct, kw_only=True, frozen=True):
    """`input_tokens` are those that no cache held."""

    input_tokens: int
    output_tokens: int
    cache_read_input_tokens: int | UnsetType = UNSET


StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "pause_turn", "refusal"]


class AnsweredMessage(msgspec.Struct, kw_only=True, frozen=True):
    """An answer. In a stream it comes first, with nothing said yet. `citations` is ours: the passages that the model
    was given, on routes with a collection."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[Object]
    stop_reason: StopReason | None
    stop_sequence: str | None = None
    usage: MessageUsage
    citations: list[Citation] | UnsetType = UNSET


class MessageStart(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["message_start"] = "message_start"
    message: AnsweredMessage


class ContentBlockStart(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["content_block_start"] = "content_block_start"
    index: int
    content_block: Object


class ContentBlockDelta(msgspec.Struct, kw_only=True, frozen=True):
    """`delta` is a `text_delta`, an `input_json_delta`, a `thinking_delta` or a `signature_delta`."""

    type: Literal["content_block_delta"] = "content_block_delta"
    index: int
    delta: Object


class ContentBlockStop(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["content_block_stop"] = "content_block_stop"
    index: int


class Stopped(msgspec.Struct, kw_only=True, frozen=True):
    stop_reason: StopReason
    stop_sequence: str | None = None


class MessageDelta(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["message_delta"] = "message_delta"
    delta: Stopped
    usage: MessageUsage


class MessageStop(msgspec.Struct, kw_only=True, frozen=True):
    type: Literal["message_stop"] = "message_stop"


EVENTS: dict[str, type[msgspec.Struct]] = {
    "message_start": MessageStart,
    "content_block_start": ContentBlockStart,
    "content_block_delta": ContentBlockDelta,
    "content_block_stop": ContentBlockStop,
    "message_delta": MessageDelta,
    "message_stop": MessageStop,
}
