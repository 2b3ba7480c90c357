"""Where log lines leave a process: whole lines, in order, without ever waiting for whoever reads them."""

import asyncio
import os
import select
import socket
import stat
import threading
import time
from collections.abc import Callable
from select import PIPE_BUF

_FLUSH_AFTER = 0.005  # seconds that a gathered line waits for others
_RETRY_AFTER = 0.05  # seconds until a reader that was behind is tried again
_FILE_PIECE = 65_536  # bytes in one write to a regular file
_CLOSE_WITHIN = 1.0  # seconds that a reader is waited for at exit


class LineWriter:
    """A bounded buffer in front of a file descriptor.

    `gather` leaves a line to be written together with those of the next 5 ms, `write` writes it at once, after what
    waits. When the reader is behind by `limit` bytes, new lines are dropped and counted, and `on_recovery` is called
    with their number once it has caught up. A write holds whole lines and no more than the system keeps together
    (PIPE_BUF, 4 KiB, except to regular files), so that lines of several processes don't mix; only a single line longer
    than that can be torn. Any thread may call `write`; `gather` belongs to the event loop.
    """

    def __init__(self, descriptor: int, limit: int = 1 << 20) -> None:
        self.dropped = 0  # since creation
        self.on_recovery: Callable[[int], None] | None = None
        self._outlet = _Outlet(descriptor)
        self._limit = limit
        self._buffer = bytearray()
        self._unreported = 0
        self._behind = False
        self._timer: asyncio.TimerHandle | None = None
        self._lock = threading.Lock()

    def gather(self, line: bytes) -> None:
        """`line` ends with a newline."""
        if len(self._buffer) > self._limit:
            self._drop()
            return
        self._buffer += line  # in one step: other threads append too
        if self._timer is None:
            self._arm(_FLUSH_AFTER)
        elif len(self._buffer) > _FILE_PIECE and not self._behind:
            self.flush()

    def write(self, line: bytes) -> None:
        """`line` ends with a newline."""
        if len(self._buffer) > self._limit:
            self._drop()
            return
        self._buffer += line
        self.flush()

    def flush(self) -> None:
        """Writes what the reader takes."""
        with self._lock:
            self._behind = not self._send_all()
        if self._behind:
            self._arm(_RETRY_AFTER)
        elif self._unreported:
            number, self._unreported = self._unreported, 0
            if self.on_recovery is not None:
                self.on_recovery(number)

    def close(self) -> None:
        """Writes what is left, as far as the reader takes it within a second."""
        until = time.monotonic() + _CLOSE_WITHIN
        self.flush()
        while self._buffer and (left := until - time.monotonic()) > 0:
            self._outlet.wait(left)
            self.flush()
        if self._timer is not None:
            self._timer.cancel()
        self._outlet.close()

    def _send_all(self) -> bool:
        """False when the reader is behind."""
        buffer = self._buffer
        while buffer:
            piece = bytes(buffer[: self._whole_lines()])
            try:
                sent = self._outlet.send(piece)
            except BlockingIOError:
                return False
            except OSError:  # the reader is gone for good: there is nobody to tell
                sent = len(piece)
            del buffer[:sent]
        return True

    def _whole_lines(self) -> int:
        """How many bytes to write next."""
        piece = self._outlet.piece
        if len(self._buffer) <= piece:
            return len(self._buffer)
        end = self._buffer.rfind(b"\n", 0, piece)
        return (end if end >= 0 else self._buffer.find(b"\n")) + 1

    def _drop(self) -> None:
        self.dropped += 1
        self._unreported += 1

    def _arm(self, delay: float) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # no loop, or a foreign thread: the next line, or `close`, will write
            if not self._behind:
                self.flush()
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer = loop.call_later(delay, self._due)

    def _due(self) -> None:
        self._timer = None
        self.flush()


class _Outlet:
    """A descriptor that can be written to without waiting, and without changing it for the processes that share it: a
    pipe or terminal is opened anew, a socket is asked each time."""

    def __init__(self, descriptor: int) -> None:
        mode = os.fstat(descriptor).st_mode
        regular = stat.S_ISREG(mode)
        self.piece = _FILE_PIECE if regular else PIPE_BUF
        self._descriptor = descriptor
        self._socket = socket.socket(fileno=os.dup(descriptor)) if stat.S_ISSOCK(mode) else None
        self._reopened = None if regular or self._socket else _reopen(descriptor)
        self._ask = not regular and self._socket is None and self._reopened is None

    def send(self, data: bytes) -> int:
        """Raises BlockingIOError when nothing can be written now."""
        if self._socket is not None:
            return self._socket.send(data, socket.MSG_DONTWAIT)
        if self._reopened is not None:
            return os.write(self._reopened, data)
        if self._ask and not self.wait(0.0):
            raise BlockingIOError
        return os.write(self._descriptor, data)

    def wait(self, seconds: float) -> bool:
        """Whether, within that time, something can be written."""
        poll = select.poll()
        poll.register(self._descriptor, select.POLLOUT)
        return bool(poll.poll(seconds * 1000))

    def close(self) -> None:
        if self._socket is not None:
            self._socket.close()
        if self._reopened is not None:
            os.close(self._reopened)


def _reopen(descriptor: int) -> int | None:
    """None where the system or the permissions don't let us: then every write is preceded by a question."""
    try:
        return os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None
