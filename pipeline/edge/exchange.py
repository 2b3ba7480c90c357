"""One prompt: head, body, the shard that it belongs to, decoding, the way through the pipeline, answer."""

import asyncio
from contextlib import suppress
from typing import Protocol, cast

import structlog
from aiohttp import web
from multidict import MultiMapping

from pipeline.core.errors import HeadgateError, ShardLost, StageFailed
from pipeline.core.outcomes import Priority, Reason
from pipeline.core.ticket import Ticket
from pipeline.edge import head
from pipeline.edge.body import BodyReader
from pipeline.edge.call import Call, Response
from pipeline.edge.forward import GRACE, Asked, Forwarded, Peers, Road, Routing, headers_of
from pipeline.edge.relayed import RelayedCall
from pipeline.edge.replies import HttpCall, refusal
from pipeline.edge.sinks import HttpSink
from pipeline.ingress import Ingress, Prompt

_log = structlog.get_logger("headgate.edge")


class Dialect(Protocol):
    """How a prompt is read, and which answer it gets."""

    path: str

    def __call__(self, call: Call, ticket: Ticket, body: bytes) -> tuple[Prompt, HttpSink]:
        """Raises `InvalidRequest`."""
        ...

    def routing(self, headers: MultiMapping[str], body: bytes) -> Routing:
        """Where the request is to go, as far as it says so; what is wrong with it is not judged here. Raises
        `InvalidRequest` for a header that is no session id."""
        ...

    def broken(self, error: HeadgateError) -> bytes:
        """What ends a stream that breaks off."""
        ...


class Exchange:
    """Takes requests of any dialect to their answers. Whatever happens, the ticket that it opens ends."""

    def __init__(self, ingress: Ingress, bodies: BodyReader, peers: Peers) -> None:
        self._ingress = ingress
        self._bodies = bodies
        self._peers = peers

    async def handle(self, call: HttpCall, dialect: Dialect) -> web.StreamResponse:
        """A request over a connection of this process."""
        ingress = self._ingress
        ticket = call.ticket = ingress.open(call.request_id)
        headers = call.headers
        try:
            ticket.caller = ingress.access.caller(head.presented_key(headers))
            ticket.priority = ticket.caller.priority
            ticket.priority = ingress.access.lowered(ticket.caller, head.asked_class(headers))
            body = await self._bodies.read(call.request)
            if ticket.ending is not None and ticket.ending.error is not None:  # meanwhile: the server stops
                response = refusal(call, ticket.ending.error)
            elif self._peers.alone:
                response = await self._serve(call, ticket, body, dialect)
            else:
                response = await self._at_home(call, ticket, body, dialect)
        except BaseException as error:  # noqa: BLE001 - what is not an answer is raised again
            response = self._failed(call, ticket, error)
        finally:
            ticket.sink = None  # the sink knows the ticket: without this every request would be left to the collector
        return cast(web.StreamResponse, response)

    async def relayed(self, call: RelayedCall, dialect: Dialect) -> None:
        """A request that another shard accepted. Never raises but for cancellation: that means that nobody waits for
        the answer."""
        asked = call.asked
        ingress = self._ingress
        ticket = call.ticket = ingress.open(call.request_id, arrived=asked.arrived, accepted_by=call.accepted_by)
        self._peers.served(1)
        try:
            ticket.caller = ingress.access.named(asked.caller)
            ticket.priority = Priority(asked.priority)
            response = await self._serve(call, ticket, asked.body, dialect)
        except BaseException as error:  # noqa: BLE001 - as above
            response = self._failed(call, ticket, error)
        finally:
            self._peers.served(-1)
            ticket.sink = None
        call.finish(response, ticket)

    async def _serve(self, call: Call, ticket: Ticket, body: bytes, dialect: Dialect) -> Response:
        prompt, sink = dialect(call, ticket, body)
        if ticket.caller is not None and ticket.caller.quota is not None:
            lacking = self._ingress.lacking(ticket, prompt)
            if lacking is not None:
                await lacking
        self._ingress.submit(ticket, prompt, sink)
        return await sink.response()

    async def _at_home(self, call: HttpCall, ticket: Ticket, body: bytes, dialect: Dialect) -> Response:
        """Serves it where its session lives: here, or in another shard. One that has just gone is passed over."""
        routing = dialect.routing(call.headers, body)
        while (road := self._peers.road(routing.session_id)) is not None:
            waiting = road.ready()
            if waiting is None:
                return await self._forward(call, ticket, body, dialect, routing, road)
            with suppress(ConnectionError):
                await waiting
        self._peers.served(1)
        try:
            return await self._serve(call, ticket, body, dialect)
        finally:
            self._peers.served(-1)

    async def _forward(  # noqa: PLR0917 - once a request
        self, call: HttpCall, ticket: Ticket, body: bytes, dialect: Dialect, routing: Routing, road: Road
    ) -> Response:
        ingress, caller = self._ingress, ticket.caller
        if caller is None:
            raise StageFailed("The request has no caller")
        ticket.session_id, ticket.stream = routing.session_id, routing.stream  # for the log, should the owner die
        section = ingress.routes.get(routing.model or "")
        if section is not None:
            ingress.route(ticket, section.name)
        timeout = head.timeout(call.headers) if routing.timeout is None else routing.timeout
        forwarded = Forwarded(call, ticket, ingress, dialect.broken)
        forwarded.deadline = ingress.deadline(ticket, timeout, section) + GRACE
        asked = Asked(
            dialect.path,
            call.request_id,
            headers_of(call.headers),
            caller.name,
            ticket.priority,
            ticket.arrived,
            body,
        )
        return await forwarded.response(road, asked)

    def _failed(self, call: Call, ticket: Ticket, error: BaseException) -> Response:
        """The answer to what went wrong; raises what cannot be answered. The ticket has ended either way."""
        ingress = self._ingress
        if isinstance(error, HeadgateError):
            ingress.reject(ticket, error)
            return refusal(call, error)
        if isinstance(error, asyncio.CancelledError | ConnectionError):
            if isinstance(call, RelayedCall) and call.orphaned:
                ingress.reject(ticket, ShardLost("The process that accepted this request has gone"))
            else:
                ingress.cancel(ticket, Reason.SHUTDOWN if call.edge.stopping else Reason.CLIENT_GONE)
            raise error
        if not isinstance(error, Exception):
            raise error
        _log.error("request handler failed", request_id=call.request_id, exc_info=error)
        failed = StageFailed("The server failed on this request")
        failed.__cause__ = error
        ingress.reject(ticket, failed)
        if isinstance(call, RelayedCall):
            return refusal(call, failed)
        raise failed
