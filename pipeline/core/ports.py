"""The doors to the outside: each is a Protocol here, and has a working in-memory implementation beside its real
ones."""

from collections.abc import Awaitable, Sequence
from typing import Protocol

import msgspec

from pipeline.core.errors import HeadgateError, Overloaded
from pipeline.core.messages import PostOutput, PromptRequest
from pipeline.core.ticket import Ticket
from workers.base import Delta, Passage, Usage


class Retriever(Protocol):
    """Finds passages. Raises `RetrievalError` and nothing else; safe to cancel."""

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        """At most `limit` passages, best first; empty when nothing matches."""
        ...

    async def aclose(self) -> None: ...


class Answer(msgspec.Struct, frozen=True, eq=False):
    """What leaves the Stream stage in one go: deltas after the post filters, and, for an answer that was not streamed
    and that no filter changed, the backend's own object in `body`. `changed` marks deltas whose `raw` no longer tells
    their text; `frames`: see `DeltaBatch`."""

    deltas: tuple[Delta, ...]
    changed: bool = False
    body: bytes = b""
    frames: bytes = b""


class OutputSink(Protocol):
    """Where an answer goes: an SSE response, a JSON body, a terminal, a list in a test.

    Called in order: `begin` once, `write` any number of times, then `finish`, or `fail` at any point, also before
    `begin`. `begin`, `write` and `finish` return None when done, or an awaitable when the client must be waited for
    (flow control); they raise ConnectionError when the client is gone. `fail` is synchronous and must not raise: the
    error reaches the client through whoever owns the connection.
    """

    def begin(self, message: PostOutput) -> Awaitable[None] | None: ...

    def write(self, answer: Answer) -> Awaitable[None] | None: ...

    def finish(self, usage: Usage | None) -> Awaitable[None] | None: ...

    def fail(self, error: HeadgateError) -> None: ...


class Manifest(msgspec.Struct, frozen=True):
    """What made a collection: it can only be searched and extended with the same. `embedder` is the fingerprint."""

    collection: str
    embedder: str
    dimension: int
    version: int = 1


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a document to be stored. `digest` is the whole document's content hash, the same for all its chunks;
    `last` marks the chunk whose presence says that the document is complete."""

    source: str
    position: int
    title: str
    text: str
    digest: str
    vector: list[float]
    last: bool = False


class CollectionStore(Protocol):
    """Keeps the chunks of one collection and searches them by vector and by words, fused.

    Opening checks the manifest and raises `CollectionMismatch` when another embedder made the collection. All methods
    leave the event loop free and raise `RetrievalError` when the store fails. Writing the same document again
    replaces it.
    """

    async def search(self, vector: Sequence[float], text: str, limit: int) -> list[Passage]: ...

    async def write(self, chunks: Sequence[Chunk]) -> None:
        """Stores one document's chunks, or a part of them, durably. The chunk marked `last` must be written last."""
        ...

    async def delete(self, source: str) -> None:
        """Removes every chunk of a document; nothing happens when there is none."""
        ...

    async def documents(self) -> dict[str, str]:
        """source → digest of every *complete* document. Incomplete ones (an interrupted write) have digest ''."""
        ...

    async def count(self) -> int:
        """Chunks stored."""
        ...

    async def aclose(self) -> None: ...


class Hooks:
    """What observers of requests override. Called on the data path: must be quick and must not raise."""

    def after_open(self, ticket: Ticket) -> None:
        """A request arrived; its body has not been read."""

    def after_route(self, ticket: Ticket) -> None:
        """The door learnt which route a request asks for: from now on it counts as offered there."""

    def after_submit(self, request: PromptRequest) -> None:
        """A request passed the door and was decoded; the only hook that sees what it says."""

    def after_end(self, ticket: Ticket) -> None:
        """The request ended; the ticket holds everything known about it. A ticket whose `route` is still '-' was never
        routed: it counts as offered now."""

    def after_gate(self, error: Overloaded, arrived: float, now: float, request_id: str = "") -> None:
        """The head gate refused a request: it counts as offered and shed, under no route."""

    def after_deltas(self, ticket: Ticket) -> None:
        """A worker has delivered so many deltas since the last time that `ticket.gaps` should be emptied."""


class Readiness(msgspec.Struct, frozen=True):
    """Whether new requests are welcome; `detail` names each part and its state, for people."""

    ready: bool
    detail: dict[str, str]


class Operations(Protocol):
    """What the edge shows of the process around it."""

    def readiness(self) -> Readiness: ...

    async def metrics(self) -> bytes:
        """The whole daemon's metrics in Prometheus' text format, not this shard's alone. Raises ConnectionError when
        the supervisor cannot be asked."""
        ...
