"""`worker.proto` in terms of `workers.base`, and gRPC's status codes in terms of `workers.errors`; both ways, no I/O.

Sources: gRPC, "Status codes and their use in gRPC", "gRPC Health Checking Protocol".
"""

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from workers.base import (
    ChatMessage,
    Delta,
    DeltaBatch,
    EmbeddingRequest,
    Embeddings,
    GenerationRequest,
    Health,
    Parameters,
    Passage,
    Usage,
)
from workers.errors import WorkerError, WorkerErrorKind, WorkerUnavailable
from workers.openai_dialect import encode_request

# What gRPC's core writes to standard error by itself is not in the form of our log, and names addresses.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
try:
    import grpc
    from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]

    from workers import worker_pb2 as pb
except Exception as _missing:  # protobuf refuses generated code that is newer than itself by an error of its own
    raise WorkerUnavailable(
        "kind", f"the packages for gRPC cannot be used ({_missing})", "pip install 'headgate[grpc]'"
    ) from _missing

SERVICE = "headgate.worker.v1.Worker"
HEALTH = "grpc.health.v1.Health"
FAILURE_KEY = "headgate-failure-bin"
MAX_MESSAGE = 64 << 20  # bytes
_TOGETHER = 256  # deltas, at most, of which one batch is made: a millisecond
_MAX_TOLD = 500  # characters of the other side's own words
_MAX_WAIT = 86_400.0  # seconds

Code = grpc.StatusCode
Kind = WorkerErrorKind

_KINDS: dict[Any, tuple[WorkerErrorKind, bool]] = {
    Code.INVALID_ARGUMENT: (Kind.BAD_REQUEST, False),
    Code.NOT_FOUND: (Kind.BAD_REQUEST, False),
    Code.ALREADY_EXISTS: (Kind.BAD_REQUEST, False),
    Code.OUT_OF_RANGE: (Kind.BAD_REQUEST, False),
    Code.FAILED_PRECONDITION: (Kind.UNAVAILABLE, False),
    Code.UNAUTHENTICATED: (Kind.AUTH, False),
    Code.PERMISSION_DENIED: (Kind.AUTH, False),
    Code.RESOURCE_EXHAUSTED: (Kind.RATE_LIMITED, True),
    Code.DEADLINE_EXCEEDED: (Kind.TIMEOUT, True),
    Code.UNIMPLEMENTED: (Kind.PROTOCOL, False),
}
_CODES: dict[WorkerErrorKind, Any] = {
    Kind.RATE_LIMITED: Code.RESOURCE_EXHAUSTED,
    Kind.OVERLOADED: Code.UNAVAILABLE,
    Kind.CONTEXT_TOO_LONG: Code.INVALID_ARGUMENT,
    Kind.BAD_REQUEST: Code.INVALID_ARGUMENT,
    Kind.AUTH: Code.FAILED_PRECONDITION,  # its credentials for somebody else, not those of the call
    Kind.TIMEOUT: Code.DEADLINE_EXCEEDED,
    Kind.CONTENT_FILTERED: Code.INVALID_ARGUMENT,
    Kind.PROTOCOL: Code.INTERNAL,
    Kind.CUT: Code.DATA_LOSS,
}
# How gRPC's core says that the connection is what failed; it has no code of its own for that.
_NO_CONNECTION = (
    ("errors resolving", "its name does not resolve"),
    ("DNS resolution failed", "its name does not resolve"),
    ("andshake", "no valid TLS"),
    ("CERTIFICATE", "no valid TLS"),
    ("security", "no valid TLS"),
    ("HTTP/2", "it does not speak gRPC"),
    ("SETTINGS", "it does not speak gRPC"),
    ("onnection refused", "Connection refused"),
    ("imed out", "timed out"),
    ("failed to connect", "none of its addresses answers"),
)
_BROKEN = ("Socket closed", "onnection reset", "GOAWAY", "Broken pipe", "eepalive", "ping timeout", "Stream removed",
           "Cancelling all calls", "Endpoint closing", "Transport closed", "transport closed", "recvmsg")  # fmt: skip


def request_to(request: GenerationRequest, model: str | None) -> bytes:
    """A `GenerateRequest`. Raises `WorkerError` where the client's body is not JSON, a number in it has no place there,
    or it is too much."""
    parameters = request.parameters
    body = _body_to(request, model)
    return _bounded(
        lambda: pb.GenerateRequest(
            request_id=request.request_id,
            session_id=request.session_id or "",
            model=model or request.model,
            messages=[pb.Message(role=one.role, text=one.text, raw=one.raw) for one in request.messages],
            parameters=pb.Parameters(
                max_tokens=parameters.max_tokens,
                temperature=parameters.temperature,
                top_p=parameters.top_p,
                stop=parameters.stop,
                n=parameters.n,
                seed=parameters.seed,
            ),
            stream=request.stream,
            passages=[
                pb.Passage(text=one.text, source=one.source, position=one.position, score=one.score, title=one.title)
                for one in request.passages
            ],
            body=body,
        )
    )


def _body_to(request: GenerationRequest, model: str | None) -> bytes:
    """The client's body with the model's name and the limits of `parameters`, and without the messages, which are in
    the request once already."""
    if not request.body:
        return b""
    plain = msgspec.structs.replace(request, messages=(), rewritten=True)
    fields = msgspec.json.decode(encode_request(plain, model=model, ask_usage=False), type=dict[str, msgspec.Raw])
    del fields["messages"]
    return msgspec.json.encode(fields)


def request_from(data: Any) -> GenerationRequest:
    """From a `GenerateRequest`."""
    given = data.parameters
    parameters = Parameters(
        given.max_tokens if given.HasField("max_tokens") else None,
        given.temperature if given.HasField("temperature") else None,
        given.top_p if given.HasField("top_p") else None,
        tuple(given.stop),
        given.n or 1,
        given.seed if given.HasField("seed") else None,
    )
    return GenerationRequest(
        data.request_id,
        data.session_id or None,
        data.model,
        tuple([ChatMessage(one.role, one.text, one.raw) for one in data.messages]),
        parameters,
        data.stream,
        tuple([Passage(one.text, one.source, one.position, one.score, one.title) for one in data.passages]),
        data.body,
    )


def batch_to(batch: DeltaBatch) -> bytes:
    """A `Batch`. Raises `WorkerError` when it is too much."""

    def made() -> Any:
        deltas = [
            pb.Delta(text=one.text, index=one.index, finish_reason=one.finish_reason, raw=one.raw)
            for one in batch.deltas
        ]
        return pb.Batch(deltas=deltas, usage=_usage_to(batch.usage), body=batch.body)

    return _bounded(made, Kind.PROTOCOL)


def batches_from(data: bytes) -> Iterator[DeltaBatch]:
    """From a `Batch`, cut into some that each take little time. Raises `WorkerError`."""
    batch = _read(pb.Batch, data)
    last = max(0, len(batch.deltas) - 1) // _TOGETHER * _TOGETHER
    for at in range(0, last, _TOGETHER):
        yield DeltaBatch(_deltas_from(batch.deltas[at : at + _TOGETHER]))
    yield DeltaBatch(_deltas_from(batch.deltas[last:]), _usage_from(batch), batch.body)


def _deltas_from(messages: Iterable[Any]) -> tuple[Delta, ...]:
    return tuple(
        [
            Delta(one.text, one.index, one.finish_reason if one.HasField("finish_reason") else None, one.raw)
            for one in messages
        ]
    )


def embed_to(request: EmbeddingRequest, model: str | None) -> bytes:
    """An `EmbedRequest`. Raises `WorkerError` when it is too much."""
    return _bounded(
        lambda: pb.EmbedRequest(
            request_id=request.request_id,
            model=model or request.model,
            inputs=[pb.Input(text=one) if isinstance(one, str) else pb.Input(tokens=one) for one in request.inputs],
            dimensions=request.dimensions,
            purpose=request.purpose,
        )
    )


def embed_from(data: Any) -> EmbeddingRequest:
    """From an `EmbedRequest`."""
    inputs = tuple([tuple(one.tokens) if one.tokens else one.text for one in data.inputs])
    purpose = data.purpose if data.purpose in ("query", "document") else None
    return EmbeddingRequest(data.request_id, data.model, inputs, data.dimensions or None, purpose)


def vectors_to(embeddings: Embeddings) -> bytes:
    """An `EmbedReply`."""
    return _bounded(
        lambda: pb.EmbedReply(
            vectors=[pb.Vector(values=one) for one in embeddings.vectors], usage=_usage_to(embeddings.usage)
        ),
        Kind.PROTOCOL,
    )


def vectors_from(data: bytes) -> Embeddings:
    """From an `EmbedReply`. Raises `WorkerError`."""
    reply = _read(pb.EmbedReply, data)
    return Embeddings(tuple([tuple(one.values) for one in reply.vectors]), _usage_from(reply))


def count_to(tokens: int | None) -> bytes:
    """A `CountReply`."""
    data: bytes = pb.CountReply(tokens=tokens).SerializeToString()
    return data


def count_from(data: bytes) -> int | None:
    """From a `CountReply`. Raises `WorkerError`."""
    reply = _read(pb.CountReply, data)
    return reply.tokens if reply.HasField("tokens") else None


def description_to(health: Health) -> bytes:
    """A `Description`."""
    data: bytes = pb.Description(slots=health.slots, context_tokens=health.context_tokens).SerializeToString()
    return data


def description_from(data: bytes) -> Health:
    """What a `Description` adds to a worker that is well. Raises `WorkerError`."""
    told = _read(pb.Description, data)
    return Health(ok=True, slots=told.slots or None, context_tokens=told.context_tokens or None)


def health_from(data: bytes) -> Health:
    """From a `HealthCheckResponse`. Raises `WorkerError`."""
    status = _read(health_pb2.HealthCheckResponse, data).status
    names = health_pb2.HealthCheckResponse.ServingStatus
    ok = status == names.SERVING
    return Health(ok, "" if ok else f"it says that it is {names.Name(status) if status in names.values() else status}")


def failure_to(error: WorkerError) -> tuple[Any, str, bytes]:
    """Status code, words and `Failure` for a call that ends with `error`."""
    message = told(error.message)
    retry_after = error.retry_after
    failure = pb.Failure(kind=error.kind, message=message, retryable=error.retryable, retry_after=retry_after)
    return _CODES.get(error.kind, Code.UNAVAILABLE), message, failure.SerializeToString()


def error_from(code: Any, words: str, failure: bytes | None, secrets: Sequence[str] = ()) -> WorkerError:
    """The error for a call that ended with a status other than OK. `failure` is the `Failure` that came with it."""
    if failure is not None:
        detailed = _detailed(failure, secrets)
        if detailed is not None:
            return detailed
    local = _local(code, words)
    if local is not None:
        return local
    kind, retryable = _KINDS.get(code, (Kind.UNAVAILABLE, True))
    name = code.name if isinstance(code, Code) else str(code)
    if kind is Kind.AUTH:
        return WorkerError(kind, f"the backend answered {name} to our credentials")  # its words may repeat them
    said = told(words, secrets)
    return WorkerError(kind, f"the backend answered {name}{said and f': {said}'}", retryable=retryable)


def _detailed(data: bytes, secrets: Sequence[str]) -> WorkerError | None:
    try:
        failure = pb.Failure.FromString(data)
    except Exception:  # noqa: BLE001 - a trailer of somebody else's; code and words are still there
        return None
    kind = Kind(failure.kind) if failure.kind in set(Kind) else Kind.UNAVAILABLE
    wait = failure.retry_after if failure.HasField("retry_after") else math.nan
    said = "" if kind is Kind.AUTH else told(failure.message, secrets)
    return WorkerError(
        kind,
        f"the worker says: {said}" if said else f"the worker reports {kind.value.replace('_', ' ')}",
        retryable=failure.retryable and not kind.of_request,
        retry_after=min(max(0.0, wait), _MAX_WAIT) if math.isfinite(wait) else None,
    )


def _local(code: Any, words: str) -> WorkerError | None:
    """What never reached the other side, or never came back. The words are gRPC's own, and name addresses."""
    if code is Code.UNAVAILABLE:
        if words.startswith(("failed to connect", "errors resolving", "DNS resolution")):
            reason = next(reason for part, reason in _NO_CONNECTION if part in words)
            return WorkerError(Kind.UNREACHABLE, f"cannot connect to the backend: {reason}", retryable=True)
        if any(part in words for part in _BROKEN):
            return WorkerError(Kind.RESET, "the connection to the backend broke", retryable=True)
    if code is Code.RESOURCE_EXHAUSTED and "larger than max" in words:
        if words.startswith(("CLIENT: Sent", "SERVER: Received")):
            return WorkerError(Kind.BAD_REQUEST, "the request is larger than the worker takes")
        return WorkerError(Kind.PROTOCOL, f"a message of the worker's answer is larger than {MAX_MESSAGE} bytes")
    return None


def told(message: str, secrets: Sequence[str] = ()) -> str:
    """Somebody's words on one line, cut, without secrets."""
    for secret in secrets:
        message = message.replace(secret, "[secret]")
    message = " ".join(message.split())
    return message if len(message) <= _MAX_TOLD else message[: _MAX_TOLD - 1] + "…"


def _bounded(make: Callable[[], Any], kind: WorkerErrorKind = Kind.BAD_REQUEST) -> bytes:
    """`kind` tells whose fault it is when there is no such message."""
    try:
        data: bytes = make().SerializeToString()
    except (ValueError, TypeError, OverflowError) as error:  # a number out of range, half a surrogate pair
        raise WorkerError(kind, f"what is to be sent has no place in a message: {error}") from error
    if len(data) > MAX_MESSAGE:
        raise WorkerError(kind, f"a message to be sent is larger than {MAX_MESSAGE} bytes")
    return data


def _read(message: Any, data: bytes) -> Any:
    try:
        return message.FromString(data)
    except Exception as error:  # protobuf's DecodeError, and what its parts raise
        raise WorkerError(Kind.PROTOCOL, f"the worker sent no {message.DESCRIPTOR.name}") from error


def _usage_to(usage: Usage | None) -> Any:
    if usage is None:
        return None
    return pb.Usage(
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        cached_tokens=usage.cached_tokens,
        reasoning_tokens=usage.reasoning_tokens,
    )


def _usage_from(message: Any) -> Usage | None:
    if not message.HasField("usage"):
        return None
    usage = message.usage
    return Usage(usage.prompt_tokens, usage.completion_tokens, b"", usage.cached_tokens, usage.reasoning_tokens)
