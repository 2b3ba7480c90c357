"""Frames between shards: 32-bit length and an array in MessagePack. Of those of one turn of the event loop the first is
written at once, as somebody waits for it, and the others together."""

import asyncio
import struct
from collections.abc import Callable
from typing import Any, cast

import msgspec

_HIGH_WATER = 1 << 20

_length = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode


class Wire(asyncio.Protocol):
    """One end of a connection between two shards. `received` gets each frame, `closed` is called once."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        received: Callable[[list[Any]], None],
        closed: Callable[[], None],
    ) -> None:
        self._loop = loop
        self._received = received
        self._closed = closed
        self._transport: asyncio.Transport | None = None
        self._pending = bytearray()  # the beginning of a frame
        self._needed = _length.size  # bytes of it before it is worth looking at
        self._out: list[bytes] = []
        self._over = False
        self._gathering = False

    @property
    def unsent(self) -> int:
        """Bytes that the other end has not taken."""
        return 0 if self._transport is None else self._transport.get_write_buffer_size()

    @property
    def open(self) -> bool:
        return self._transport is not None and not self._transport.is_closing()

    def put(self, frame: tuple[Any, ...]) -> None:
        """Never waits. Does nothing once the other end is gone."""
        if self._over:
            return
        payload = _encode(frame)
        if not self._gathering and self._transport is not None:
            self._gathering = True
            self._loop.call_soon(self._flush)
            self._transport.write(_length.pack(len(payload)) + payload)
            return
        self._out += (_length.pack(len(payload)), payload)

    def close(self) -> None:
        """After what has been put has been sent."""
        self._flush()
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_HIGH_WATER)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio.Protocol has it
        self._over = True
        self._out.clear()
        self._transport = None
        self._closed()

    def data_received(self, data: bytes) -> None:
        if self._pending:
            self._pending += data
            if len(self._pending) < self._needed:
                return
            data, self._pending = bytes(self._pending), bytearray()
        try:
            rest = self._frames(data)
        except (msgspec.DecodeError, ValueError, IndexError):  # never from a process of ours
            self.abort()
            return
        if rest < len(data):
            self._pending += memoryview(data)[rest:]

    def _frames(self, data: bytes) -> int:
        """Hands on the frames in `data`; returns where the rest begins."""
        at, size = 0, len(data)
        while size - at >= _length.size:
            (length,) = _length.unpack_from(data, at)
            end: int = at + _length.size + length
            if end > size:
                self._needed = end - at
                return at
            self._received(_decode(memoryview(data)[at + _length.size : end]))
            at = end
        self._needed = _length.size
        return at

    def _flush(self) -> None:
        self._gathering = False
        if self._out and self._transport is not None:
            out, self._out = self._out, []
            self._transport.write(b"".join(out))
