"""Accepting connections one by one, for listeners with TLS.

The event loop's own server tells of a connection with TLS only when its handshake is done: those that never send a byte
could not be counted, and the time they have would be the one at start for as long as the listener is open.
"""

import asyncio
import errno
import socket
from collections.abc import Callable

PAUSE_S = 1.0  # before the next try where the system has nothing left to accept with

_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Acceptor:
    """Gives each connection that `sock` accepts to `arrives`. Owns the socket, which is bound, listening and not
    blocking, and which other processes may share."""

    def __init__(
        self, sock: socket.socket, loop: asyncio.AbstractEventLoop, arrives: Callable[[socket.socket], None]
    ) -> None:
        self._sock = sock
        self._loop = loop
        self._arrives = arrives
        self._pause: asyncio.TimerHandle | None = None
        self._listen()

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()

    def _listen(self) -> None:
        self._pause = None
        self._loop.add_reader(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        """One at a time, as handshakes cost more than being called again: so what comes at once is spread over all
        processes that accept from the same socket."""
        try:
            sock, _ = self._sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):  # another process was quicker, or it left
            return
        except OSError as error:
            if error.errno not in _EXHAUSTED:
                raise
            self._loop.remove_reader(self._sock.fileno())
            self._pause = self._loop.call_later(PAUSE_S, self._listen)
            context = {"message": f"no connection can be accepted for {PAUSE_S:g} s", "exception": error}
            self._loop.call_exception_handler(context)
        else:
            self._arrives(sock)
