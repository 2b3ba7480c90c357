"""The HTTP server of one shard."""

import asyncio
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from config.schema import ServerSection
from pipeline.core.errors import Cancelled
from pipeline.core.outcomes import Reason
from pipeline.core.ports import Operations
from pipeline.edge import head
from pipeline.edge.accepting import Acceptor
from pipeline.edge.body import BodyReader
from pipeline.edge.call import Edge
from pipeline.edge.dialects import dialects
from pipeline.edge.dispatch import ANY, Dispatcher, Handler
from pipeline.edge.exchange import Dialect, Exchange
from pipeline.edge.forward import Alone, Asked, Peers
from pipeline.edge.gate import HeadGate
from pipeline.edge.messages_tokens import TokenCounter
from pipeline.edge.openapi import describe
from pipeline.edge.operations import OperationsHandlers
from pipeline.edge.protocol import LINGER_S, Connection, ConnectionServer, Limits, Refusal
from pipeline.edge.relayed import Back, RelayedCall
from pipeline.edge.workflows import WorkflowHandlers
from pipeline.ingress import Ingress
from pipeline.workflow.service import Service
from workers.tokens import estimate

FIRST_REQUEST_GRACE_S = 0.25  # at drain, for connections that were made just before
_CLOSING_S = 0.002  # a turn of the event loop or two
STOP_GRACE_S = 1.0  # for the last answers to be written
_NO_PROMPTS = (b"POST /v1/workflows", b"POST /v1/runs")


class EdgeServer:
    """Serves HTTP in front of an ingress; to be made on its event loop. `shard` is shown in every answer; without
    `head_gate` every request is read before it is refused; without `workflows` there are none.

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
        peers: Peers | None = None,
        workflows: Service | None = None,
    ) -> None:
        self._ingress = ingress
        self._peers = peers = peers or Alone()
        self._edge = Edge(server, asyncio.get_running_loop())
        self._limits = Limits(server)
        self._bodies = BodyReader(server)
        self._new_id = head.request_ids()
        self._exchange = Exchange(ingress, self._bodies, peers)
        self._dialects = dialects(ingress.routes)
        counter = TokenCounter(ingress, self._bodies, estimate)
        self._workflows = WorkflowHandlers(workflows, ingress, self._bodies, peers)
        handlers = {
            **_handlers(ingress, operations, self._exchange, self._dialects, counter),
            **{(ANY, path): self._workflows.handle for path in self._workflows.paths},
        }
        self._gate: HeadGate | None = None
        if head_gate:
            self._gate = HeadGate(ingress, server, self._dialects, self._new_id, shard=shard, peers=peers)
        dispatcher = Dispatcher(self._edge, handlers, self._new_id, shard=shard)
        self._http = ConnectionServer(dispatcher, self._limits, self._gate)
        self._tls: ssl.SSLContext | None = None
        self._listener: asyncio.Server | Acceptor | None = None
        self._backlog: socket.socket | None = None
        self._arriving: set[asyncio.Task[object]] = set()
        self._moving = 0  # connections given away that still count as open
        self._refusals: set[Refusal] = set()

    @property
    def connections(self) -> int:
        """Open now, those whose TLS is still being agreed on among them."""
        return self._http.open + len(self._refusals) + len(self._arriving)

    async def start(self, sock: socket.socket, ssl_context: ssl.SSLContext | None = None) -> None:
        """Serves on a bound, listening socket, which other processes may share; with a context, by TLS only."""
        server = self._edge.server
        self._tls = ssl_context
        sock.setblocking(False)
        self._backlog = sock.dup()
        _limit_silence(sock, server)
        loop = self._edge.loop
        if ssl_context is not None:
            self._listener = Acceptor(sock, loop, self._arrives)
        else:
            self._listener = await loop.create_server(self._connection, sock=sock, backlog=server.backlog)

    def reconfigure(self, server: ServerSection) -> None:
        """Takes over the section's limits of heads, bodies, connections and times. Answers that are under way keep
        theirs, and so do open connections where it is about idle time and single header lines."""
        self._edge.server = server
        self._limits.configure(server)
        self._bodies.configure(server)
        if self._gate is not None:
            self._gate.configure(server)
        if self._backlog is not None:
            _limit_silence(self._backlog, server)

    def relayed(
        self, number: int, asked: Asked, accepted_by: int, back: Back
    ) -> tuple[RelayedCall, Coroutine[Any, Any, None]]:
        """A request that another shard accepted, and its handling (see `Exchange.relayed`)."""
        call = RelayedCall(number, asked, accepted_by, back, self._edge)
        dialect = self._dialects.get(asked.path)
        return call, self._workflows.relayed(call) if dialect is None else self._exchange.relayed(call, dialect)

    def adopt(self, sock: socket.socket) -> None:
        """Goes on with a connection that another process has surrendered."""
        self._arrives(sock, moved=True)

    def surrender(self) -> Iterator[socket.socket]:
        """The sockets of connections on which nothing is under way, each to be taken on by another process: what is
        done with it here, to the socket's other owner, is nothing. Connections with TLS cannot move."""
        for connection in list(self._http.connections):
            if isinstance(connection, Connection) and (sock := connection.surrender()) is not None:
                yield sock

    @property
    def secure(self) -> bool:
        return self._tls is not None

    def after_answer(self, callback: Callable[[], None] | None) -> None:
        """`callback` is called soon after each answer from now on, when its connection is idle."""
        self._edge.after_answer = callback

    def say_goodbye(self) -> None:
        """Answers tell from now on that their connection closes."""
        self._edge.draining = True

    def leave(self) -> None:
        """Accepts no more; what the kernel has made already others accept. Who watches a run is to come back."""
        self._workflows.leave()
        if self._listener is not None and self._backlog is not None:
            self._listener.close()
            self._backlog.close()
        self._listener = self._backlog = None

    def stop_accepting(self) -> None:
        """Takes in the connections that the kernel has made already, which would be reset, and no more."""
        if self._listener is None or self._backlog is None:
            return
        self._listener.close()
        with suppress(BlockingIOError), self._backlog as backlog:
            while True:
                self._arrives(backlog.accept()[0])
        self._listener = self._backlog = None

    async def drain(self) -> None:
        """Closes idle connections; open answers go on, but for those that could go on for days, and theirs close after
        them. A connection that has brought no request yet gets a moment to do so: its client may be about to."""
        self._edge.draining = True
        self._workflows.leave()
        await self._arrived()
        self._close_idle(fresh=False)
        if any(self._idle(fresh=True)):
            await asyncio.sleep(FIRST_REQUEST_GRACE_S)
            self._close_idle(fresh=True)

    async def _arrived(self) -> None:
        """Handshakes that are under way get a moment as well."""
        if arriving := set(self._arriving):
            _, late = await asyncio.wait(arriving, timeout=FIRST_REQUEST_GRACE_S)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)

    def _arrives(self, sock: socket.socket, *, moved: bool = False) -> None:
        if self._tls is not None and len(self._arriving) >= self._limits.connections:
            sock.close()  # without TLS there is nothing to say it by
            return
        sock.setblocking(False)
        task = self._edge.loop.create_task(self._take_in(sock, moved=moved))
        self._arriving.add(task)
        task.add_done_callback(self._arriving.discard)

    async def _take_in(self, sock: socket.socket, *, moved: bool) -> None:
        """With TLS, only once that is agreed on. Who fails at it, or takes longer than for a head, is closed: it would
        not understand an answer."""
        loop, tls = self._edge.loop, self._tls
        handshake, shutdown = (None, None) if tls is None else (self._limits.head_seconds, LINGER_S)
        made = partial(self._connection, moved=moved)
        with suppress(OSError):
            await loop.connect_accepted_socket(
                made, sock, ssl=tls, ssl_handshake_timeout=handshake, ssl_shutdown_timeout=shutdown
            )

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
        self._workflows.close()
        await self.drain()
        self._edge.stopping = True
        self._bodies.interrupt(Cancelled("The server is shutting down", reason=Reason.SHUTDOWN, retry_after=1.0))
        await self._http.shutdown(STOP_GRACE_S)
        for waiting in tuple(self._refusals):
            waiting.close()

    def _connection(self, *, moved: bool = False) -> asyncio.Protocol:
        """`moved`: another process has given it to us."""
        if self._http.open >= self._limits.connections:
            return Refusal(self._limits, self._refusals, self._count_refused)
        connection = self._http()
        if not (moved or self._peers.alone or self.secure):
            connection.made = self._settle
        return connection

    def _settle(self, connection: Connection) -> None:
        """A new connection goes to the shard that has fewest: whose process the kernel wakes first is left to chance,
        and a client may keep it for good."""
        give = self._peers.roomier(self._http.open - self._moving)
        sock = None if give is None else connection.surrender()
        if give is None or sock is None:
            return
        self._moving += 1  # until the loop has told the connection that it is closed
        self._edge.loop.call_later(_CLOSING_S, self._moved)
        if not give(sock):
            self.adopt(sock)

    def _moved(self) -> None:
        self._moving -= 1

    def _count_refused(self, data: bytes) -> None:
        """A prompt that found no connection is a request like any other, and shed."""
        if data.startswith(b"POST /v1/") and not data.startswith(_NO_PROMPTS):
            self._ingress.reject(self._ingress.open(self._new_id()), self._limits.too_many)


def _limit_silence(sock: socket.socket, server: ServerSection) -> None:
    """For all connections that the socket accepts: one whose client acknowledges nothing is given up, also while it
    closes."""
    if hasattr(socket, "TCP_USER_TIMEOUT") and sock.family in (socket.AF_INET, socket.AF_INET6):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, server.idle_timeout_ms)


def _handlers(
    ingress: Ingress,
    operations: Operations,
    exchange: Exchange,
    dialects: Mapping[str, Dialect],
    counter: TokenCounter,
) -> dict[tuple[str, str], Handler]:
    others = OperationsHandlers(operations, ingress, describe())
    return {
        **{("POST", path): partial(exchange.handle, dialect=dialect) for path, dialect in dialects.items()},
        ("POST", counter.path): counter.handle,
        ("GET", "/v1/models"): others.models,
        ("GET", "/v1/models/"): others.model,
        ("GET", "/healthz"): others.health,
        ("GET", "/readyz"): others.ready,
        ("GET", "/metrics"): others.metrics,
        ("GET", "/openapi.json"): others.openapi,
    }
