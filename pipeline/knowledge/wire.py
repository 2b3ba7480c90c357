"""What is said over the knowledge process' socket: frames of a 32-bit length and a msgpack array.

Every request has an id, which its answer carries: many requests are under way on one connection, and answers come in
any order. A text that holds lone surrogates cannot be sent; `clean` replaces them.
"""

import asyncio
from typing import Literal

import msgspec

from pipeline.adapters.retrievers.stored import Embedded
from pipeline.core.ports import Chunk
from pipeline.knowledge.errors import FrameError
from workers.base import Passage

MAX_REQUEST = 8 << 20  # bytes; a client splits its writes below this
MAX_ANSWER = 64 << 20  # bytes; some 500,000 documents in a listing


class Request(msgspec.Struct, frozen=True, array_like=True):
    """Root of all requests. Ids are the client's, unique among those under way."""

    id: int


class Cancel(Request, frozen=True, tag="cancel"):
    """Drop the request with this id; there will be no answer to it."""


class Yield(Request, frozen=True, tag="yield"):
    """Give way to another process, if you are a temporary one. Answered with `Number`: 1 yes, 0 no."""


class Search(Request, frozen=True, tag="search"):
    collection: str
    query: str
    limit: int


class Embed(Request, frozen=True, tag="embed"):
    """The vector of a query, by the collection's embedder."""

    collection: str
    text: str


class Piece(msgspec.Struct, frozen=True, array_like=True):
    """A `Chunk` before it has its vector."""

    source: str
    position: int
    title: str
    text: str
    digest: str
    last: bool

    def with_vector(self, vector: list[float]) -> Chunk:
        return Chunk(self.source, self.position, self.title, self.text, self.digest, vector, self.last)


class Write(Request, frozen=True, tag="write"):
    collection: str
    pieces: list[Piece]


class Delete(Request, frozen=True, tag="delete"):
    collection: str
    source: str


class Documents(Request, frozen=True, tag="documents"):
    collection: str


class Count(Request, frozen=True, tag="count"):
    collection: str


class Recreate(Request, frozen=True, tag="recreate"):
    """Make the collection anew, empty, by the embedder of now."""

    collection: str


class Optimize(Request, frozen=True, tag="optimize"):
    """Refused by a process that serves others, because it would stop answering meanwhile."""

    collection: str


AnyRequest = Cancel | Yield | Search | Embed | Write | Delete | Documents | Count | Recreate | Optimize


class Response(msgspec.Struct, frozen=True, array_like=True):
    id: int


class Done(Response, frozen=True, tag="done"):
    pass


class Number(Response, frozen=True, tag="number"):
    value: int


class Found(Response, frozen=True, tag="found"):
    passages: list[Passage]


class Vector(Response, frozen=True, tag="vector"):
    embedded: Embedded


class Digests(Response, frozen=True, tag="digests"):
    documents: dict[str, str]


class Failed(Response, frozen=True, tag="failed"):
    """`kind` names the error that the client raises."""

    kind: Literal["busy", "mismatch", "failed"]
    message: str
    collection: str


AnyResponse = Done | Number | Found | Vector | Digests | Failed

_encoder = msgspec.msgpack.Encoder()
_requests = msgspec.msgpack.Decoder(AnyRequest)
_responses = msgspec.msgpack.Decoder(AnyResponse)


def frame(message: Request | Response) -> bytes:
    body = _encoder.encode(message)
    return len(body).to_bytes(4, "big") + body


async def read_request(reader: asyncio.StreamReader) -> AnyRequest | None:
    """None at the end of the stream. Raises `FrameError`, or ConnectionError."""
    body = await _read_body(reader, MAX_REQUEST)
    try:
        return None if body is None else _requests.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not a request: {error}") from error


async def read_response(reader: asyncio.StreamReader) -> AnyResponse | None:
    """None at the end of the stream. Raises `FrameError`, or ConnectionError."""
    body = await _read_body(reader, MAX_ANSWER)
    try:
        return None if body is None else _responses.decode(body)
    except msgspec.DecodeError as error:
        raise FrameError(f"not an answer: {error}") from error


async def _read_body(reader: asyncio.StreamReader, limit: int) -> bytes | None:
    try:
        size = int.from_bytes(await reader.readexactly(4), "big")
        if size > limit:
            raise FrameError(f"a frame of {size} bytes, where {limit} are allowed")
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError as error:
        if error.partial or error.expected != 4:
            raise FrameError("the stream ended within a frame") from error
        return None


def clean(text: str) -> str:
    """The text without what cannot be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "replace").decode()
    return text
