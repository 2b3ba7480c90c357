"""The contract between the pipeline and whatever generates or embeds: protocols, and the values that cross them."""

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]


class ChatMessage(msgspec.Struct, frozen=True, eq=False):
    """One message of a conversation, in the OpenAI dialect's terms.

    `text` is the textual content (text parts joined by newlines). `raw` is the message as the client sent it (JSON),
    kept so that fields and content parts unknown to us reach the backend untouched; empty when the message was made
    here.
    """

    role: Role
    text: str
    raw: bytes = b""


class Passage(msgspec.Struct, frozen=True):
    """A retrieved piece of a document.

    `score` is the store's fused score, higher is better, comparable only within one search. `source` names the document
    (its path or address), `position` is the chunk's index in it counted from 0, `title` the heading path.
    """

    text: str
    source: str
    position: int
    score: float
    title: str = ""


class Parameters(msgspec.Struct, frozen=True, eq=False):
    """Sampling parameters that every dialect knows; what else the client sent travels in `GenerationRequest.body`."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    n: int = 1
    seed: int | None = None


class GenerationRequest(msgspec.Struct, frozen=True, eq=False):
    """What a worker is asked for.

    `model` is the name the client asked for. `body` is the client's request body when it spoke the OpenAI chat dialect
    (else empty): a worker of that dialect passes every field of it on, except those it must set itself. `rewritten` is
    true when `messages` differ from those in `body`, `shortened` when `parameters.max_tokens` is lower than the limit
    there. With `stream` false the worker may yield the whole answer at once.
    """

    request_id: str
    session_id: str | None
    model: str
    messages: tuple[ChatMessage, ...]
    parameters: Parameters
    stream: bool
    passages: tuple[Passage, ...] = ()
    body: bytes = b""
    rewritten: bool = True
    shortened: bool = False


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the backend counted them. `raw` is its own usage object (JSON) where it sent one."""

    prompt_tokens: int
    completion_tokens: int
    raw: bytes = b""


class Delta(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One increment of one choice of an answer.

    `raw` is the backend's `chat.completion.chunk` (JSON, without SSE framing), so that it can be forwarded as it is;
    empty when the backend does not speak that dialect. `extra` is true when the chunk carries more than text for this
    choice (tool calls, reasoning, log probabilities, several choices): such a chunk is kept even when its text is
    filtered away.
    """

    text: str = ""
    index: int = 0
    finish_reason: str | None = None
    raw: bytes = b""
    extra: bool = False


class DeltaBatch(msgspec.Struct, frozen=True, eq=False):
    """What arrived together.

    `usage` comes once, with the last batch or in one of its own without deltas. `body` is set only for an answer that
    was not streamed: the backend's whole `chat.completion` object (JSON) in the OpenAI dialect; `deltas` then hold its
    text, one delta a choice.
    """

    deltas: tuple[Delta, ...] = ()
    usage: Usage | None = None
    body: bytes = b""


class Health(msgspec.Struct, frozen=True):
    """Whether a backend can be called now, and what was seen when it cannot."""

    ok: bool
    detail: str = ""


class ModelWorker(Protocol):
    """A model backend. One instance serves many requests at once on one event loop.

    `generate` yields batches until the answer is complete; closing the iterator (`aclose`) aborts the backend call and
    returns its connection or closes it. It raises `WorkerError` and nothing else; time limits are the caller's.
    A completed answer has had exactly one `finish_reason` for each of its choices.
    """

    def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]: ...

    async def health(self) -> Health: ...

    async def aclose(self) -> None: ...


class Embedder(Protocol):
    """Turns texts into unit vectors of `dimension` floats.

    `fingerprint` names model and preparation: vectors of two fingerprints must never be compared. `embed` leaves the
    event loop free while it computes; it accepts any number of texts, of any length (empty too). `warm` loads what is
    loaded lazily, so that the first query is not the slow one.
    """

    name: str
    dimension: int
    fingerprint: str

    async def warm(self) -> None: ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]: ...

    async def aclose(self) -> None: ...
