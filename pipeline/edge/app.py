"""The HTTP server of one shard."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import suppress
from functools import partial

from config.schema import ServerSection
from pipeline.core.errors import Cancelled
from pipeline.core.outcomes import Reason
from pipeline.core.ports import Operations
from pipeline.edge import head
from pipeline.edge.body import BodyReader
from pipeline.edge.call import Edge
from pipeline.edge.dispatch import Dispatcher, Handler
from pipeline.edge.exchange import Exchange
from pipeline.edge.gate import HeadGate
from pipeline.edge.native import PromptDialect
from pipeline.edge.openai import ChatDialect
from pipeline.edge.openapi import describe
from pipeline.edge.operations import OperationsHandlers
from pipeline.edge.protocol import Connection, ConnectionServer, Limits, Refusal
from pipeline.ingress import Ingress

FIRST_REQUEST_GRACE_S = 0.25  # at drain, for connections that were made just before
STOP_GRACE_S = 1.0  # for the last answers to be written
CHAT = "/v1/chat/completions"
PROMPTS = "/v1/prompts"
PROMPT_PATHS = (CHAT, PROMPTS)


class EdgeServer:
    """Serves HTTP in front of an ingress; to be made on its event loop. `shard` is shown in every answer; without
    `head_gate` every request is read before it is refused.

    start → stop_accepting → drain → stop; the latter three may be called in any state and more than once.
    """

    def __init__(
        self,
        ingress: Ingress,
        server: ServerSection,
        operations: Operations,
        *,
        shard: int = 0,
        head_gate: bool = True,
    ) -> None:
        self._ingress = ingress
        self._edge = Edge(server, asyncio.get_running_loop())
        self._limits = Limits(server)
        self._bodies = BodyReader(server)
        self._new_id = head.request_ids()
        handlers = _handlers(ingress, operations, self._bodies)
        gate = HeadGate(ingress, server, PROMPT_PATHS, self._new_id, shard=shard) if head_gate else None
        self._http = ConnectionServer(Dispatcher(self._edge, handlers, self._new_id, shard=shard), self._limits, gate)
        self._listener: asyncio.Server | None = None
        self._backlog: socket.socket | None = None
        self._arriving: set[asyncio.Task[object]] = set()
        self._refusals: set[Refusal] = set()

    @property
    def connections(self) -> int:
        """Open now."""
        return self._http.open + len(self._refusals)

    async def start(self, sock: socket.socket) -> None:
        """Serves on a bound, listening socket, which other processes may share."""
        server = self._edge.server
        if hasattr(socket, "TCP_USER_TIMEOUT") and sock.family in (socket.AF_INET, socket.AF_INET6):
            # Inherited by connections: one whose client acknowledges nothing is given up, also while it closes.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, server.idle_timeout_ms)
        self._backlog = sock.dup()
        self._listener = await self._edge.loop.create_server(self._connection, sock=sock, backlog=server.backlog)

    def stop_accepting(self) -> None:
        """Takes in the connections that the kernel has made already, which would be reset, and no more."""
        if self._listener is None or self._backlog is None:
            return
        self._listener.close()
        with suppress(BlockingIOError), self._backlog as backlog:
            while True:
                accepted, _ = backlog.accept()
                task = self._edge.loop.create_task(self._edge.loop.connect_accepted_socket(self._connection, accepted))
                self._arriving.add(task)
        self._listener = self._backlog = None

    async def drain(self) -> None:
        """Closes idle connections; open answers go on, and theirs close after them. A connection that has brought no
        request yet gets a moment to do so: its client may be about to."""
        self._edge.draining = True
        await asyncio.gather(*self._arriving, return_exceptions=True)
        self._arriving.clear()
        self._close_idle(fresh=False)
        if any(self._idle(fresh=True)):
            await asyncio.sleep(FIRST_REQUEST_GRACE_S)
            self._close_idle(fresh=True)

    def _close_idle(self, *, fresh: bool) -> None:
        for connection in list(self._idle(fresh=fresh)):
            connection.force_close()

    def _idle(self, *, fresh: bool) -> Iterator[Connection]:
        """Connections without a request under way; `fresh` are those that have never had one."""
        for connection in self._http.connections:
            if isinstance(connection, Connection) and connection.idle and connection.fresh is fresh:
                yield connection

    async def stop(self) -> None:
        """Ends what is left: bodies that are still arriving are refused, answers get a moment to be written."""
        self.stop_accepting()
        await self.drain()
        self._edge.stopping = True
        self._bodies.interrupt(Cancelled("The server is shutting down", reason=Reason.SHUTDOWN, retry_after=1.0))
        await self._http.shutdown(STOP_GRACE_S)
        for waiting in tuple(self._refusals):
            waiting.close()

    def _connection(self) -> asyncio.Protocol:
        if self._http.open >= self._limits.connections:
            return Refusal(self._limits, self._refusals, self._count_refused)
        return self._http()

    def _count_refused(self, data: bytes) -> None:
        """A prompt that found no connection is a request like any other, and shed."""
        if data.startswith(b"POST /v1/"):
            self._ingress.reject(self._ingress.open(self._new_id()), self._limits.too_many)


def _handlers(ingress: Ingress, operations: Operations, bodies: BodyReader) -> dict[tuple[str, str], Handler]:
    routes = ingress.routes
    exchange = Exchange(ingress, bodies)
    others = OperationsHandlers(operations, ingress, describe())
    return {
        ("POST", CHAT): partial(exchange.handle, dialect=ChatDialect(routes)),
        ("POST", PROMPTS): partial(exchange.handle, dialect=PromptDialect(routes)),
        ("GET", "/v1/models"): others.models,
        ("GET", "/v1/models/"): others.model,
        ("GET", "/healthz"): others.health,
        ("GET", "/readyz"): others.ready,
        ("GET", "/metrics"): others.metrics,
        ("GET", "/openapi.json"): others.openapi,
    }
