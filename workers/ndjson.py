"""Lines of JSON as they come off a wire: bytes cut anywhere → each line.

Source: the NDJSON specification (ndjson.org): a line ends with LF, a CR before it is white space, empty lines count for
nothing.
"""

from collections.abc import Iterator

from workers.errors import WorkerError, WorkerErrorKind


class LineDecoder:
    """Incremental decoder; one a stream. What it gives does not depend on how the bytes were cut.

    Lines come without the white space around them, as bytes, not decoded: whoever parses them notices what is not
    UTF-8. A line of more than `limit` bytes raises `WorkerError`, after those before it; so no more than that is ever
    held.
    """

    __slots__ = ("_limit", "_tail")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail = bytearray()  # the beginning of a line whose end has not come yet

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes. It is taken as they are: the iterator has to be used up."""
        tail = self._tail
        *ends, rest = data.split(b"\n")
        for end in ends:
            line = bytes(tail) + end if tail else end
            tail.clear()
            self._check(len(line))
            line = line.strip()
            if line:
                yield line
        tail += rest
        self._check(len(tail))

    def rest(self) -> bytes:
        """What came after the last end of a line, at the end of the stream: a line where the sender forgot its end."""
        return bytes(self._tail).strip()

    def _check(self, size: int) -> None:
        if size > self._limit:
            raise WorkerError(WorkerErrorKind.PROTOCOL, f"the backend sent a line of more than {self._limit} bytes")
