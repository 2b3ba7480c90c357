"""OpenAI's embeddings as bytes: requests from ours, answers to ours. No I/O.

Source: OpenAI API reference, "Embeddings" (create, the embedding object).
"""

import array
import base64
import binascii
import math
import sys
from collections.abc import Sequence
from typing import Any

import msgspec

from workers.base import EmbeddingRequest, Embeddings
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai_dialect import complaint_in
from workers.openai_fields import UNDECODABLE, decode_fields, malformed, usage_in
from workers.refusals import in_band_error

_FLOAT = 4  # bytes of a number in base64


class _Item(msgspec.Struct, gc=False):
    embedding: msgspec.Raw
    index: int | None = None


class _Answer(msgspec.Struct, gc=False):
    data: list[_Item] | None = None
    model: Any = None
    usage: Any = None
    error: Any = None


_decode = msgspec.json.Decoder(_Answer).decode
_decode_vector = msgspec.json.Decoder(tuple[float, ...] | str).decode


def encode_request(request: EmbeddingRequest, *, model: str | None) -> bytes:
    """The client's own body with `model` in place of its name for it; without one, a body that says the same. Raises
    `WorkerError` when the client's is not JSON."""
    try:
        fields: dict[str, Any] = dict(decode_fields(request.body)) if request.body else _fields(request)
    except UNDECODABLE as error:
        raise WorkerError(WorkerErrorKind.BAD_REQUEST, "the request's body is not a JSON object") from error
    fields["model"] = model or request.model
    return msgspec.json.encode(fields)


def _fields(request: EmbeddingRequest) -> dict[str, Any]:
    fields: dict[str, Any] = {"input": request.inputs}
    if request.dimensions is not None:
        fields["dimensions"] = request.dimensions
    return fields


def decode_answer(body: bytes, request: EmbeddingRequest, *, secrets: Sequence[str] = ()) -> Embeddings:
    """The answer as it is where a client waits for it and its vectors are encoded as that asked for, else the vectors.
    Raises `WorkerError`, also where it is not one vector for each input."""
    try:
        answer = _decode(body)
        body.decode()
    except UNDECODABLE as error:
        raise malformed("it is not the list of embeddings that was expected") from error
    if answer.error:
        raise in_band_error(answer.error, secrets=secrets)
    if answer.data is None:
        raise complaint_in(body, secrets) or malformed("it has no embeddings")
    items = _ordered(answer.data, len(request.inputs))
    usage = usage_in(body) if answer.usage is not None else None
    if request.body and all((item[:1] == b'"') is (request.encoding == "base64") for item in items):
        return Embeddings(usage=usage, body=body)
    return Embeddings(_vectors(items), usage, model=answer.model if isinstance(answer.model, str) else "")


def _ordered(data: list[_Item], inputs: int) -> list[bytes]:
    """The vectors' JSON, in the order of the inputs."""
    if len(data) != inputs:
        raise malformed(f"it has {len(data)} embeddings for {inputs} inputs")
    items: list[bytes] = [b""] * inputs
    for position, item in enumerate(data):
        index = position if item.index is None else item.index
        if not 0 <= index < inputs or items[index]:
            raise malformed(f"an embedding has the index {index}")
        items[index] = bytes(item.embedding)
    return items


def _vectors(items: list[bytes]) -> tuple[tuple[float, ...], ...]:
    try:
        vectors = tuple([_vector(_decode_vector(item)) for item in items])
    except (msgspec.MsgspecError, binascii.Error, ValueError) as error:
        raise malformed("an embedding is not a vector") from error
    if len({len(vector) for vector in vectors}) > 1:
        raise malformed("its embeddings differ in length")
    return vectors


def _vector(value: tuple[float, ...] | str) -> tuple[float, ...]:
    """Base64 is of 32-bit numbers, the lowest byte first."""
    if isinstance(value, str):
        numbers = array.array("f")
        data = base64.b64decode(value, validate=True)
        if len(data) % _FLOAT:
            raise ValueError(len(data))
        numbers.frombytes(data)
        if sys.byteorder == "big":
            numbers.byteswap()
        value = tuple(numbers)
    if not value or not all(map(math.isfinite, value)):
        raise ValueError(len(value))
    return value
