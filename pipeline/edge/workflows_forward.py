"""Requests for runs that another process executes, from the side of the one that accepted them."""

from http import HTTPStatus
from typing import NamedTuple, cast

from multidict import MultiMapping

from pipeline.core.errors import HeadgateError
from pipeline.core.outcomes import Reason
from pipeline.core.ticket import Ticket
from pipeline.edge.call import Response
from pipeline.edge.forward import Asked, Ended, Forwarded, Road
from pipeline.edge.replies import HttpCall
from pipeline.edge.workflows_calls import READ, Request, Target
from pipeline.ingress import Ingress

HOLDER = "X-Headgate-Holder: "  # of answers between shards
MOVED = HTTPStatus.MISDIRECTED_REQUEST


class Holder(NamedTuple):
    """The process that executes a run (`RunRecord.holder`)."""

    shard: int
    pid: int

    @classmethod
    def of(cls, text: str) -> "Holder | None":
        parts = text.split(":")
        if len(parts) < 2 or not (parts[0].isdigit() and parts[1].isdigit()):
            return None
        return cls(int(parts[0]), int(parts[1]))


class Moved:
    """Not an answer: the process that was asked knows that another one executes the run."""

    def __init__(self, holder: str) -> None:
        self.holder = holder

    def force_close(self) -> None:
        """It is written nowhere."""


async def passed(request: Request, target: Target, road: Road, ingress: Ingress) -> Response | Moved:
    """The answer of the process at the end of `road`. Raises `Overloaded`."""
    call = cast(HttpCall, request.call)
    asked = Asked(
        target.line,
        call.request_id,
        headers_of(call.headers),
        request.caller.name,
        request.priority,
        call.edge.loop.time(),
        request.body,
    )
    server = call.server
    ticket = Ticket(call.request_id, asked.arrived, ended)
    answer = await _Passed(call, ticket, ingress, _nothing).response(road, asked)
    if isinstance(answer, Moved):
        call.server = server
    return answer


class _Passed(Forwarded):
    """Its ticket is a bare one: what is not a prompt is not counted as one."""

    def whole(self, status: int, fields: str, body: bytes, ended: Ended) -> None:
        if status != MOVED:
            super().whole(status, fields, body, ended)
            return
        self._end(ended)
        if not self._over.done():
            self._over.set_result(cast(Response, Moved(fields.removeprefix(HOLDER).strip())))

    def end(self, frames: bytes, ended: Ended) -> None:
        if ended.reason == Reason.CLIENT_GONE and self._reply is not None and not self._over.done():
            self._reply.abort()
        super().end(frames, ended)

    def _took(self, size: int) -> None:
        """Told at once: no more than `UNSENT` is ever on its way."""
        if self._road is not None:
            self._road.credit(self._number, size)


def ended(ticket: Ticket) -> None:
    """What the ingress does for a prompt's ticket, as far as others need it."""
    sink, ticket.sink = ticket.sink, None
    if sink is not None and ticket.ending is not None and ticket.ending.error is not None:
        sink.fail(ticket.ending.error)


def headers_of(headers: MultiMapping[str]) -> list[tuple[str, str]]:
    return [(str(name), value) for name in READ for value in headers.getall(name, [])]


def _nothing(_: HeadgateError) -> bytes:
    """A stream that breaks off just ends: its client comes back for the rest."""
    return b""
