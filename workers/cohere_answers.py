"""Answers of Cohere's chat, version 2, from bytes. No I/O.

Source: Cohere API reference, "Chat" and "Chat with Streaming" (v2, with the events of a stream).
"""

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from workers.base import Delta, DeltaBatch, Usage
from workers.canonical import Choice, FinishReason, Identity, begun, completion, extra, tool_call
from workers.cohere_dialect import error_kind, usage_of
from workers.errors import WorkerError, WorkerErrorKind
from workers.reading import cut, decoded, malformed
from workers.refusals import in_band_error, message_in
from workers.sse import EventDecoder

T = TypeVar("T")

MAX_EVENT = 16 << 20  # bytes of one event of a stream
_REASONS: dict[str | None, FinishReason] = {
    "COMPLETE": "stop",
    "STOP_SEQUENCE": "stop",
    "MAX_TOKENS": "length",
    "TOOL_CALL": "tool_calls",
}
_FAILURES: dict[str | None, WorkerErrorKind | None] = {
    "ERROR": None,  # its words may tell more
    "TIMEOUT": WorkerErrorKind.TIMEOUT,
    "ERROR_LIMIT": WorkerErrorKind.CONTEXT_TOO_LONG,  # these two are of version 1
    "ERROR_TOXIC": WorkerErrorKind.CONTENT_FILTERED,
}


class _Content(msgspec.Struct, gc=False):
    text: str | None = None
    thinking: str | None = None


class _Function(msgspec.Struct, gc=False):
    name: str | None = None
    arguments: str | None = None


class _Call(msgspec.Struct, gc=False):
    id: str | None = None
    function: _Function | None = None


class _Message(msgspec.Struct, gc=False):
    """A whole message has lists, an event's the one thing that it adds."""

    content: _Content | list[_Content] | str | None = None
    tool_calls: _Call | list[_Call] | None = None
    tool_plan: str | None = None
    citations: Any = None


class _Delta(msgspec.Struct, gc=False):
    message: _Message | None = None
    finish_reason: str | None = None
    error: Any = None
    usage: Any = None


class _Event(msgspec.Struct, gc=False):
    type: str | None = None
    index: int | None = None
    delta: _Delta | None = None


class _Answer(msgspec.Struct):
    message: _Message | str | None = None
    finish_reason: str | None = None
    usage: Any = None


_decode_event = msgspec.json.Decoder(_Event)
_decode_answer = msgspec.json.Decoder(_Answer)
_NO_MESSAGE = _Message()


class StreamDecoder:
    """One streamed answer (`workers.http.Decoder`). `secrets`: see `workers.refusals`."""

    __slots__ = ("_begun", "_called", "_calls", "_empty", "_events", "_identity", "_secrets", "done", "error")

    def __init__(self, identity: Identity, *, secrets: Sequence[str] = ()) -> None:
        self.done = False
        self.error: WorkerError | None = None
        self._identity = identity
        self._secrets = secrets
        self._events = EventDecoder(MAX_EVENT)
        self._begun = False  # a delta has gone out
        self._called = 0  # tools
        self._calls: dict[int | None, int] = {}  # Cohere's index of a call → its position among them
        self._empty: set[int] = set()  # positions of calls whose arguments have not begun

    def feed(self, data: bytes) -> DeltaBatch | None:
        deltas: list[Delta] = []
        usage = None
        try:
            for payload in self._events.feed(data):
                if payload and payload != b"[DONE]":
                    usage = self._event(payload, deltas)
                if self.done:
                    break
        except WorkerError as error:
            self.error = error
        return DeltaBatch(tuple(deltas), usage) if deltas else None

    def end_of_stream(self) -> DeltaBatch | None:
        where = "within an event" if self._events.pending else "before the answer did"
        self.error = cut(f"the backend's stream ended {where}")
        return None

    def _event(self, payload: bytes, deltas: list[Delta]) -> Usage | None:
        """Appends what an event says; types that are not known say nothing. Returns the usage, with the last one."""
        event = decoded(_decode_event, payload)
        delta = event.delta
        message = _NO_MESSAGE if delta is None or delta.message is None else delta.message
        match event.type:
            case "content-delta" | "content-start":
                self._content(message, deltas)
            case "tool-plan-delta":
                self._extra({"reasoning_content": message.tool_plan}, deltas)
            case "tool-call-start":
                self._call(event.index, message, deltas)
            case "tool-call-delta":
                self._arguments(event.index, message, deltas)
            case "tool-call-end":
                self._end_call(event.index, deltas)
            case "citation-start":
                self._extra({"citations": message.citations and [message.citations]}, deltas)
            case "message-end":
                return self._end(delta or _Delta(), deltas)
            case None | "error":
                raise _complaint(payload, self._secrets)
        return None

    def _content(self, message: _Message, deltas: list[Delta]) -> None:
        thinking, text = _said(message)
        self._extra({"reasoning_content": thinking}, deltas)
        if text:
            deltas.append(Delta(text) if self._begun else begun(self._identity, text))
            self._begun = True

    def _extra(self, fields: dict[str, Any], deltas: list[Delta]) -> None:
        """Adds a chunk of these fields, unless they are empty; the first delta of an answer says its role."""
        if not any(fields.values()):
            return
        deltas.append(extra(self._identity, fields if self._begun else {"role": "assistant", **fields}))
        self._begun = True

    def _call(self, index: int | None, message: _Message, deltas: list[Delta]) -> None:
        for call in _listed(message.tool_calls):
            position = self._calls[index] = self._called
            self._called += 1
            function = call.function or _Function()
            arguments = function.arguments or ""
            if not arguments:
                self._empty.add(position)
            told = tool_call(position, call_id=call.id or "", name=function.name or "", arguments=arguments)
            self._extra({"tool_calls": [told]}, deltas)

    def _arguments(self, index: int | None, message: _Message, deltas: list[Delta]) -> None:
        position = self._calls.get(index)
        if position is None:
            raise malformed(f"arguments came for the call {index}, which has not begun")
        for call in _listed(message.tool_calls):
            if call.function is not None and call.function.arguments:
                self._empty.discard(position)
                told = tool_call(position, arguments=call.function.arguments)
                self._extra({"tool_calls": [told]}, deltas)

    def _end_call(self, index: int | None, deltas: list[Delta]) -> None:
        """A call without arguments: clients read them as JSON, which an empty text is not."""
        position = self._calls.get(index)
        if position in self._empty:
            self._empty.discard(position)
            self._extra({"tool_calls": [tool_call(position, arguments="{}")]}, deltas)

    def _end(self, end: _Delta, deltas: list[Delta]) -> Usage | None:
        _check_reason(end.finish_reason, end.error, self._secrets)
        for index in list(self._calls):
            self._end_call(index, deltas)
        self.done = True
        deltas.append(Delta("", 0, _REASONS.get(end.finish_reason, "stop")))
        return usage_of(end.usage)


def decode_completion(body: bytes, identity: Identity, *, secrets: Sequence[str] = ()) -> DeltaBatch:
    """The one batch of an answer that was not streamed. Raises `WorkerError`."""
    answer = decoded(_decode_answer, body)
    if not isinstance(answer.message, _Message):
        raise _complaint(body, secrets)
    _check_reason(answer.finish_reason, None, secrets)
    reason = _REASONS.get(answer.finish_reason, "stop")
    message, usage = answer.message, usage_of(answer.usage)
    thinking, text = _said(message)
    calls = [_whole_call(call) for call in _listed(message.tool_calls)]
    more = {
        "reasoning_content": thinking + (message.tool_plan or ""),
        "tool_calls": calls,
        "citations": message.citations,
    }
    more = {name: value for name, value in more.items() if value}
    choice = Choice({"content": None if calls and not text else text, **more}, reason)
    whole = completion(identity, [choice], usage)
    return DeltaBatch((Delta(text, 0, reason, extra=bool(more)),), usage, whole)


def _said(message: _Message) -> tuple[str, str]:
    """What the model thought, and what it said."""
    content = message.content
    if isinstance(content, str):
        return "", content
    parts = _listed(content)
    return "".join([part.thinking or "" for part in parts]), "".join([part.text or "" for part in parts])


def _listed(one_or_more: T | list[T] | None) -> list[T]:
    if one_or_more is None:
        return []
    return one_or_more if isinstance(one_or_more, list) else [one_or_more]


def _whole_call(call: _Call) -> dict[str, Any]:
    function = call.function or _Function()
    told = {"name": function.name or "", "arguments": function.arguments or "{}"}
    return {"id": call.id or "", "type": "function", "function": told}


def _check_reason(reason: str | None, error: Any, secrets: Sequence[str]) -> None:
    """Raises `WorkerError` for an answer that ended because something went wrong."""
    if reason in _FAILURES or error:
        words = error or f"the answer ended with {reason}"
        kind = error_kind(message_in(words.encode())) if isinstance(words, str) else None
        raise in_band_error(words, secrets=secrets, kind=kind or _FAILURES.get(reason))


def _complaint(payload: bytes, secrets: Sequence[str]) -> WorkerError:
    """The error for an object that is no answer: what it says, where it says something."""
    words = message_in(payload)
    return in_band_error(words, secrets=secrets, kind=error_kind(words)) if words else malformed("it is no answer")
