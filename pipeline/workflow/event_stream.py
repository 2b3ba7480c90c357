"""A run's events as they come off a wire (WHATWG HTML, "Server-sent events", 9.2.6): id, name and data of each.

`workers.sse` reads streams of models, whose events have neither ids nor names.
"""

from collections.abc import Iterator
from typing import NamedTuple

EVENT_MAX = 1 << 28  # bytes of one event; a step's result is limited to less by every server
_NAMELESS = "message"


class TooLong(Exception):
    """An event is longer than any that a server of ours sends."""


class Frame(NamedTuple):
    """`id` is empty where the event has none."""

    id: str
    name: str
    data: bytes


class FrameDecoder:
    """Bytes cut anywhere → frames. `retry_ms` is what the server asked to wait before coming back. Comments and frames
    without data count as a sign of life only. Raises `TooLong`."""

    def __init__(self) -> None:
        self.retry_ms: int | None = None
        self._line = bytearray()
        self._id, self._name = "", _NAMELESS
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that `data` completes."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            whole = bytes(self._line) + line if self._line else line
            self._line.clear()
            frame = self._take(whole.removesuffix(b"\r"))
            if frame is not None:
                yield frame
        self._line += rest
        if self._size + len(self._line) > EVENT_MAX:
            raise TooLong(f"an event of more than {EVENT_MAX} bytes")

    def _take(self, line: bytes) -> Frame | None:
        if not line:
            frame = Frame(self._id, self._name, b"\n".join(self._data)) if self._data else None
            self._clear()
            return frame
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._data.append(value)
            self._size += len(value)
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")
        elif field == b"id":
            self._id = value.decode("utf-8", "replace")
        elif field == b"retry" and value.isdigit():
            self.retry_ms = int(value[:9])
        return None

    def _clear(self) -> None:
        self._id, self._name = "", _NAMELESS
        self._data = []
        self._size = 0
