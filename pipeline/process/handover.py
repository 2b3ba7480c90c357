"""Idle connections of a process that is being replaced go to the one that takes its place, so that no client finds its
kept-alive connection closed at the moment when it sends the next request.

A connection is a file descriptor, which one process can send another over a Unix socket (SCM_RIGHTS). What its client
has sent and nobody has read yet stays in the kernel and goes with it.
"""

import array
import asyncio
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from pipeline.knowledge.places import private_socket, socket_address

_AT_ONCE = 64  # descriptors in a message; the kernel takes 253


def inbox_path(folder: Path, pid: int) -> Path:
    """Where the process with this id takes connections from the one that it replaces."""
    return folder / f"shard-{pid}.connections"


class Inbox:
    """Takes connections in; `adopt` gets the socket of each."""

    def __init__(self, folder: Path, adopt: Callable[[socket.socket], None]) -> None:
        self._path = inbox_path(folder, os.getpid())
        self._adopt = adopt
        self._loop = asyncio.get_running_loop()
        self._listener = private_socket(self._path, socket.SOCK_SEQPACKET)
        self._listener.setblocking(False)
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for sock in self._open:
            self._loop.remove_reader(sock)
            sock.close()
        self._open.clear()
        self._path.unlink(missing_ok=True)

    def _accept(self) -> None:
        with suppress(BlockingIOError):
            sock, _ = self._listener.accept()
            sock.setblocking(False)
            self._open.append(sock)
            self._loop.add_reader(sock, self._read, sock)

    def _read(self, sock: socket.socket) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(sock, 1, _AT_ONCE)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        for descriptor in descriptors:
            self._adopt(socket.socket(fileno=descriptor))
        if not data:
            self._loop.remove_reader(sock)
            self._open.remove(sock)
            sock.close()


class Outbox:
    """Gives connections away to the process with the id `pid`. Raises OSError when that takes none."""

    def __init__(self, folder: Path, pid: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with socket_address(inbox_path(folder, pid)) as address:
                self._socket.connect(address)
        except OSError:
            self._socket.close()
            raise
        self._socket.setblocking(False)

    def give(self, connections: Iterator[socket.socket]) -> list[socket.socket]:
        """Gives away what it can; returns the connections that could not be given now and are ours again."""
        kept: list[socket.socket] = []
        for sock in connections:
            try:
                self._socket.sendmsg(
                    [b"c"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [sock.fileno()]))]
                )
            except OSError:
                kept.append(sock)
            else:
                sock.close()
        return kept

    def close(self) -> None:
        self._socket.close()
