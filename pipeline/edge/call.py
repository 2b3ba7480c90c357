"""One HTTP request in the edge's hands, and what the edge as a whole is doing."""

import asyncio

from aiohttp import web

from config.schema import ServerSection
from pipeline.core.messages import PostOutput


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
    """`fields` are the header lines that the answer has in any case."""

    __slots__ = ("edge", "fields", "request", "request_id")

    def __init__(self, request: web.BaseRequest, request_id: str, fields: str, edge: Edge) -> None:
        self.request = request
        self.request_id = request_id
        self.fields = fields
        self.edge = edge


def cut_field(message: PostOutput) -> str:
    """The header line that tells what Assemble left out of the prompt; empty when that is nothing."""
    cut = message.before.before.cut
    if not cut:
        return ""
    counts = (("passages", cut.passages), ("turns", cut.turns))
    return f"X-Headgate-Cut: {', '.join(f'{name}={count}' for name, count in counts if count)}\r\n"
