"""One request in the edge's hands, and what the edge as a whole is doing."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Protocol

from multidict import MultiMapping

from config.schema import ServerSection
from pipeline.core.messages import PostOutput
from pipeline.core.ticket import Ticket


class Edge:
    """What all calls share. `draining`: answers say that their connection closes; `stopping`: what ends now, ends
    because of us. `after_answer` is called soon after each answer, once its connection is idle. `loop` is kept because
    until Python 3.12 asking for the running one is a system call."""

    __slots__ = ("after_answer", "draining", "loop", "server", "stopping")

    def __init__(self, server: ServerSection, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.draining = False
        self.stopping = False
        self.after_answer: Callable[[], None] | None = None


class Events(Protocol):
    """A stream of events on its way to the client. The head goes out with the first frames; `fields` are its lines.

    `send` and `end` return what to await when the client must be waited for, else None. They raise ConnectionError
    when it is gone.
    """

    fields: str
    opened: bool

    @property
    def paused(self) -> bool:
        """Whether the client must be waited for."""
        ...

    def send(self, frames: bytes) -> Awaitable[None] | None: ...

    def end(self, frames: bytes) -> Awaitable[None] | None: ...

    def break_off(self, frames: bytes) -> None:
        """`end`, without waiting for a client that may not be reading."""
        ...


class Response(Protocol):
    """An answer, as whoever took the request gets it: written to a connection, or sent to another shard."""

    def force_close(self) -> None: ...


class Call(ABC):
    """`ticket` is the request's where it is a prompt. A request comes over a connection of our own, or from another
    shard; dialects and sinks need not know."""

    __slots__ = ("edge", "headers", "request_id", "ticket")

    def __init__(self, headers: MultiMapping[str], request_id: str, edge: Edge) -> None:
        self.headers = headers
        self.request_id = request_id
        self.edge = edge
        self.ticket: Ticket | None = None

    @property
    @abstractmethod
    def path(self) -> str:
        """What was asked for, without a query: errors look as its dialect has them."""

    @abstractmethod
    def reply(self, body: bytes, fields: str, status: int = 200) -> Response:
        """A complete answer."""

    @abstractmethod
    def events(self) -> Events:
        """An answer that is a stream of events, and a `Response` too."""


def ticket_fields(ticket: Ticket) -> str:
    """Header lines that every answer to a prompt has: the limits of its key and what is left of them, and what the
    request got less of because of the load. Empty where there is nothing of it."""
    fields = f"X-Headgate-Degraded: {', '.join(ticket.reduced)}\r\n" if ticket.reduced else ""
    if ticket.caller is not None and ticket.caller.quota is not None:
        fields += ticket.caller.quota.fields(time.monotonic())
    return fields


def cut_field(message: PostOutput) -> str:
    """The header line that tells what Assemble left out of the prompt; empty when that is nothing."""
    cut = message.before.before.cut
    if not cut:
        return ""
    counts = (("passages", cut.passages), ("turns", cut.turns))
    return f"X-Headgate-Cut: {', '.join(f'{name}={count}' for name, count in counts if count)}\r\n"
