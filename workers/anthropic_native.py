"""Anthropic's Messages passed through: a client that speaks them in front of a backend that does. No I/O.

Frames are put together again from what was read of them, so that what is forwarded is always a whole frame. Those that
come before the first content (`message_start`, `content_block_start`) wait for it: until then nothing has been
promised to the client, and the call may be made again elsewhere. `ping` is not forwarded.
"""

from collections.abc import Sequence

import msgspec

from workers.anthropic_events import UNDECODABLE, Event, Reader, finish_reason, malformed, whole_message
from workers.base import Delta, DeltaBatch, GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind

_MAX_HELD = 1 << 20  # bytes
_FIRST = frozenset({"content_block_delta", "message_delta", "message_stop"})  # an answer begins with one of these

_decode_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def encode_native(request: GenerationRequest, *, model: str | None) -> bytes:
    """The client's own body for another model, asking for a stream where one is expected. Raises `WorkerError`."""
    try:
        fields = _decode_fields(request.native)
    except UNDECODABLE as error:
        raise WorkerError(WorkerErrorKind.BAD_REQUEST, "the request's body is not a JSON object") from error
    fields["model"] = msgspec.Raw(msgspec.json.encode(model or request.model))
    fields["stream"] = msgspec.Raw(b"true" if request.stream else b"false")
    return msgspec.json.encode(fields)


class NativeDecoder(Reader):
    """One streamed answer as the frames that it came in."""

    __slots__ = ("_held",)

    def __init__(self, *, secrets: Sequence[str] = ()) -> None:
        super().__init__(secrets=secrets)
        self._held: list[bytes] | None = []  # until the answer begins

    def _take(self, payload: bytes, event: Event, deltas: list[Delta]) -> None:
        self._aside(event)
        kind = event.type
        if kind == "ping" or not kind:
            return
        frame = _frame(kind, payload)
        if self._held is not None:
            self._held.append(frame)
            if kind not in _FIRST:
                if sum(map(len, self._held)) > _MAX_HELD:
                    raise malformed("it does not begin")
                return
            frame, self._held = b"".join(self._held), None
        text = event.delta.text if event.delta is not None and kind == "content_block_delta" else None
        reason = None
        if kind == "message_delta":
            reason = self._reason_in(event)
        elif kind == "message_stop":
            reason = self._end()
        deltas.append(Delta(text or "", finish_reason=reason, raw=frame, native=True))

    def _complete(self, deltas: list[Delta]) -> None:
        deltas.append(Delta(raw=_frame("message_stop", b'{"type":"message_stop"}'), native=True))


def _frame(kind: str, payload: bytes) -> bytes:
    if not payload.isascii():
        try:
            payload.decode()  # only the strings that we keep were looked into
        except UnicodeDecodeError as error:
            raise malformed("it is not UTF-8") from error
    lines = payload.replace(b"\n", b"\ndata: ") if b"\n" in payload else payload
    name = kind if kind.isidentifier() and kind.isascii() else "message"
    return b"event: %b\ndata: %b\n\n" % (name.encode(), lines)


def decode_native(body: bytes, *, secrets: Sequence[str] = ()) -> DeltaBatch:
    """The one batch of an answer that was not streamed, its body as it came. Raises `WorkerError`."""
    message = whole_message(body, secrets=secrets)
    if not body.isascii():
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise malformed("it is not UTF-8") from error
    text = "".join([block["text"] for block in message.content or () if isinstance(block.get("text"), str)])
    usage = None if message.usage is None else message.usage.usage()
    reason = finish_reason(message.stop_reason or "end_turn")
    return DeltaBatch((Delta(text, finish_reason=reason, native=True),), usage, body)
