"""Serves a worker to Headgate from a process of its own, over `worker.proto`.

from workers.grpc_server import run

run(MyWorker(), "127.0.0.1:50051")
"""

import asyncio
import contextlib
import hmac
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

import structlog

from workers.base import CountingWorker, EmbeddingWorker
from workers.errors import WorkerError, WorkerErrorKind
from workers.grpc_wire import (
    FAILURE_KEY,
    MAX_MESSAGE,
    SERVICE,
    Code,
    batch_to,
    count_to,
    description_to,
    embed_from,
    failure_to,
    request_from,
    vectors_to,
)

# isort: split
# After `grpc_wire`, which says so when the package is missing.
import grpc
import uvloop
from grpc import aio
from grpc_health.v1 import health, health_pb2, health_pb2_grpc  # type: ignore[import-untyped]

from workers import worker_pb2 as pb
from workers.python_adapter import adapted

_log = structlog.get_logger("headgate.workers")

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.so_reuseport", 0),  # else a second server on the same port would get every other connection
    # Our own side asks for a sign of life every 30 s; by default a server hangs up on who asks so often.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
]


def run(worker: Any, address: str, **options: Any) -> None:
    """Serves until SIGTERM or Ctrl-C, in an event loop of its own. `options` are those of `serve`."""
    uvloop.run(serve(worker, address, **options))


async def serve(
    worker: Any,
    address: str,
    *,
    token: str | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
    grace: float = 30.0,
    announce: Callable[[str], None] | None = print,
) -> None:
    """Serves until SIGTERM or SIGINT; calls under way may then finish within `grace` seconds, or until a second signal.

    `worker` is a `ModelWorker`, or an object as workers of kind `python` are made of. `address` is host:port (0: any
    free port) or unix:/path. With `token` callers have to send it (the `api_key` of the worker's section), with
    `certificate` and `key`, PEM files, they speak TLS. `announce` is told where it serves.

    Raises OSError when it cannot serve there.
    """
    async with serving(worker, address, token=token, certificate=certificate, key=key) as server:
        if announce is not None:
            announce(f"Serving {type(worker).__name__} on {server.address}")
        async with _signals() as signals:
            await signals.get()
            ending = asyncio.create_task(server.stop(grace))
            hurry = asyncio.create_task(signals.get())
            await asyncio.wait([ending, hurry], return_when=asyncio.FIRST_COMPLETED)
            hurry.cancel()
            if not ending.done():
                await server.stop(0.0)
            await ending


@contextlib.asynccontextmanager
async def serving(
    worker: Any,
    address: str,
    *,
    token: str | None = None,
    certificate: str | Path | None = None,
    key: str | Path | None = None,
) -> AsyncIterator["WorkerServer"]:
    """A server as by `serve`, until the block is left; what is then under way ends."""
    server = WorkerServer(worker, token)
    await server.start(address, certificate, key)
    try:
        yield server
    finally:
        await server.stop(0.0)


class WorkerServer:
    """One worker, served. `address` is where."""

    def __init__(self, worker: Any, token: str | None) -> None:
        self.address = ""
        self._closed = False
        self._worker = adapted(worker, type(worker).__name__)
        self._token = None if token is None else f"Bearer {token}".encode()
        self._server = aio.server(options=_OPTIONS)
        self._health = _Health(self._worker)
        unary = grpc.unary_unary_rpc_method_handler
        methods: dict[str, Any] = {
            "Generate": grpc.unary_stream_rpc_method_handler(self._generate, pb.GenerateRequest.FromString),
            "Describe": unary(self._describe, pb.DescribeRequest.FromString),
        }
        if isinstance(self._worker, EmbeddingWorker):
            methods["Embed"] = unary(self._embed, pb.EmbedRequest.FromString)
        if isinstance(self._worker, CountingWorker):
            methods["CountTokens"] = unary(self._count, pb.GenerateRequest.FromString)
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, methods),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)

    async def start(self, address: str, certificate: str | Path | None, key: str | Path | None) -> None:
        """Raises OSError."""
        try:
            if certificate is None or key is None:
                port = self._server.add_insecure_port(address)
            else:
                port = self._server.add_secure_port(address, _credentials(certificate, key))
        except RuntimeError as error:
            raise OSError(f"cannot serve on {address}") from error
        await self._server.start()
        host = address.rpartition(":")[0]
        self.address = address if host == "unix" else f"{host}:{port}"

    async def stop(self, grace: float) -> None:
        """No new calls; those under way may finish within `grace` seconds. May be called again, to hurry."""
        await self._health.enter_graceful_shutdown()
        await self._server.stop(grace)
        if not self._closed:
            self._closed = True
            await self._worker.aclose()

    async def _generate(self, data: Any, context: Any) -> None:
        async def write() -> None:
            async with aclosing(self._worker.generate(request_from(data))) as batches:
                async for batch in batches:
                    await context.write(batch_to(batch))

        await self._answered(context, write)

    async def _embed(self, data: Any, context: Any) -> Any:
        async def reply() -> bytes:
            return vectors_to(await cast(EmbeddingWorker, self._worker).embed(embed_from(data)))

        return await self._answered(context, reply)

    async def _count(self, data: Any, context: Any) -> Any:
        async def reply() -> bytes:
            return count_to(await cast(CountingWorker, self._worker).count_tokens(request_from(data)))

        return await self._answered(context, reply)

    async def _describe(self, _: Any, context: Any) -> Any:
        async def reply() -> bytes:
            return description_to(await self._worker.health())

        return await self._answered(context, reply)

    async def _answered(self, context: Any, work: Callable[[], Awaitable[Any]]) -> Any:
        """One call: who may make it, and how it ends. A caller that leaves cancels it."""
        if not self._known(context):
            await context.abort(Code.UNAUTHENTICATED, "the token is missing or wrong")
        try:
            return await work()
        except aio.BaseError:  # the caller has left while something was on its way to it
            return None
        except WorkerError as raised:
            error = raised
        except Exception as raised:  # noqa: BLE001 - a mistake of ours
            _log.error("call_failed", exc_info=raised)
            error = WorkerError(WorkerErrorKind.UNAVAILABLE, f"the worker failed: {type(raised).__name__}")
        code, message, failure = failure_to(error)
        context.set_trailing_metadata(((FAILURE_KEY, failure),))
        return await context.abort(code, message)

    def _known(self, context: Any) -> bool:
        if self._token is None:
            return True
        given = dict(context.invocation_metadata() or ()).get("authorization", "")
        return isinstance(given, str) and hmac.compare_digest(given.encode(), self._token)


class _Health(health.aio.HealthServicer):  # type: ignore[misc]
    """Tells what the worker tells of itself at that moment."""

    def __init__(self, worker: Any) -> None:
        super().__init__()
        self._worker = worker

    async def Check(self, request: Any, context: Any) -> Any:  # noqa: N802 - its name in the protocol
        well = (await self._worker.health()).ok
        names = health_pb2.HealthCheckResponse.ServingStatus
        for service in ("", SERVICE):
            await self.set(service, names.SERVING if well else names.NOT_SERVING)
        return await super().Check(request, context)


def _credentials(certificate: str | Path, key: str | Path) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(Path(key).read_bytes(), Path(certificate).read_bytes())])


@contextlib.asynccontextmanager
async def _signals() -> AsyncIterator["asyncio.Queue[int]"]:
    """SIGTERM and SIGINT as they come, in place of what they do else."""
    heard: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, heard.put_nowait, int(number))
    try:
        yield heard
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
