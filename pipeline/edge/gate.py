"""The head gate: under pressure, refuses prompts that nothing could admit before anything else is done for them.

It reads the bytes of a head before the HTTP parser does, and only of heads in the one usual shape. Whatever is unusual
it leaves to the parser and the ordinary path, where all that it lets through goes anyway: so it can be strict and need
not know everything. What it refuses gets the answer that the ordinary path would give.
"""

import re
import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

from aiohttp import hdrs
from aiohttp.helpers import rfc822_formatted_time
from multidict import CIMultiDict, istr

from config.schema import ServerSection
from pipeline.core.access import Caller
from pipeline.core.errors import InvalidRequest, Overloaded
from pipeline.edge import head
from pipeline.edge.error_bodies import error_body, tells_request
from pipeline.edge.errors import error_fields
from pipeline.edge.forward import Peers
from pipeline.edge.replies import JSON_FIELD
from pipeline.ingress import Ingress

ROUTE = istr("X-Headgate-Route")
LINES_MAX = 100  # of a head; more are for the parser to judge
BODY_MAX = 65_536  # bytes; the rest of a body that is larger is not waited for
_BODIES_MAX = 64  # of answers, kept encoded
_DIGITS_MAX = 12
_CONNECTIONS = ("", "keep-alive", "close")

_UNUSUAL = (hdrs.CONTENT_ENCODING, hdrs.TRANSFER_ENCODING, hdrs.UPGRADE)

_fields = re.compile(
    # The official clients send a dozen fields of their own, which need not be compared with every name.
    r"\r\n(?!x-stainless-)("
    r"authorization|con(?:nection|tent-(?:encoding|length))|expect|host|tra(?:ceparent|nsfer-encoding)|upgrade"
    r"|x-(?:api-key|headgate-(?:class|route)|request-(?:id|timeout-ms)|session-id)"
    r"):[ ]*([ -~]*)",
    re.IGNORECASE,
).findall


class Refused(NamedTuple):
    """`answer` is what to write. `missing` bytes of the request's body are still to come. Where `keep` is false the
    answer says that the connection closes."""

    answer: bytes
    missing: int
    keep: bool


class HeadGate:
    """Serves all connections of an edge. `paths` are those of prompts; `shard` is shown in every answer. What is to be
    served by one of `peers` is for that one to judge."""

    def __init__(
        self,
        ingress: Ingress,
        server: ServerSection,
        paths: Iterable[str],
        new_id: Callable[[], str],
        *,
        shard: int,
        peers: Peers,
    ) -> None:
        self.ingress = ingress
        self._peers = peers
        self.configure(server)
        self._new_id = new_id
        self._rest = f"X-Headgate-Shard: {shard}\r\nServer: headgate\r\n"
        self._bodies: dict[str, bytes] = {}
        # Nothing but what every parser takes for the same head; what may be HTTP beyond that is left to ours.
        line = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++:[ -~]*+(?<! )\r\n"
        head_of_prompt = rf"POST ({'|'.join(map(re.escape, paths))}) HTTP/1\.1\r\n(?:{line}){{1,{LINES_MAX}}}+\r\n"
        self._match = re.compile(head_of_prompt.encode()).match

    def configure(self, server: ServerSection) -> None:
        self._head_max = server.max_head_bytes
        self._body_max = server.max_body_bytes

    def refuse(self, data: bytes) -> Refused | None:
        """The answer to a request that begins with `data`, and is counted herewith; None: it is for the parser."""
        arrived = time.monotonic()
        match = self._match(data)
        if match is None or match.end() > self._head_max or self.ingress.draining:
            return None
        end = match.end()
        headers = CIMultiDict(_fields(data[:end].decode("ascii")))
        plain = self._plain(headers, len(data) - end)
        if plain is None:
            return None
        try:
            caller = self.ingress.access.caller(head.presented_key(headers))
            error = self._refusal(headers, caller)
        except InvalidRequest:  # the ordinary path will say so
            return None
        if error is None:
            return None
        request_id = head.request_id(headers, self._new_id)
        self.ingress.count_gated(error, arrived, request_id)
        fields = "" if caller.quota is None else caller.quota.fields(arrived)
        fields += f"X-Request-Id: {request_id}\r\n{self._rest}"
        if (trace := head.traceparent(headers)) is not None:
            fields += f"traceparent: {trace}\r\n"
        missing, keep = plain
        body = self._body(match[1].decode(), error, request_id)
        return Refused(self._answer(error, body, fields, keep=keep), missing, keep)

    def _plain(self, headers: CIMultiDict[str], received: int) -> tuple[int, bool] | None:
        """How much is missing where `received` bytes came after the head, and whether the connection can go on after
        the answer; None for a request that is unusual."""
        length, connection = _one(headers, hdrs.CONTENT_LENGTH), _one(headers, hdrs.CONNECTION).lower()
        if not length.isdigit() or len(length) > _DIGITS_MAX or len(headers.getall(hdrs.HOST, ())) != 1:
            return None
        missing = int(length) - received
        if missing < 0 or int(length) > self._body_max or any(name in headers for name in _UNUSUAL):
            return None
        if connection not in _CONNECTIONS:
            return None
        keep = connection != "close" and missing <= BODY_MAX
        if hdrs.EXPECT in headers:
            if _one(headers, hdrs.EXPECT).lower() != "100-continue":
                return None
            keep = keep and not missing  # nobody knows whether its client will still send the body
        return missing, keep

    def _refusal(self, headers: CIMultiDict[str], caller: Caller) -> Overloaded | None:
        """Raises `InvalidRequest`."""
        priority = self.ingress.access.lowered(caller, head.asked_class(headers))
        session = head.session_id(headers)
        head.timeout(headers)
        route = _one(headers, ROUTE) or None
        if route is not None and caller.routes is not None and route not in caller.routes:
            return None
        if not self._peers.alone and self._peers.road(session) is not None:
            return None
        return self.ingress.gate(route, priority, session, caller)

    def _body(self, path: str, error: Overloaded, request_id: str) -> bytes:
        if tells_request(path):
            return error_body(path, error, request_id)
        body = self._bodies.get(error.message)
        if body is None:
            if len(self._bodies) >= _BODIES_MAX:
                self._bodies.clear()
            body = self._bodies[error.message] = error_body(path, error, request_id)
        return body

    def _answer(self, error: Overloaded, body: bytes, fields: str, *, keep: bool) -> bytes:
        """The bytes of the `Reply` that the ordinary path would give."""
        connection = "" if keep else "Connection: close\r\n"
        lines = (
            f"HTTP/1.1 503 Service Unavailable\r\n{JSON_FIELD}{error_fields(error)}Content-Length: {len(body)}\r\n"
            f"{fields}Date: {rfc822_formatted_time()}\r\n{connection}\r\n"
        )
        return lines.encode() + body


def _one(headers: CIMultiDict[str], name: str) -> str:
    """A field's value; empty where it is not there, and where it is there twice what is no valid value of any."""
    value = headers.get(name)
    if value is None:
        return ""
    values = headers.getall(name)
    return value if len(values) == 1 else ", ".join(values)
