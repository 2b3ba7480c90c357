"""OpenAI's older completions as bytes, for clients and backends that both speak them. No I/O.

Source: OpenAI API reference, "Completions" (create, the completion object). A client's request and the frames of the
answer pass as they are; only what Headgate needs is decoded.
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from workers.base import Delta, DeltaBatch, GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai_dialect import StreamDecoder, complaint_in
from workers.openai_fields import (
    UNDECODABLE,
    asking_usage,
    decode_fields,
    finish_reason_of,
    malformed,
    shorten,
    usage_in,
)
from workers.refusals import in_band_error


class _Choice(msgspec.Struct, gc=False):
    index: int = 0
    text: Any = None
    finish_reason: str | None = None


class _Answer(msgspec.Struct, gc=False):
    """A text completion, or a chunk of one."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode


def encode_request(request: GenerationRequest, *, model: str | None, ask_usage: bool) -> bytes:
    """The client's own body, with `model` in place of its name for it. Raises `WorkerError` when it is not JSON."""
    try:
        fields: dict[str, Any] = dict(decode_fields(request.native))
        fields["model"] = model or request.model
        if request.stream and ask_usage:
            fields["stream_options"] = asking_usage(fields.get("stream_options"))
        if request.shortened:
            shorten(fields, request.parameters.max_tokens)
    except UNDECODABLE as error:
        raise WorkerError(WorkerErrorKind.BAD_REQUEST, "the request's body is not a JSON object") from error
    return msgspec.json.encode(fields)


class CompletionsDecoder(StreamDecoder):
    """As a `StreamDecoder`, of text completions: each delta that comes from a frame of the backend's is native.

    A frame that only tells usage goes into no delta: whoever speaks to the client knows whether that wants it.
    """

    __slots__ = ()

    def _chunk(self, payload: bytes, deltas: list[Delta]) -> None:
        chunk = _decoded(payload, self._secrets)
        if chunk.usage is not None:
            self._usage = payload
        choices = chunk.choices
        if not choices:
            if chunk.usage is None:
                self._aside(payload, deltas, is_chunk=choices is not None)
            return
        frame = frame_of(payload)
        for choice in choices:
            deltas.append(self._piece(choice, frame))
            frame = b""  # forwarded once

    def _aside(self, payload: bytes, deltas: list[Delta], *, is_chunk: bool) -> None:
        super()._aside(payload, deltas, is_chunk=False)
        if is_chunk:
            deltas.append(Delta(raw=frame_of(payload), native=True))

    def _piece(self, choice: _Choice, frame: bytes) -> Delta:
        index = choice.index
        if index not in self._seen:
            self._begin(index)
        reason = choice.finish_reason or None
        if reason is not None:
            reason = self._finish(index, reason)
        text = choice.text
        return Delta(text if text.__class__ is str else "", index, reason, frame, native=True)


def frame_of(payload: bytes) -> bytes:
    """An event's data as a frame of the wire."""
    return b"data: %b\n\n" % payload.replace(b"\n", b"\ndata: ")


def decode_completion(body: bytes, *, secrets: Sequence[str] = ()) -> DeltaBatch:
    """The one batch of an answer that was not streamed. Raises `WorkerError`."""
    answer = _decoded(body, secrets)
    if not answer.choices:
        raise complaint_in(body, secrets) or malformed("it has no choices")
    deltas = tuple([_whole(choice) for choice in answer.choices])
    return DeltaBatch(deltas, usage_in(body) if answer.usage is not None else None, body)


def _whole(choice: _Choice) -> Delta:
    text = choice.text
    return Delta(
        text if isinstance(text, str) else "", choice.index, finish_reason_of(choice.finish_reason), native=True
    )


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
