"""The worker for servers of our own protocol, `worker.proto`, in any language; `workers.grpc_server` serves it."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import Any

from config.schema import GrpcWorker
from workers.answer import Answer
from workers.base import DeltaBatch, EmbeddingRequest, Embeddings, GenerationRequest, Health
from workers.errors import WorkerError, WorkerErrorKind
from workers.grpc_wire import (
    FAILURE_KEY,
    HEALTH,
    SERVICE,
    Code,
    batches_from,
    count_from,
    description_from,
    embed_to,
    error_from,
    health_from,
    request_to,
    vectors_from,
)

# isort: split
# After `grpc_wire`, which says so when the package is missing.
from grpc import aio

from workers.grpc_link import Connection

_HEALTH_TIME = 2.0
_SHORTEST_SECRET = 8


class Grpc:
    """A replica at `target`. `resolve` turns a secret's reference into the secret."""

    def __init__(self, section: GrpcWorker, target: str, *, resolve: Callable[[str], str]) -> None:
        self._model = section.model
        api_key = None if section.api_key is None else resolve(section.api_key)
        self._metadata = () if api_key is None else (("authorization", f"Bearer {api_key}"),)
        self._sendable = api_key is None or _sendable(api_key)
        self._secrets = (api_key,) if api_key is not None and len(api_key) >= _SHORTEST_SECRET else ()
        self._connection = Connection(
            target,
            tls=section.tls,
            ca_file=section.ca_file,
            connect_timeout=section.connect_timeout_ms / 1000,
        )
        self._describes = True  # as far as is known

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        data = request_to(request, self._model)
        answer = Answer(request)
        async with self._call("Generate", data, request.request_id) as call:
            while True:
                with self._failures():
                    message = await call.read()
                if message is aio.EOF:
                    break
                turn = False
                for part in batches_from(message):
                    if turn:  # others may have theirs in between
                        await asyncio.sleep(0)
                    turn = True
                    batch = answer.take(part)
                    if batch is not None:
                        yield batch
        if answer.missing():
            raise WorkerError(WorkerErrorKind.CUT, "the backend's stream ended before the answer did", retryable=True)
        last = answer.end()
        if last is not None:
            yield last

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """Raises `WorkerError` of kind `bad_request` where the backend cannot embed."""
        try:
            reply = await self._ask("Embed", embed_to(request, self._model), request.request_id)
        except _UnimplementedError as error:
            raise WorkerError(WorkerErrorKind.BAD_REQUEST, "the worker cannot embed") from error
        embeddings = vectors_from(reply)
        if len(embeddings.vectors) != len(request.inputs):
            found = f"{len(embeddings.vectors)} vectors for {len(request.inputs)} inputs"
            raise WorkerError(WorkerErrorKind.PROTOCOL, f"the backend's answer is malformed: {found}")
        return embeddings

    async def count_tokens(self, request: GenerationRequest) -> int | None:
        try:
            return count_from(await self._ask("CountTokens", request_to(request, self._model), request.request_id))
        except _UnimplementedError:
            return None

    async def health(self) -> Health:
        """By the health service, for the server as a whole; a server without one is well when it answers."""
        try:
            async with asyncio.timeout(_HEALTH_TIME):
                return await self._look()
        except TimeoutError:
            return Health(ok=False, detail=f"no answer within {_HEALTH_TIME:g} s")
        except WorkerError as error:
            return Health(ok=False, detail=error.message)

    async def aclose(self) -> None:
        await self._connection.aclose()

    async def _look(self) -> Health:
        with contextlib.suppress(_UnimplementedError):
            health = health_from(await self._ask("Check", b"", service=HEALTH))
            if not health.ok:
                return health
        if self._describes:
            try:
                return description_from(await self._ask("Describe", b""))
            except _UnimplementedError:
                self._describes = False
        return Health(ok=True)

    async def _ask(self, method: str, data: bytes, request_id: str | None = None, service: str = SERVICE) -> bytes:
        """One message for one message. Raises `WorkerError`, `_UnimplementedError` where there is no such method."""
        async with self._call(method, data, request_id, service, streams=False) as call:
            with self._failures():
                reply: bytes = await call
                return reply

    @contextlib.asynccontextmanager
    async def _call(
        self, method: str, data: bytes, request_id: str | None, service: str = SERVICE, *, streams: bool = True
    ) -> AsyncIterator[Any]:
        """A call under way. Leaving the block before it is over cancels it, which the backend is told at once."""
        if not self._sendable:
            raise WorkerError(WorkerErrorKind.UNREACHABLE, "cannot call the backend: its api_key cannot be sent")
        metadata = self._metadata
        if request_id is not None and _sendable(request_id):
            metadata = (*metadata, ("x-request-id", request_id))
        path = f"/{service}/{method}"
        async with self._connection.open() as channel:
            kind = channel.unary_stream if streams else channel.unary_unary
            with self._failures():
                call = kind(path)(data, metadata=metadata)
            try:
                yield call
            finally:
                call.cancel()

    @contextlib.contextmanager
    def _failures(self) -> Iterator[None]:
        """Turns what gRPC raises into `WorkerError`."""
        try:
            yield
        except aio.AioRpcError as error:
            raise self._error(error) from None  # whose text has addresses in it
        except asyncio.CancelledError:
            if self._connection.closed and not _cancelled():
                raise WorkerError(WorkerErrorKind.RESET, "the worker was closed during the call") from None
            raise
        except aio.UsageError:
            raise WorkerError(WorkerErrorKind.UNREACHABLE, "the worker is closed") from None

    def _error(self, error: aio.AioRpcError) -> WorkerError:
        trailers = error.trailing_metadata()
        failure = trailers.get(FAILURE_KEY) if trailers is not None else None
        code = error.code()
        told = error_from(code, error.details() or "", failure if isinstance(failure, bytes) else None, self._secrets)
        return _UnimplementedError(told) if code is Code.UNIMPLEMENTED else told


class _UnimplementedError(WorkerError):
    """The backend does not have a method."""

    def __init__(self, told: WorkerError) -> None:
        super().__init__(told.kind, told.message, retryable=told.retryable)


def _sendable(value: str) -> bool:
    """Whether metadata can hold it."""
    return value.isascii() and value.isprintable()


def _cancelled() -> bool:
    """Whether it is the task that is to end, and not only the call."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
