"""One HTTP request in the edge's hands, and what the edge as a whole is doing."""

import asyncio
import time

from aiohttp import web

from config.schema import ServerSection
from pipeline.core.messages import PostOutput
from pipeline.core.ticket import Ticket


class Edge:
    """What all calls share. `draining`: answers say that their connection closes; `stopping`: what ends now, ends
    because of us. `loop` is kept because until Python 3.12 asking for the running one is a system call."""

    __slots__ = ("draining", "loop", "server", "stopping")

    def __init__(self, server: ServerSection, loop: asyncio.AbstractEventLoop) -> None:
        self.server = server
        self.loop = loop
        self.draining = False
        self.stopping = False


class Call:
    """`fields` are the header lines that the answer has in any case, `ticket` the request's where it is a prompt."""

    __slots__ = ("edge", "fields", "request", "request_id", "ticket")

    def __init__(self, request: web.BaseRequest, request_id: str, fields: str, edge: Edge) -> None:
        self.request = request
        self.request_id = request_id
        self.fields = fields
        self.edge = edge
        self.ticket: Ticket | None = None


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
