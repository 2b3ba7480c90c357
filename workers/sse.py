"""Server-sent events as they come off a wire: bytes cut anywhere → the data of each event.

Source: WHATWG HTML, "Server-sent events", 9.2.5 parsing and 9.2.6 interpreting an event stream.
"""

from workers.errors import WorkerError, WorkerErrorKind

_BOM = b"\xef\xbb\xbf"
_DATA = b"data: "


class EventDecoder:
    """Incremental decoder; one a stream. What it returns does not depend on how the bytes were cut.

    Lines end with LF, CRLF or CR. Only `data` is kept: event names, ids, retry times and comments are of no use to the
    dialects read here. Data is bytes, not decoded: whoever parses it notices what is not UTF-8. An event of more than
    `limit` bytes raises `WorkerError`; so no more than that is ever held.
    """

    __slots__ = ("_after_cr", "_fresh", "_limit", "_tail")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = bytearray()  # the beginning of an event whose end has not come yet
        self._after_cr = False  # the last byte was CR: an LF that follows belongs to it
        self._fresh = True  # nothing but the beginning of a byte order mark has been seen

    @property
    def pending(self) -> bool:
        """Whether the stream, if it ends now, ends within an event."""
        return bool(self._tail and self._tail.strip())

    def feed(self, data: bytes) -> list[bytes]:
        """The data of each event that `data` completes; lines of one event are joined by LF."""
        if (
            data.find(b"\n") == len(data) - 2
            and data.startswith(_DATA)
            and data.endswith(b"\n\n")
            and not (self._tail or self._fresh or self._after_cr or len(data) > self._limit or b"\r" in data)
        ):
            return [data[6:-2]]  # one event, as nearly every read of a stream that is being made brings
        if self._fresh or self._after_cr or b"\r" in data:
            data = self._normalised(data)
        tail = self._tail
        if tail:
            searched = len(tail) - 1
            tail += data
            if tail.find(b"\n\n", searched) < 0:
                self._check(len(tail) - 1)  # its last byte may be the first LF of the two that end it
                return []
            data = bytes(tail)
            tail.clear()
        events = data.split(b"\n\n")
        tail += events.pop()
        self._check(len(tail) - 1)
        if len(data) > self._limit:
            for event in events:
                self._check(len(event))
        out = []
        for event in events:
            if event.startswith(_DATA) and b"\n" not in event:  # what nearly every event is
                out.append(event[6:])
            else:
                _interpret(event, out)
        return out

    def _normalised(self, data: bytes) -> bytes:
        """`data` without the byte order mark at the stream's beginning, every line ending as LF."""
        if self._fresh:
            data = bytes(self._tail) + data
            self._tail.clear()
            if len(data) < len(_BOM) and _BOM.startswith(data):
                self._tail += data
                return b""
            self._fresh = False
            data = data.removeprefix(_BOM)
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        return data

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise WorkerError(WorkerErrorKind.PROTOCOL, f"the backend sent an event of more than {self._limit} bytes")


def _interpret(event: bytes, out: list[bytes]) -> None:
    """Appends the joined data lines of an event to `out`, if it has any."""
    lines = [line[5:].removeprefix(b" ") for line in event.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    if lines:
        out.append(b"\n".join(lines))
