"""The link between the supervisor and a child: a socket pair on which the child says how its start went.

Its end is a message too: a side whose peer is gone reads the end of the stream, however the peer died.
"""

import asyncio
import socket
from collections.abc import Callable

import msgspec

from config.errors import Problem


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The child does its work."""


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The child could not start, and would not if it tried again."""

    message: str


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """The child found the configuration wanting: what only shows once things are built from it."""

    problems: list[Problem]


Message = Ready | Failed | Refused
_decoder = msgspec.json.Decoder(Message)


class ChildLink:
    """The child's end."""

    def __init__(self, descriptor: int) -> None:
        self._socket = socket.socket(fileno=descriptor)

    def send(self, message: Message) -> None:
        """Does nothing when the supervisor is gone."""
        try:
            self._socket.sendall(msgspec.json.encode(message) + b"\n")
        except OSError:
            return

    def on_orphaned(self, callback: Callable[[], None]) -> None:
        """`callback` is called once when the supervisor is gone, from the running event loop."""
        loop = asyncio.get_running_loop()

        def readable() -> None:  # the supervisor never writes: this is the end
            loop.remove_reader(self._socket)
            callback()

        loop.add_reader(self._socket, readable)

    def close(self) -> None:
        self._socket.close()


async def next_message(reader: asyncio.StreamReader) -> Message | None:
    """The supervisor's end: what the child says next, None when it has gone without a word."""
    try:
        line = await reader.readline()
        return _decoder.decode(line) if line else None
    except (OSError, ValueError):  # reset, or half a line: it died while it spoke
        return None
