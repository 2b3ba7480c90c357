"""Answers of Ollama's own chat and embed, from bytes. No I/O.

Source: Ollama API reference, "Generate a chat message", "Streaming", "Generate embeddings", "Usage", "Errors".
"""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Raw

from workers.base import Delta, DeltaBatch, Usage
from workers.canonical import Choice, FinishReason, Identity, begun, completion, extra, tool_call
from workers.embedding import Vectors, checked
from workers.errors import WorkerError, WorkerErrorKind
from workers.ndjson import LineDecoder
from workers.ollama_dialect import error_kind
from workers.reading import cut, decoded, malformed
from workers.refusals import in_band_error, message_in

MAX_LINE = 16 << 20  # bytes of one line of a stream


class _Function(msgspec.Struct, gc=False):
    name: str = ""
    arguments: Raw = Raw(b"{}")


class _Call(msgspec.Struct, gc=False):
    function: _Function
    id: str | None = None  # older servers have none


class _Message(msgspec.Struct, gc=False):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_Call] | None = None


class _Frame(msgspec.Struct, gc=False):
    """A line of a stream, or a whole answer."""

    message: _Message | None = None
    done: bool | None = None
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: Any = None


class _Embedded(msgspec.Struct):
    embeddings: list[tuple[float, ...]]
    prompt_eval_count: Any = None


_decode_any: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_decode_frame = msgspec.json.Decoder(_Frame)
_decode_embedded = msgspec.json.Decoder(_Embedded)
_NO_MESSAGE = _Message()


class StreamDecoder:
    """One streamed answer (`workers.http.Decoder`). `secrets`: see `workers.refusals`."""

    __slots__ = ("_begun", "_called", "_identity", "_lines", "_secrets", "done", "error")

    def __init__(self, identity: Identity, *, secrets: Sequence[str] = ()) -> None:
        self.done = False
        self.error: WorkerError | None = None
        self._identity = identity
        self._secrets = secrets
        self._lines = LineDecoder(MAX_LINE)
        self._begun = False  # a delta has gone out
        self._called = 0  # tools

    def feed(self, data: bytes) -> DeltaBatch | None:
        deltas: list[Delta] = []
        usage = None
        try:
            for line in self._lines.feed(data):
                usage = self._frame(line, deltas)
                if self.done:
                    break
        except WorkerError as error:
            self.error = error
        return DeltaBatch(tuple(deltas), usage) if deltas else None

    def end_of_stream(self) -> DeltaBatch | None:
        """Good if the last line was only without its end."""
        deltas: list[Delta] = []
        usage, where = None, "before the answer did"
        if line := self._lines.rest():
            try:
                usage = self._frame(line, deltas)
            except WorkerError as error:
                if error.kind is not WorkerErrorKind.PROTOCOL:
                    self.error = error
                where = "within a line"
        if not self.done and self.error is None:
            self.error = cut(f"the backend's stream ended {where}")
        return DeltaBatch(tuple(deltas), usage) if deltas else None

    def _frame(self, line: bytes, deltas: list[Delta]) -> Usage | None:
        """Appends what a line says. Returns the usage, with the last one."""
        frame = _understood(line, self._secrets)
        message = frame.message or _NO_MESSAGE
        if message.thinking:
            self._extra({"reasoning_content": message.thinking}, deltas)
        if message.content:
            deltas.append(Delta(message.content) if self._begun else begun(self._identity, message.content))
            self._begun = True
        if message.tool_calls:
            self._calls(message.tool_calls, deltas)
        if not frame.done:
            return None
        self.done = True
        deltas.append(Delta("", 0, _reason(frame, called=self._called > 0)))
        return _usage(frame)

    def _calls(self, calls: Sequence[_Call], deltas: list[Delta]) -> None:
        told = []
        for call in calls:
            text = _arguments(call.function.arguments)
            call_id = _id(call, self._called, self._identity)
            told.append(tool_call(self._called, call_id=call_id, name=call.function.name, arguments=text))
            self._called += 1
        self._extra({"tool_calls": told}, deltas)

    def _extra(self, fields: dict[str, Any], deltas: list[Delta]) -> None:
        """Adds a chunk of these fields; the first delta of an answer says its role."""
        deltas.append(extra(self._identity, fields if self._begun else {"role": "assistant", **fields}))
        self._begun = True


def decode_completion(body: bytes, identity: Identity, *, secrets: Sequence[str] = ()) -> DeltaBatch:
    """The one batch of an answer that was not streamed. Raises `WorkerError`."""
    frame = _understood(body, secrets)
    if not frame.done:
        raise cut("the backend's answer is not complete")
    message = frame.message or _NO_MESSAGE
    text, calls = message.content or "", message.tool_calls or []
    more: dict[str, Any] = {}
    if message.thinking:
        more["reasoning_content"] = message.thinking
    if calls:
        more["tool_calls"] = [_whole_call(call, position, identity) for position, call in enumerate(calls)]
    reason, usage = _reason(frame, called=bool(calls)), _usage(frame)
    choice = Choice({"content": None if calls and not text else text, **more}, reason)
    whole = completion(identity, [choice], usage)
    return DeltaBatch((Delta(text, 0, reason, extra=bool(more)),), usage, whole)


def decode_embedded(body: bytes, texts: Sequence[str]) -> tuple[Vectors, int]:
    """The vectors of a call to embed, and the tokens that it read. Raises `WorkerError`."""
    answer = decoded(_decode_embedded, body)
    return checked(answer.embeddings, texts), _count(answer.prompt_eval_count)


def _understood(line: bytes, secrets: Sequence[str]) -> _Frame:
    """Raises `WorkerError` for an error, and for what is no part of an answer."""
    frame = decoded(_decode_frame, line)
    if frame.error:
        words = message_in(line)
        raise in_band_error(words, secrets=secrets, kind=error_kind(words))
    if frame.message is None and not frame.done:
        raise malformed("it is no answer")
    return frame


def _reason(frame: _Frame, *, called: bool) -> FinishReason:
    """Ollama ends with `stop`, or `load` and `unload` where nothing was asked; that it calls tools it does not say."""
    if frame.done_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def _usage(frame: _Frame) -> Usage | None:
    if frame.prompt_eval_count is None and frame.eval_count is None:
        return None
    return Usage(_count(frame.prompt_eval_count), _count(frame.eval_count))


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value > 0 else 0


def _arguments(raw: Raw) -> str:
    """The JSON text of a call's arguments: an object, or as some servers have it, a text of one."""
    text = bytes(raw)
    if text.startswith(b"{"):
        return text.decode()
    value = decoded(_decode_any, text)
    if value is None or isinstance(value, str):
        return value or "{}"
    raise malformed("the arguments of a call are no object")


def _whole_call(call: _Call, position: int, identity: Identity) -> dict[str, Any]:
    function = {"name": call.function.name, "arguments": _arguments(call.function.arguments)}
    return {"id": _id(call, position, identity), "type": "function", "function": function}


def _id(call: _Call, position: int, identity: Identity) -> str:
    """A client tells results by it, so it must be another one in each answer."""
    return call.id or f"call_{identity.id.removeprefix('chatcmpl-')}_{position}"
