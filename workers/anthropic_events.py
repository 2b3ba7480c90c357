"""What a server of Anthropic's Messages answers, as it comes off the wire. No I/O.

Source: Anthropic API reference, "Create a Message" (the message object) and "Streaming Messages" (its events).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from workers import anthropic_errors
from workers.base import Delta, DeltaBatch, Usage
from workers.canonical import FinishReason
from workers.errors import WorkerError, WorkerErrorKind
from workers.sse import EventDecoder

MAX_EVENT = 16 << 20  # bytes of one event of a stream
UNDECODABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)

_KNOWN = frozenset(
    {
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
        "error",
    }
)
_BEGINNINGS = _KNOWN - {"message_stop", "error"}
_REASONS: Mapping[str, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "pause_turn": "stop",  # only of tools that the provider runs
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}


class Counts(msgspec.Struct, gc=False):
    """Anthropic's usage. In a stream each is the newest, and None where an event does not tell it."""

    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    output_tokens_details: dict[str, Any] | None = None

    def update(self, newer: "Counts") -> None:
        for name in self.__struct_fields__:
            value = getattr(newer, name)
            if value is not None:
                setattr(self, name, value)

    def usage(self) -> Usage | None:
        """In our terms: what a cache held is a part of the prompt."""
        if self.input_tokens is None and self.output_tokens is None:
            return None
        cached = _count(self.cache_read_input_tokens)
        prompt = _count(self.input_tokens) + cached + _count(self.cache_creation_input_tokens)
        reasoning = _count((self.output_tokens_details or {}).get("thinking_tokens"))
        return Usage(prompt, _count(self.output_tokens), cached_tokens=cached, reasoning_tokens=reasoning)


class StopDetails(msgspec.Struct, gc=False):
    explanation: str | None = None


class EventDelta(msgspec.Struct, gc=False):
    """Of a block, or of the message."""

    type: str | None = None
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None


class Message(msgspec.Struct, gc=False):
    type: str | None = None
    id: str | None = None
    model: str | None = None
    content: list[dict[str, Any]] | None = None
    stop_reason: str | None = None
    stop_details: StopDetails | None = None
    usage: Counts | None = None
    error: Any = None


class Event(msgspec.Struct, gc=False):
    type: str | None = None
    index: int = 0
    delta: EventDelta | None = None
    content_block: dict[str, Any] | None = None
    message: Message | None = None
    usage: Counts | None = None
    error: Any = None


class _Kind(msgspec.Struct, gc=False):
    type: str | None = None


_decode_kind = msgspec.json.Decoder(_Kind).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_message = msgspec.json.Decoder(Message).decode


def finish_reason(stop_reason: str) -> FinishReason:
    """OpenAI's word for it; a reason that is not known here is an end like any other."""
    return _REASONS.get(stop_reason, "stop")


def event_in(payload: bytes) -> Event:
    """Of an event that is not known here only the type is looked at. Raises `WorkerError`."""
    try:
        try:
            return _decode_event(payload)
        except msgspec.ValidationError:
            kind = _decode_kind(payload).type
            if kind is None or kind in _KNOWN:
                raise
            return Event(kind)
    except UNDECODABLE as error:
        raise malformed("it is not the JSON that was expected") from error


def malformed(what: str) -> WorkerError:
    return WorkerError(WorkerErrorKind.PROTOCOL, f"the backend's answer is malformed: {what}")


class Reader(ABC):
    """What every reader of a stream of Messages keeps, whatever it makes of the events. See `workers.http.Decoder`."""

    __slots__ = ("_begun", "_counts", "_events", "_reason", "_secrets", "done", "error")

    def __init__(self, *, secrets: Sequence[str] = ()) -> None:
        self.done = False
        self.error: WorkerError | None = None
        self._secrets = secrets
        self._events = EventDecoder(MAX_EVENT)
        self._counts = Counts()
        self._begun = False
        self._reason: FinishReason | None = None

    def feed(self, data: bytes) -> DeltaBatch | None:
        deltas: list[Delta] = []
        try:
            for payload in self._events.feed(data):
                if payload:
                    event = event_in(payload)
                    self._begun = self._begun or event.type in _BEGINNINGS
                    self._take(payload, event, deltas)
                if self.done:
                    return self._batch(deltas, self._counts.usage())
        except WorkerError as error:
            self.error = error
        return self._batch(deltas, None)

    def end_of_stream(self) -> DeltaBatch | None:
        """Good where only `message_stop` is missing."""
        if self._reason is None or self._events.pending:
            where = "within an event" if self._events.pending else "before the answer did"
            self.error = WorkerError(WorkerErrorKind.CUT, f"the backend's stream ended {where}", retryable=True)
            return None
        self.done = True
        deltas: list[Delta] = []
        self._complete(deltas)
        return self._batch(deltas, self._counts.usage())

    @abstractmethod
    def _take(self, payload: bytes, event: Event, deltas: list[Delta]) -> None:
        """One event. Raises `WorkerError`."""

    @abstractmethod
    def _complete(self, deltas: list[Delta]) -> None:
        """The answer is complete, `message_stop` or not."""

    def _batch(self, deltas: list[Delta], usage: Usage | None) -> DeltaBatch | None:
        return DeltaBatch(tuple(deltas), usage) if deltas or usage else None

    def _aside(self, event: Event) -> None:
        """What an event says that is no part of the answer's content. Raises `WorkerError` for an error."""
        if event.type == "error" or event.error:
            raise anthropic_errors.in_band(event.error, secrets=self._secrets)
        if event.message is not None and event.message.usage is not None:
            self._counts.update(event.message.usage)
        if event.usage is not None:
            self._counts.update(event.usage)

    def _end(self) -> FinishReason | None:
        """Said to be complete, so it is: the reason for it, where that was left out before."""
        if not self._begun:
            raise WorkerError(WorkerErrorKind.CUT, "the backend's stream ended without an answer", retryable=True)
        self.done = True
        reason, self._reason = self._reason, self._reason or "stop"
        return None if reason else self._reason

    def _reason_in(self, event: Event) -> FinishReason | None:
        """The reason that the answer ends for, once."""
        said = None if event.delta is None else event.delta.stop_reason
        if not said or self._reason is not None:
            return None
        self._reason = finish_reason(said)
        return self._reason


def whole_message(body: bytes, *, secrets: Sequence[str] = ()) -> Message:
    """Raises `WorkerError`."""
    try:
        message = _decode_message(body)
    except UNDECODABLE as error:
        raise malformed("it is not the JSON that was expected") from error
    if message.error or message.type == "error":
        raise anthropic_errors.in_band(message.error, secrets=secrets)
    if message.content is None:
        raise malformed("it has no content")
    return message


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0
