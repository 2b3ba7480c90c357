"""OpenAI's chat completions as bytes: requests from ours, answers to ours. No I/O.

Source: OpenAI API reference, "Chat Completions" (create, the chat completion object, the chat completion chunk object).
Only what Headgate needs is decoded; the rest stays in the bytes that are passed on.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from workers.base import ChatMessage, Delta, DeltaBatch, GenerationRequest, Parameters
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai_fields import (
    UNDECODABLE,
    asking_usage,
    decode_fields,
    finish_reason_of,
    malformed,
    shorten,
    usage_in,
)
from workers.refusals import in_band_error, message_in
from workers.sse import EventDecoder

MAX_EVENT = 16 << 20  # bytes of one event of a stream
_DONE = b"[DONE]"
_MAX_CHOICES = 1024
_PLAIN = frozenset({"role", "content"})  # fields of a delta or message that carry nothing but text


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    delta: dict[str, Any] | None = None
    message: dict[str, Any] | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _Answer(msgspec.Struct, gc=False):
    """A chat completion, or a chunk of one."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def encode_request(request: GenerationRequest, *, model: str | None, ask_usage: bool) -> bytes:
    """The body to send: every field of the client's own body as its bytes stand there, except those that must differ.

    `model` replaces the client's name for it. Raises `WorkerError` when the body or a message is not JSON.
    """
    try:
        fields: dict[str, Any] = dict(decode_fields(request.body)) if request.body else own_fields(request.parameters)
        fields["model"] = model or request.model
        if request.rewritten or not request.body:
            fields["messages"] = [message_json(message) for message in request.messages]
        fields["stream"] = request.stream
        if request.stream and ask_usage:
            fields["stream_options"] = asking_usage(fields.get("stream_options"))
        if request.shortened and request.body:
            shorten(fields, request.parameters.max_tokens)
    except UNDECODABLE as error:
        raise WorkerError(WorkerErrorKind.BAD_REQUEST, "the request's body is not a JSON object") from error
    return msgspec.json.encode(fields)


def own_fields(parameters: Parameters) -> dict[str, Any]:
    fields = {
        "max_tokens": parameters.max_tokens,
        "temperature": parameters.temperature,
        "top_p": parameters.top_p,
        "stop": parameters.stop or None,
        "n": parameters.n if parameters.n > 1 else None,
        "seed": parameters.seed,
    }
    return {name: value for name, value in fields.items() if value is not None}


def message_json(message: ChatMessage) -> Any:
    return msgspec.Raw(message.raw) if message.raw else {"role": message.role, "content": message.text}


class StreamDecoder:
    """One streamed answer: what came off the wire → batches.

    After each `feed`: `done` says that the backend ended the answer, `error` that it cannot go on; deltas that came
    before the error are in the batch. `choices` is how many the client asked for. `secrets`: see `workers.refusals`.
    """

    __slots__ = ("_choices", "_events", "_finished", "_secrets", "_seen", "_usage", "done", "error")

    def __init__(self, *, choices: int = 1, secrets: Sequence[str] = ()) -> None:
        self.done = False
        self.error: WorkerError | None = None
        self._choices = choices
        self._secrets = secrets
        self._events = EventDecoder(MAX_EVENT)
        self._seen: set[int] = set()
        self._finished: set[int] = set()
        self._usage = b""  # the newest chunk that had it: some backends count along

    def feed(self, data: bytes) -> DeltaBatch | None:
        """What `data` completes; None when that is nothing."""
        deltas: list[Delta] = []
        whole = not self._events.pending
        payloads: Sequence[bytes] = ()
        try:
            payloads = self._events.feed(data)
            for payload in payloads:
                if payload.startswith(_DONE):
                    return self._end(deltas)
                if payload:
                    self._chunk(payload, deltas)
        except WorkerError as error:
            self.error = error
        if not deltas:
            return None
        if whole and len(deltas) == len(payloads) and data.count(b"\n") == 2 * len(deltas) and data.endswith(b"\n\n"):
            return DeltaBatch(tuple(deltas), frames=data)  # each line is an event's data, each event a delta
        return DeltaBatch(tuple(deltas))

    def end_of_stream(self) -> DeltaBatch | None:
        """The stream ended without [DONE]: good if every choice had its finish_reason, else sets `error`."""
        if len(self._finished) >= self._choices and self._finished == self._seen:
            return self._end([])
        where = "within an event" if self._events.pending else "before the answer did"
        self.error = WorkerError(WorkerErrorKind.CUT, f"the backend's stream ended {where}", retryable=True)
        return None

    def _end(self, deltas: list[Delta]) -> DeltaBatch | None:
        if not self._seen:
            self.error = WorkerError(
                WorkerErrorKind.CUT, "the backend's stream ended without an answer", retryable=True
            )
            return None
        self.done = True
        # Said to be complete, so it is; some backends leave the reason out.
        deltas += [Delta(index=index, finish_reason="stop") for index in sorted(self._seen - self._finished)]
        usage = usage_in(self._usage)
        return DeltaBatch(tuple(deltas), usage) if deltas or usage else None

    def _chunk(self, payload: bytes, deltas: list[Delta]) -> None:
        chunk = _decoded(payload, self._secrets)
        if chunk.usage is not None:
            self._usage = payload
        choices = chunk.choices
        if not choices:
            if chunk.usage is None:
                self._aside(payload, deltas, is_chunk=choices is not None)
            return
        several = len(choices) > 1
        for choice in choices:
            deltas.append(self._delta(choice, payload, several=several))
            payload = b""  # forwarded once

    def _aside(self, payload: bytes, deltas: list[Delta], *, is_chunk: bool) -> None:
        """Something of the backend's own: a chunk, such as its verdict on the prompt, passes; other objects don't."""
        complaint = complaint_in(payload, self._secrets)
        if complaint is not None:
            raise complaint
        if is_chunk:
            deltas.append(Delta(raw=payload, extra=True))

    def _begin(self, index: int) -> None:
        """A choice's first chunk."""
        if not 0 <= index < _MAX_CHOICES:
            raise malformed(f"a choice has the index {index}")
        self._seen.add(index)

    def _finish(self, index: int, reason: str) -> str | None:
        """The reason in OpenAI's words; None where the choice has had one before."""
        if index in self._finished:
            return None
        self._finished.add(index)
        return finish_reason_of(reason)

    def _delta(self, choice: _Choice, raw: bytes, *, several: bool) -> Delta:
        index = choice.index
        if index not in self._seen:
            self._begin(index)
        finish_reason = choice.finish_reason or None
        if finish_reason is not None:
            finish_reason = self._finish(index, finish_reason)
        fields = choice.delta or {}
        text = fields.get("content")
        extra = several or choice.logprobs is not None
        if text.__class__ is str:
            return Delta(text, index, finish_reason, raw, extra or (len(fields) > 1 and _more_than_text(fields)))
        return Delta("", index, finish_reason, raw, extra or bool(text) or _more_than_text(fields))


def decode_completion(body: bytes, *, secrets: Sequence[str] = ()) -> DeltaBatch:
    """The one batch of an answer that was not streamed. Raises `WorkerError`."""
    answer = _decoded(body, secrets)
    if not answer.choices:
        raise complaint_in(body, secrets) or malformed("it has no choices")
    deltas = tuple([_whole(choice) for choice in answer.choices])
    return DeltaBatch(deltas, usage_in(body) if answer.usage is not None else None, body)


def _whole(choice: _Choice) -> Delta:
    fields = choice.message or {}
    text = fields.get("content")
    whole = text if isinstance(text, str) else ""
    extra = choice.logprobs is not None or _more_than_text(fields) or bool(text and not whole)
    return Delta(whole, choice.index, finish_reason_of(choice.finish_reason), b"", extra)


def _more_than_text(fields: dict[str, Any]) -> bool:
    """Empty fields don't count: some backends send them all, every time."""
    return any(value for name, value in fields.items() if name not in _PLAIN)


def _decoded(payload: bytes, secrets: Sequence[str]) -> _Answer:
    try:
        answer = _decode(payload)
        if not payload.isascii():
            payload.decode()  # the decoder looks only into the strings that it keeps
    except UNDECODABLE as error:
        raise malformed("it is not the JSON that was expected") from error
    if answer.error:
        raise in_band_error(answer.error, secrets=secrets)
    return answer


def complaint_in(payload: bytes, secrets: Sequence[str]) -> WorkerError | None:
    """The error that an object without choices is, for backends that put its message at the top."""
    return in_band_error(msgspec.json.decode(payload), secrets=secrets) if message_in(payload) else None
