"""Streamed answers of Anthropic's Messages.

`message_start`, for each block of content `content_block_start`, `content_block_delta` … and `content_block_stop`, then
`message_delta` and `message_stop`. Frames of a backend that speaks the same dialect are forwarded as they are.
"""

from typing import Any

import msgspec

from pipeline.core.errors import HeadgateError
from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from pipeline.edge import sse
from pipeline.edge.messages_chat import Answering, Said, ToolCall, broken, chat_in, counts, stop_reason
from pipeline.edge.messages_errors import message_error
from pipeline.edge.messages_types import (
    ContentBlockDelta,
    ContentBlockStart,
    ContentBlockStop,
    MessageDelta,
    MessageStart,
    MessageStop,
    MessageUsage,
    Stopped,
)
from workers.base import Delta, Usage

Object = dict[str, Any]

encode = msgspec.json.encode

_TEXT = (  # the usual event
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":%d,"delta":{"type":"text_delta","text":%b}}\n\n'
)
_STOP = sse.event(b"message_stop", encode(MessageStop()))


class MessageEncoder:
    """One answer. Until the backend has counted, at the end of its stream, `message_start` tells our estimate of the
    prompt."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._output: PostOutput | None = None
        self._started = False
        self._native = False
        self._index = -1  # of the newest block
        self._open = ""  # its type, while it is open
        self._call = -1  # where a call is open, which of the backend's
        self._called: set[int] = set()
        self._finish_reason: str | None = None

    def begin(self, message: PostOutput) -> None:
        self._output = message

    def deltas(self, answer: Answer) -> bytes:
        frames: list[bytes] = []
        for delta in answer.deltas:
            if delta.native:
                self._native = True
                frames.append(delta.raw)
            elif delta.index == 0:
                self._add(delta, frames)
        return b"".join(frames)

    def finish(self, usage: Usage | None) -> bytes:
        if self._native:
            return b""
        frames: list[bytes] = []
        self._start(b"", frames)
        self._close(frames)
        reason = stop_reason(self._finish_reason, called=bool(self._called))
        told = self._estimated() if usage is None else counts(usage)
        frames.append(_frame(MessageDelta(delta=Stopped(stop_reason=reason), usage=told)))
        return b"".join([*frames, _STOP])

    def error(self, error: HeadgateError) -> bytes:
        return sse.event(b"error", message_error(error, self._answering.request_id))

    def _add(self, delta: Delta, frames: list[bytes]) -> None:
        self._start(delta.raw, frames)
        said = chat_in(delta.raw).said if delta.extra and delta.raw else None
        if said is not None:
            self._think(said, frames)
        text = delta.text
        if not text and said is not None:
            text = said.refusal or ""
        if text:
            if self._open != "text":
                self._begin({"type": "text", "text": ""}, frames)
            frames.append(_TEXT % (self._index, encode(text)))
        if said is not None:
            for call in said.calls:
                self._use(call, frames)
        if delta.finish_reason is not None:
            self._finish_reason = delta.finish_reason

    def _start(self, raw: bytes, frames: list[bytes]) -> None:
        if self._started or self._output is None:
            return
        self._started = True
        usage = MessageUsage(input_tokens=self._output.before.before.prompt_tokens, output_tokens=0)
        message = self._answering.message(self._output, self._answering.named(raw), [], None, usage)
        frames.append(_frame(MessageStart(message=message)))

    def _think(self, said: Said, frames: list[bytes]) -> None:
        if said.thought:
            self._thought(said.thought, frames)
        for block in said.thinking_blocks or ():
            self._signed(block, frames)

    def _thought(self, text: str, frames: list[bytes]) -> None:
        if self._open != "thinking":
            self._begin({"type": "thinking", "thinking": "", "signature": ""}, frames)
        self._delta({"type": "thinking_delta", "thinking": text}, frames)

    def _signed(self, block: Object, frames: list[bytes]) -> None:
        """A thought as a whole, to be given back in the next turn: its text has been told where it is open."""
        if block.get("type") != "thinking":
            self._begin(block, frames)
        else:
            thinking, signature = block.get("thinking"), block.get("signature")
            if self._open != "thinking":
                self._begin({"type": "thinking", "thinking": "", "signature": ""}, frames)
                if thinking:
                    self._delta({"type": "thinking_delta", "thinking": thinking}, frames)
            self._delta({"type": "signature_delta", "signature": signature}, frames)
        self._close(frames)

    def _use(self, call: ToolCall, frames: list[bytes]) -> None:
        """Blocks follow each other: a call that another one came after cannot go on."""
        function = call.function
        if self._open != "tool_use" or self._call != call.index:
            if call.index in self._called:
                raise broken("its calls of tools are mixed with each other")
            name = (None if function is None else function.name) or ""
            self._begin({"type": "tool_use", "id": self._answering.call_id(call), "name": name, "input": {}}, frames)
            self._call = call.index
            self._called.add(call.index)
        if function is not None and function.arguments:
            self._delta({"type": "input_json_delta", "partial_json": function.arguments}, frames)

    def _begin(self, block: Object, frames: list[bytes]) -> None:
        self._close(frames)
        self._index += 1
        self._open = str(block.get("type"))
        frames.append(_frame(ContentBlockStart(index=self._index, content_block=block)))

    def _delta(self, delta: Object, frames: list[bytes]) -> None:
        frames.append(_frame(ContentBlockDelta(index=self._index, delta=delta)))

    def _close(self, frames: list[bytes]) -> None:
        if self._open:
            self._open = ""
            frames.append(_frame(ContentBlockStop(index=self._index)))

    def _estimated(self) -> MessageUsage:
        """Where the backend does not count; clients expect numbers."""
        if self._output is None:
            return MessageUsage(input_tokens=0, output_tokens=0)
        ticket = self._output.request.ticket
        return MessageUsage(input_tokens=self._output.before.before.prompt_tokens, output_tokens=ticket.chunks)


_Event = MessageStart | ContentBlockStart | ContentBlockDelta | ContentBlockStop | MessageDelta


def _frame(event: _Event) -> bytes:
    return sse.event(event.type.encode(), encode(event))
