"""The HTTP server behind one of the admin API's listeners."""

import asyncio
import socket
import ssl

import structlog
from aiohttp import web

from config.schema import ServerSection
from pipeline.core.errors import HeadgateError
from pipeline.edge.body import BodyReader
from pipeline.edge.protocol import ConnectionServer, Limits, Refusal
from pipeline.process.admin_errors import AdminError, Unserved
from pipeline.process.admin_http import Call, Guard, Router, body_of, failure, is_change, reply

MAX_BODY_BYTES = 2 << 20  # a route may bring a template of 1 MiB
CONNECTIONS = 256  # the supervisor needs its descriptors for other things as well
_LIMITS = ServerSection(
    max_connections=CONNECTIONS,
    max_body_bytes=MAX_BODY_BYTES,
    head_timeout_ms=5_000,
    body_timeout_ms=10_000,
    idle_timeout_ms=30_000,
)
_HANDSHAKE_S = 5.0
_STOP_GRACE_S = 1.0  # for answers that are being written

log = structlog.get_logger()


class Listener:
    """Serves `router`'s endpoints; where there is a `guard`, to those that it lets through."""

    def __init__(self, router: Router, guard: Guard | None = None, limits: ServerSection = _LIMITS) -> None:
        self._router = router
        self._guard = guard
        self._limits = Limits(limits)
        self._bodies = BodyReader(limits)
        self._http = ConnectionServer(self._handle, self._limits, None)
        self._refusals: set[Refusal] = set()
        self._server: asyncio.Server | None = None
        self._scheme = "http"

    async def start(self, sock: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """On a socket that is bound."""
        loop = asyncio.get_running_loop()
        self._scheme = "http" if tls is None else "https"
        timeout = None if tls is None else _HANDSHAKE_S
        if sock.family is socket.AF_UNIX:
            self._server = await loop.create_unix_server(self._connection, sock=sock)
        else:
            self._server = await loop.create_server(self._connection, sock=sock, ssl=tls, ssl_handshake_timeout=timeout)

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        self._http.pre_shutdown()
        await self._http.shutdown(_STOP_GRACE_S)
        for waiting in tuple(self._refusals):
            waiting.close()

    def _connection(self) -> asyncio.Protocol:
        if self._http.open >= self._limits.connections:
            return Refusal(self._limits, self._refusals, lambda _: None)
        return self._http()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            response = await self._answer(request)
        except AdminError as error:
            response = self._refusal(request, error)
        except HeadgateError as error:
            response = self._refusal(request, Unserved(error))
        except ConnectionError:
            raise
        except Exception:
            log.exception("admin call failed", method=request.method, path=request.raw_path[:200])
            response = failure(AdminError("internal_error", "The daemon failed on this call; its log says more"))
        response.headers.update({"Server": "headgate", "Cache-Control": "no-store"})
        if not request.content.is_eof() or request.content.exception() is not None:
            response.force_close()
        return response

    def _refusal(self, request: web.BaseRequest, error: AdminError) -> web.Response:
        if is_change(request.method):
            said = {"method": request.method[:20], "path": request.raw_path[:200]}
            log.info("admin_refused", **said, status=error.status, because=error.message)
        return failure(error)

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if self._guard is not None:
            self._guard.check(request.headers, self._scheme)
        endpoint, name = self._router.find(request.method, request.rel_url.raw_path)
        body = body_of(await self._bodies.read(request), request.headers)
        return reply(await endpoint(Call(name, request.query, request.headers, body)))
