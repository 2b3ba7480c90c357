"""One prompt over HTTP: head, body, decoding, the way through the pipeline, answer."""

import asyncio
from collections.abc import Callable

import structlog
from aiohttp import web

from pipeline.core.errors import HeadgateError, StageFailed
from pipeline.core.outcomes import Reason
from pipeline.core.ticket import Ticket
from pipeline.edge import head
from pipeline.edge.body import BodyReader
from pipeline.edge.call import Call
from pipeline.edge.replies import refusal
from pipeline.edge.sinks import HttpSink
from pipeline.ingress import Ingress, Prompt

Dialect = Callable[[Call, Ticket, bytes], tuple[Prompt, HttpSink]]

_log = structlog.get_logger("headgate.edge")


class Exchange:
    """Takes requests of any dialect to their answers. Whatever happens, the ticket that it opens ends."""

    def __init__(self, ingress: Ingress, bodies: BodyReader) -> None:
        self._ingress = ingress
        self._bodies = bodies

    async def handle(self, call: Call, dialect: Dialect) -> web.StreamResponse:
        ingress = self._ingress
        ticket = call.ticket = ingress.open(call.request_id)
        headers = call.request.headers
        try:
            ticket.caller = ingress.access.caller(head.presented_key(headers))
            ticket.priority = ticket.caller.priority
            ticket.priority = ingress.access.lowered(ticket.caller, head.asked_class(headers))
            body = await self._bodies.read(call.request)
            if ticket.ending is not None and ticket.ending.error is not None:  # meanwhile: the server stops
                return refusal(call, ticket.ending.error)
            prompt, sink = dialect(call, ticket, body)
            ingress.submit(ticket, prompt, sink)
            return await sink.response()
        except HeadgateError as error:
            ingress.reject(ticket, error)
            return refusal(call, error)
        except (asyncio.CancelledError, ConnectionError):
            ingress.cancel(ticket, Reason.SHUTDOWN if call.edge.stopping else Reason.CLIENT_GONE)
            raise
        except Exception as error:
            _log.exception("request handler failed", request_id=call.request_id)
            failed = StageFailed("The server failed on this request")
            failed.__cause__ = error
            ingress.reject(ticket, failed)
            raise failed from error
        finally:
            ticket.sink = None  # the sink knows the ticket: without this every request would be left to the collector
