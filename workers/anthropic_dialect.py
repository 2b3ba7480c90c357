"""Answers of Anthropic's Messages, streamed or whole, in OpenAI's chat dialect. No I/O."""

from collections.abc import Mapping, Sequence
from typing import Any

from workers.anthropic_blocks import Block, block_for, message_of
from workers.anthropic_events import Event, Reader, finish_reason, whole_message
from workers.base import Delta, DeltaBatch
from workers.canonical import Choice, FinishReason, Identity, chunk, completion, extra


class StreamDecoder(Reader):
    """One streamed answer as chunks of OpenAI's. `created` is what they say of their time; `secrets`: see
    `workers.refusals`."""

    __slots__ = ("_block", "_calls", "_first", "_identity")

    def __init__(self, *, created: int, secrets: Sequence[str] = ()) -> None:
        super().__init__(secrets=secrets)
        self._identity = Identity("", created, "")
        self._first = True
        self._block: Block | None = None
        self._calls = 0

    def _take(self, payload: bytes, event: Event, deltas: list[Delta]) -> None:  # noqa: ARG002 - for those that forward
        match event.type:
            case "content_block_delta":
                self._more(event, deltas)
            case "content_block_start":
                self._begin(event, deltas)
            case "content_block_stop":
                self._end_block(deltas)
            case "message_stop":
                self._finished(self._end(), deltas)
            case "message_delta":
                self._aside(event)
                self._finish(event, deltas)
            case _:
                self._aside(event)
                if event.type == "message_start" and event.message is not None:
                    said = event.message
                    self._identity = Identity(said.id or "", self._identity.created, said.model or "")

    def _more(self, event: Event, deltas: list[Delta]) -> None:
        if self._block is None:
            self._block = block_for({"type": "text"}, self._calls)  # a server that leaves the start out
        delta = event.delta
        if delta is None:
            return
        if delta.text and self._block.is_text:
            self._text(delta.text, deltas)
        else:
            self._fields(self._block.more(delta.thinking, delta.signature, delta.partial_json), deltas)

    def _begin(self, event: Event, deltas: list[Delta]) -> None:
        self._end_block(deltas)
        self._block = block_for(event.content_block or {}, self._calls)
        self._calls += self._block.is_call
        fields = self._block.begin()
        if self._block.is_text:
            self._text(fields.get("content", ""), deltas)
        else:
            self._fields(fields, deltas)

    def _end_block(self, deltas: list[Delta]) -> None:
        block, self._block = self._block, None
        if block is not None:
            self._fields(block.end(), deltas)

    def _finish(self, event: Event, deltas: list[Delta]) -> None:
        reason = self._reason_in(event)
        details = None if reason is None or event.delta is None else event.delta.stop_details
        if details is not None and details.explanation:
            self._end_block(deltas)
            self._fields({"refusal": details.explanation}, deltas)
        self._finished(reason, deltas)

    def _finished(self, reason: FinishReason | None, deltas: list[Delta]) -> None:
        if reason is None:
            return
        self._end_block(deltas)
        raw = chunk(self._identity, {}, finish_reason=reason) if self._first else b""
        self._first = False
        deltas.append(Delta(finish_reason=reason, raw=raw))

    def _complete(self, deltas: list[Delta]) -> None:
        """There is nothing left to say."""

    def _text(self, text: str, deltas: list[Delta]) -> None:
        """The first chunk says whose answer it is; after that a text is told without one."""
        if not text:
            return
        raw = b""
        if self._first:
            raw = chunk(self._identity, {"role": "assistant", "content": text})
            self._first = False
        deltas.append(Delta(text, raw=raw))

    def _fields(self, fields: Mapping[str, Any], deltas: list[Delta]) -> None:
        if not fields:
            return
        if self._first:
            fields = {"role": "assistant", **fields}
            self._first = False
        deltas.append(extra(self._identity, fields))


def decode_message(body: bytes, *, created: int, secrets: Sequence[str] = ()) -> DeltaBatch:
    """The one batch of an answer that was not streamed. Raises `WorkerError`."""
    message = whole_message(body, secrets=secrets)
    fields = message_of(message.content or ())
    if message.stop_details is not None and message.stop_details.explanation:
        fields["refusal"] = message.stop_details.explanation
    reason = finish_reason(message.stop_reason or "end_turn")
    usage = None if message.usage is None else message.usage.usage()
    text = fields.get("content") or ""
    identity = Identity(message.id or "", created, message.model or "")
    delta = Delta(text, finish_reason=reason, extra=len(fields) > 1)
    return DeltaBatch((delta,), usage, completion(identity, (Choice(fields, reason),), usage))
