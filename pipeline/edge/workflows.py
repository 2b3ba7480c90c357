"""The workflow API: who asks, where the run is executed, what is answered.

What is said to a run (and who watches it) goes to the process that executes it: at first to the shard that owns its
id, as with a session; and where another process holds the run's lease all the same, to that one. Everything else is
answered from the journal, wherever it arrives.
"""

import asyncio
from contextlib import suppress
from typing import cast

import structlog
from aiohttp import web

from pipeline.core.errors import HeadgateError, Overloaded
from pipeline.core.outcomes import Place, Priority, Reason
from pipeline.core.ticket import Ticket
from pipeline.edge import head
from pipeline.edge.body import BodyReader
from pipeline.edge.call import Response
from pipeline.edge.errors import UnknownPath
from pipeline.edge.forward import Peers, Road
from pipeline.edge.relayed import RelayedCall
from pipeline.edge.replies import HttpCall
from pipeline.edge.workflows_answers import Answers
from pipeline.edge.workflows_calls import (
    Request,
    check_charset,
    failed,
    fields,
    idempotency_key,
    methods,
    refusal,
    target,
)
from pipeline.edge.workflows_events import Streams
from pipeline.edge.workflows_forward import HOLDER, MOVED, Holder, Moved, ended, passed
from pipeline.ingress import Ingress
from pipeline.workflow.engine import Elsewhere
from pipeline.workflow.service import Service

_HOPS = 4  # from process to process, before it is given up for now
_ANYWHERE = frozenset({"workflows", "workflow", "register", "validate", "runs", "run", "step"})
_IN_YAML = frozenset({"register", "validate"})  # too
_WITH_QUERY = frozenset({"runs", "events"})

_log = structlog.get_logger("headgate.edge")


class WorkflowHandlers:
    """Without a `service` there are no workflows here, and every path of theirs says so."""

    paths = ("/v1/workflows", "/v1/workflows/", "/v1/runs", "/v1/runs/")

    def __init__(self, service: Service | None, ingress: Ingress, bodies: BodyReader, peers: Peers) -> None:
        self._service = service
        self._ingress = ingress
        self._bodies = bodies
        self._peers = peers
        self._leaving = False
        if service is not None:
            self._answers = Answers(service).of
            self.streams = Streams(service)

    async def handle(self, call: HttpCall) -> web.StreamResponse:
        """A request over a connection of this process."""
        try:
            return cast(web.StreamResponse, await self._handle(call))
        except HeadgateError as error:
            if call.request.writer.output_size > 0:
                raise
            return cast(web.StreamResponse, refusal(call, error))

    async def _handle(self, call: HttpCall) -> Response:
        if call.request.method == "OPTIONS":
            return call.reply(b"", f"Allow: {', '.join(methods(call.request.rel_url.raw_path))}\r\n", 204)
        access, headers = self._ingress.access, call.headers
        service = await self._enabled()
        caller = access.caller(head.presented_key(headers))
        priority = access.lowered(caller, head.asked_class(headers))
        asked = target(call.request.method, call.request.rel_url.raw_path_qs)
        if asked.operation not in _WITH_QUERY:
            fields(asked)
        check_charset(headers)
        wanted = "application/yaml or application/json" if asked.operation in _IN_YAML else "application/json"
        body = await self._bodies.read(call.request, wanted) if asked.method == "POST" else b""
        if asked.operation == "start":
            key = idempotency_key(headers)
            asked = asked.started_as(service.new_id(caller.name, key))
        request = Request(call, caller, priority, asked, body)
        if asked.operation in _ANYWHERE and not self._leaving:
            return await self._answers[asked.operation](request)
        return await self._at_home(request)

    async def relayed(self, call: RelayedCall) -> None:
        """A request that another shard accepted. Never raises but for cancellation, as `Exchange.relayed`.

        It has a task of its own: what drives relayed requests knows futures only, and the engine more than that.
        """
        answering = call.edge.loop.create_task(self._relayed(call))
        try:
            response = await answering
        except asyncio.CancelledError:
            answering.cancel()
            raise
        ticket = Ticket(call.request_id, call.asked.arrived, ended)
        given_up = call.stream is not None and call.stream.aborted
        ticket.end(Reason.CLIENT_GONE if given_up else Reason.DONE, call.edge.loop.time())
        call.finish(response, ticket)

    async def _relayed(self, call: RelayedCall) -> Response:
        asked = call.asked
        try:
            await self._enabled()
            caller = self._ingress.access.named(asked.caller)
            found = target(*asked.path.split(" ", 1), inside=True)
            return await self._here(Request(call, caller, Priority(asked.priority), found, asked.body), own=False)
        except Elsewhere as error:
            return call.reply(b"", f"{HOLDER}{error.holder}\r\n", MOVED)
        except HeadgateError as error:
            return refusal(call, error)
        except ConnectionError:  # nobody waits for the answer any more
            return refusal(call, failed())
        except Exception as error:  # noqa: BLE001 - a bug in one handler is one request's failure, logged and answered
            _log.error("request handler failed", request_id=call.request_id, exc_info=error)
            return refusal(call, failed())

    async def _at_home(self, request: Request) -> Response:
        """Where the run is executed, as far as can be told; told better on the way, it goes on from there."""
        about = request.target.names[0] if request.target.names else request.call.request_id
        road = None if self._peers.alone else await self._road(about)
        for _ in range(_HOPS):
            try:
                if road is None:
                    return await self._here(request, own=True)
                answer = await passed(request, request.target, road, self._ingress)
                if not isinstance(answer, Moved):
                    return answer
                holder, here = answer.holder, True
            except Elsewhere as error:
                holder, here = error.holder, False
            road = await self._to(holder)
            if road is None and not here:
                break
        if request.target.operation == "events":  # the journal can be read anywhere
            return await self._here(request, own=True, alone=True)
        raise _unreachable()

    async def _here(self, request: Request, *, own: bool, alone: bool = False) -> Response:
        """Raises `Elsewhere`."""
        if request.target.operation == "events":
            return await self.streams.answer(request, here=alone, own=own)
        return await self._answers[request.target.operation](request)

    async def _road(self, about: str) -> Road | None:
        """To the shard that owns the run, or whatever it is; None: here. One that has just gone is passed over."""
        while (road := self._peers.road(about)) is not None:
            waiting = road.ready()
            if waiting is None:
                return road
            with suppress(ConnectionError):
                await waiting
        return None

    async def _to(self, holder: str) -> Road | None:
        """To the process that holds a run's lease; None where that is this one, or has gone."""
        known = Holder.of(holder)
        road = None if known is None else self._peers.process(known.pid, known.shard)
        if road is None:
            return None
        try:
            if (waiting := road.ready()) is not None:
                await waiting
        except ConnectionError:
            return None
        return road

    async def _enabled(self) -> Service:
        """Raises `UnknownPath`, `JournalFailed`."""
        if self._service is None:
            raise UnknownPath("Workflows are not enabled on this server (workflows.enabled)")
        await self._service.check()
        return self._service

    # Ends.

    def leave(self) -> None:
        """The process goes, and its journal before it: what others can answer they do from now on."""
        self._leaving = True
        if self._service is not None:
            self.streams.leave()

    def close(self) -> None:
        if self._service is not None:
            self.streams.close()


def _unreachable() -> Overloaded:
    return Overloaded(
        "The process that executes this run cannot be reached now; try again later",
        place=Place.INGRESS.label,
        reason=Reason.DRAINING,
        retry_after=1.0,
    )
