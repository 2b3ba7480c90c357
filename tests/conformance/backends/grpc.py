"""A server of our own protocol, from `workers/worker.proto` alone: none of what serves it in `workers` is used.

A small proxy stands before it, so that a connection can be reset as by the death of a process.
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from grpc import (
    StatusCode,
    aio,
    method_handlers_generic_handler,
    ssl_server_credentials,
    unary_stream_rpc_method_handler,
    unary_unary_rpc_method_handler,
)
from grpc_health.v1 import health_pb2

from config.schema import AnyWorker
from tests.certificates import Files
from tests.conformance.backends.own_words import batches_of, heard_of
from tests.conformance.backends.speaker import (
    KEY,
    SECRET,
    Dies,
    Endless,
    Ends,
    ErrorInside,
    Fault,
    Feature,
    Finish,
    Health,
    Heard,
    Refuses,
    Rejected,
    Script,
    Served,
    Stalls,
    built,
    given,
    until,
)
from workers import worker_pb2 as pb
from workers.base import ChatMessage, DeltaBatch, GenerationRequest, ModelWorker, Parameters
from workers.errors import WorkerErrorKind as Kind

_CODES = {
    Kind.RATE_LIMITED: StatusCode.RESOURCE_EXHAUSTED,
    Kind.AUTH: StatusCode.PERMISSION_DENIED,
    Kind.BAD_REQUEST: StatusCode.INVALID_ARGUMENT,
    Kind.TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
}
_LATER = {Kind.RATE_LIMITED, Kind.OVERLOADED, Kind.UNAVAILABLE, Kind.TIMEOUT}
_UNKNOWN_FIELD = b"\xa2\x06\x03new"  # number 100, of a version that is yet to come


class GrpcServed:
    """What `Served` promises. `open` counts calls."""

    worker: ModelWorker

    def __init__(self) -> None:
        self.script = Script()
        self.fault: Fault | None = None
        self.health: Health = "well"
        self.heard: list[Heard] = []
        self.rejected: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.open = 0
        self.sent = 0
        self.proxy = _Proxy()

    async def until(self, condition: Callable[[], bool], limit: float = 5.0) -> None:
        await until(condition, limit)

    async def generate(self, asked: Any, context: Any) -> None:
        self.open += 1
        try:
            await self._answer(asked, context)
        except aio.AbortError:
            raise
        except aio.BaseError:
            pass  # the caller has left
        finally:
            self.open -= 1

    async def check(self, _: Any, context: Any) -> Any:
        match self.health:
            case "hanging":
                await asyncio.Event().wait()
            case "missing":
                await context.abort(StatusCode.UNIMPLEMENTED, "no health service")
            case "down":
                return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.NOT_SERVING)
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    async def _answer(self, asked: Any, context: Any) -> None:
        headers = dict(context.invocation_metadata())
        self.headers.append(headers)
        if headers.get("authorization") != f"Bearer {SECRET}":
            await context.abort(StatusCode.UNAUTHENTICATED, "no credentials")
        try:
            heard = heard_of(_request(asked))
        except Rejected as why:
            self.rejected.append(str(why))
            await context.abort(StatusCode.INVALID_ARGUMENT, f"rejected: {why}")
        self.heard.append(heard)
        batches = batches_of(msgspec.structs.replace(self.script, n=heard.n))
        match self.fault:
            case Refuses(kind, words, _, retry_after):
                await _fail(context, kind, words, retry_after)
            case Endless():
                while True:
                    await self._send(batches[:-2], context)
            case ErrorInside(kind, after, words):
                await self._send(batches[:after], context)
                await _fail(context, kind, words)
            case Ends(after):
                await self._send(batches[:after], context)
            case Stalls(after):
                await self._send(batches[:after], context)
                await asyncio.Event().wait()
            case Dies(after):
                await self._send(batches[:after], context)
                self.proxy.reset()
                await asyncio.Event().wait()
            case None:
                await self._send(batches, context)
            case fault:
                raise AssertionError(fault)

    async def _send(self, batches: list[DeltaBatch], context: Any) -> None:
        for batch in batches:
            data = _batch(batch).SerializeToString() + (_UNKNOWN_FIELD if self.script.unknown else b"")
            await context.write(data)
            self.sent += len(data)


async def _fail(context: Any, kind: Kind, words: str, retry_after: float | None = None) -> None:
    failure = pb.Failure(kind=kind.value, message=words, retryable=kind in _LATER, retry_after=retry_after)
    context.set_trailing_metadata((("headgate-failure-bin", failure.SerializeToString()),))
    await context.abort(_CODES.get(kind, StatusCode.UNAVAILABLE), words)


def _batch(batch: DeltaBatch) -> Any:
    usage = batch.usage
    return pb.Batch(
        deltas=[pb.Delta(text=d.text, index=d.index, finish_reason=d.finish_reason, raw=d.raw) for d in batch.deltas],
        usage=usage
        and pb.Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
        ),
    )


def _request(asked: Any) -> GenerationRequest:
    given = asked.parameters
    parameters = {
        name: getattr(given, name) for name in ("max_tokens", "temperature", "top_p", "seed") if given.HasField(name)
    }
    messages = tuple([ChatMessage(one.role, one.text, one.raw) for one in asked.messages])
    return GenerationRequest(
        asked.request_id,
        asked.session_id or None,
        asked.model,
        messages,
        Parameters(**parameters, stop=tuple(given.stop), n=given.n or 1),
        asked.stream,
        body=asked.body,
    )


class _Proxy:
    """Passes bytes between its own port and the server's."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._clients: set[asyncio.StreamWriter] = set()

    async def open(self, port: int) -> int:
        self._port = port
        self._server = await asyncio.start_server(self._connection, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    def reset(self) -> None:
        for writer in self._clients:
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def close(self) -> None:
        self._server.close()
        for writer in self._clients:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._clients.add(writer)
        there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pass(reader, to_there))
                both.create_task(_pass(there, writer))
        except* OSError:
            pass
        finally:
            self._clients.discard(writer)
            self._tasks.discard(task)
            to_there.transport.abort()
            writer.transport.abort()


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
        await writer.drain()
    raise ConnectionResetError


class GrpcSpeaker:
    kind = "grpc"
    http = False
    refuses: ClassVar[frozenset[Feature]] = frozenset()
    ignores: ClassVar[frozenset[Feature]] = frozenset()
    lacks: ClassVar[frozenset[Feature]] = frozenset()
    never: ClassVar[frozenset[Kind]] = frozenset()
    reasons: ClassVar[Mapping[str, Finish]] = {
        "stop": "stop",
        "length": "length",
        "tool_calls": "tool_calls",
        "content_filter": "content_filter",
    }

    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        return given("grpc", target=address, **({"tls": True} if scheme == "https" else {}), **fields)

    @asynccontextmanager
    async def serving(self, folder: Path, *, tls: Files | None = None, **fields: Any) -> AsyncIterator[Served]:
        served = GrpcServed()
        before = asyncio.all_tasks()
        server = aio.server()
        server.add_generic_rpc_handlers(
            (
                method_handlers_generic_handler(
                    "headgate.worker.v1.Worker",
                    {"Generate": unary_stream_rpc_method_handler(served.generate, pb.GenerateRequest.FromString)},
                ),
                method_handlers_generic_handler(
                    "grpc.health.v1.Health",
                    {
                        "Check": unary_unary_rpc_method_handler(
                            served.check,
                            health_pb2.HealthCheckRequest.FromString,
                            health_pb2.HealthCheckResponse.SerializeToString,
                        )
                    },
                ),
            )
        )
        if tls is None:
            port = server.add_insecure_port("127.0.0.1:0")
        else:
            pair = ssl_server_credentials([(tls.key.read_bytes(), tls.certificate.read_bytes())])
            port = server.add_secure_port("127.0.0.1:0", pair)
        await server.start()
        front = await served.proxy.open(port)
        host, scheme = ("127.0.0.1", "http") if tls is None else ("localhost", "https")
        served.worker = built(self.section(f"{host}:{front}", scheme=scheme, **{"api_key": KEY, **fields}))
        try:
            yield served
        finally:
            await served.worker.aclose()
            await server.stop(0)
            await served.proxy.close()
            with suppress(TimeoutError):  # what is left then, the suite complains of
                await until(lambda: all(task.done() for task in asyncio.all_tasks() - before))


SPEAKER = GrpcSpeaker()
