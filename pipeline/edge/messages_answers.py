"""Whole answers of Anthropic's Messages."""

from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.edge.messages_chat import Answering, Said, ToolCall, broken, chat_in, counts, stop_reason
from pipeline.edge.messages_types import MessageUsage
from workers.base import Usage
from workers.tokens import estimate

Object = dict[str, Any]

_decode_input = msgspec.json.Decoder(dict[str, Any]).decode


def compose(answering: Answering, output: PostOutput, answers: Sequence[Answer], usage: Usage | None) -> bytes:
    """The message: the backend's own where it speaks this dialect, else made of what it said. Raises `BackendFailed`
    for a call of a tool whose arguments are no object."""
    body = next((answer.body for answer in answers if answer.body), b"")
    deltas = [delta for answer in answers for delta in answer.deltas]
    if body and any(delta.native for delta in deltas):
        return body
    text = "".join([delta.text for delta in deltas if delta.index == 0])
    finish = next((delta.finish_reason for delta in reversed(deltas) if delta.index == 0 and delta.finish_reason), None)
    said = chat_in(body).said if body else Said()
    content = _content(answering, said, text)
    reason = stop_reason(finish, called=bool(said.calls))
    told = _estimated(output, text) if usage is None else counts(usage)
    return msgspec.json.encode(answering.message(output, answering.named(body), content, reason, told))


def _content(answering: Answering, said: Said, text: str) -> list[Object]:
    """Thoughts first, calls last; where nothing was said, nothing."""
    blocks: list[Object] = [*(said.thinking_blocks or ())]
    if not blocks and said.thought:
        blocks.append({"type": "thinking", "thinking": said.thought, "signature": ""})
    text = text or said.refusal or ""
    if text:
        blocks.append({"type": "text", "text": text})
    return [*blocks, *(_call(answering, call) for call in said.calls)]


def _call(answering: Answering, call: ToolCall) -> Object:
    function = call.function
    name = (None if function is None else function.name) or ""
    try:
        given = _decode_input((None if function is None else function.arguments) or "{}")
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError):
        raise broken(f"its call of the tool {name!r} has arguments that are not a JSON object") from None
    return {"type": "tool_use", "id": answering.call_id(call), "name": name, "input": given}


def _estimated(output: PostOutput, text: str) -> MessageUsage:
    """Where the backend does not count; clients expect numbers."""
    return MessageUsage(input_tokens=output.before.before.prompt_tokens, output_tokens=estimate(text))
