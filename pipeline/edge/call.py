"""One HTTP request in the edge's hands, and what the edge as a whole is doing."""

from aiohttp import web

from config.schema import ServerSection
from pipeline.core.messages import PostOutput


class Life:
    """`draining`: answers say that their connection closes; `stopping`: what ends now, ends because of us."""

    __slots__ = ("draining", "stopping")

    def __init__(self) -> None:
        self.draining = False
        self.stopping = False


class Call:
    """`fields` are the header lines that the answer has in any case."""

    __slots__ = ("fields", "life", "request", "request_id", "server")

    def __init__(
        self, request: web.BaseRequest, request_id: str, fields: str, server: ServerSection, life: Life
    ) -> None:
        self.request = request
        self.request_id = request_id
        self.fields = fields
        self.server = server
        self.life = life


def cut_field(message: PostOutput) -> str:
    """The header line that tells what Assemble left out of the prompt; empty when that is nothing."""
    cut = message.before.before.cut
    if not cut:
        return ""
    counts = (("passages", cut.passages), ("turns", cut.turns))
    return f"X-Headgate-Cut: {', '.join(f'{name}={count}' for name, count in counts if count)}\r\n"
