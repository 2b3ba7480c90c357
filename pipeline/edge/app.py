"""The HTTP server of one shard: its life, and which handler answers what."""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from functools import partial

import structlog
from aiohttp import web

from config.schema import ServerSection
from pipeline.core.errors import Cancelled, HeadgateError, StageFailed
from pipeline.core.outcomes import Reason
from pipeline.core.ports import Operations
from pipeline.edge import head
from pipeline.edge.body import BodyReader
from pipeline.edge.call import Call, Life
from pipeline.edge.errors import UnknownPath, WrongMethod
from pipeline.edge.exchange import Exchange
from pipeline.edge.native import PromptDialect
from pipeline.edge.openai import ChatDialect
from pipeline.edge.openapi import describe
from pipeline.edge.operations import OperationsHandlers
from pipeline.edge.protocol import HEADER_LINES_MAX, LINGER_S, Connection, Limits, Refusal
from pipeline.edge.replies import Reply, refusal
from pipeline.ingress import Ingress

Handler = Callable[[Call], Awaitable[web.StreamResponse]]

MODELS = "/v1/models/"
STOP_GRACE_S = 2.0  # for the last answers to be written

_log = structlog.get_logger("headgate.edge")


class ConnectionServer(web.Server):
    """aiohttp's low-level server with connections of ours: there is no router and no middleware on the way."""

    def __init__(self, handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]], limits: Limits) -> None:
        super().__init__(handler, handler_cancellation=True)
        self._limits = limits

    def __call__(self) -> Connection:
        limits = self._limits
        return Connection(
            self,
            limits,
            loop=self._loop,
            access_log=None,
            keepalive_timeout=limits.idle_seconds,
            max_line_size=limits.head_bytes,
            max_field_size=limits.head_bytes,
            max_headers=HEADER_LINES_MAX,
            lingering_time=LINGER_S,
            auto_decompress=False,
        )

    @property
    def open(self) -> int:
        return len(self._connections)


class EdgeServer:
    """Serves HTTP in front of an ingress. `shard` is shown in every answer.

    start → stop_accepting → drain → stop; the latter are safe to call in any state and more than once.
    """

    def __init__(self, ingress: Ingress, server: ServerSection, operations: Operations, *, shard: int = 0) -> None:
        self._ingress = ingress
        self._section = server
        self._fields = f"X-Headgate-Shard: {shard}\r\nServer: headgate\r\n"
        self._life = Life()
        self._limits = Limits(server)
        self._bodies = BodyReader(server)
        self._new_id = head.request_ids()
        self._handlers = _handlers(ingress, operations, self._bodies)
        self._http: ConnectionServer | None = None
        self._listener: asyncio.Server | None = None
        self._refusals: set[Refusal] = set()

    @property
    def connections(self) -> int:
        """Open now."""
        return (0 if self._http is None else self._http.open) + len(self._refusals)

    async def start(self, sock: socket.socket) -> None:
        """Serves on a bound, listening socket, which other processes may share."""
        if hasattr(socket, "TCP_USER_TIMEOUT") and sock.family in (socket.AF_INET, socket.AF_INET6):
            # Inherited by connections: one whose client acknowledges nothing is given up, also while it closes.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._section.idle_timeout_ms)
        self._http = ConnectionServer(self._dispatch, self._limits)
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(self._connection, sock=sock, backlog=self._section.backlog)

    def stop_accepting(self) -> None:
        if self._listener is not None:
            self._listener.close()

    async def drain(self) -> None:
        """Closes idle connections; open answers go on, and theirs close after them."""
        self._life.draining = True
        if self._http is not None:
            for connection in self._http.connections:
                if isinstance(connection, Connection) and connection.idle:
                    connection.force_close()

    async def stop(self) -> None:
        """Ends what is left: bodies that are still arriving are refused, answers get a moment to be written."""
        self.stop_accepting()
        await self.drain()
        self._life.stopping = True
        self._bodies.interrupt(Cancelled("The server is shutting down", reason=Reason.SHUTDOWN, retry_after=1.0))
        if self._http is not None:
            await self._http.shutdown(STOP_GRACE_S)
        for waiting in tuple(self._refusals):
            waiting.close()

    def _connection(self) -> asyncio.Protocol:
        if self._http is None or self._http.open >= self._limits.connections:
            return Refusal(self._limits, self._refusals, self._count_refused)
        return self._http()

    def _count_refused(self, data: bytes) -> None:
        """A prompt that found no connection is a request like any other, and shed."""
        if data.startswith(b"POST /v1/"):
            self._ingress.reject(self._ingress.open(self._new_id()), self._limits.too_many)

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        request_id = head.request_id(request.headers, self._new_id)
        fields = f"X-Request-Id: {request_id}\r\n{self._fields}"
        trace = head.traceparent(request.headers)
        if trace is not None:
            fields += f"traceparent: {trace}\r\n"
        call = Call(request, request_id, fields, self._section, self._life)
        try:
            handler = self._handlers.get((request.method, request.raw_path)) or self._find(request)
            response = await handler(call)
        except HeadgateError as error:
            response = self._refusal(call, error)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - a bug in one handler is one request's failure, logged and answered
            _log.exception("request handler failed", request_id=request_id)
            response = self._refusal(call, StageFailed("The server failed on this request"))
        if self._life.draining or not request.content.is_eof():
            response.force_close()
        return response

    def _refusal(self, call: Call, error: HeadgateError) -> web.StreamResponse:
        if call.request.writer.output_size > 0:
            raise ConnectionError("a part of another answer has been sent") from error
        return refusal(call, error)

    def _find(self, request: web.BaseRequest) -> Handler:
        """The handler for what is not asked for in the one usual way. Raises `UnknownPath` or `WrongMethod`."""
        path = request.path
        if path.startswith(MODELS) and len(path) > len(MODELS):
            path = MODELS
        allowed = sorted({method for method, served in self._handlers if served == path})
        method = "GET" if request.method == "HEAD" else request.method
        if method in allowed:
            return self._handlers[method, path]
        if "GET" in allowed:
            allowed.append("HEAD")
        allowed.append("OPTIONS")
        if request.method == "OPTIONS" and (len(allowed) > 1 or path == "*"):
            return partial(_options, allowed)
        if len(allowed) == 1:
            raise UnknownPath(f"Unknown URL ({request.method} {path[:256]})")
        raise WrongMethod(f"{request.method} is not allowed on {path[:256]}", allowed=allowed)


def _handlers(ingress: Ingress, operations: Operations, bodies: BodyReader) -> dict[tuple[str, str], Handler]:
    routes = ingress.routes
    exchange = Exchange(ingress, bodies)
    others = OperationsHandlers(operations, routes, describe())
    return {
        ("POST", "/v1/chat/completions"): partial(exchange.handle, dialect=ChatDialect(routes)),
        ("POST", "/v1/prompts"): partial(exchange.handle, dialect=PromptDialect(routes)),
        ("GET", "/v1/models"): others.models,
        ("GET", MODELS): others.model,
        ("GET", "/healthz"): others.health,
        ("GET", "/readyz"): others.ready,
        ("GET", "/metrics"): others.metrics,
        ("GET", "/openapi.json"): others.openapi,
    }


async def _options(allowed: list[str], call: Call) -> web.StreamResponse:
    return Reply(call, b"", f"Allow: {', '.join(allowed)}\r\n", status=204)
