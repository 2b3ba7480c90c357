"""The contract between the pipeline and whatever generates or embeds: protocols, and the values that cross them."""

from collections.abc import AsyncGenerator, Sequence
from typing import Literal, Protocol, runtime_checkable

import msgspec

Role = Literal["system", "developer", "user", "assistant", "tool", "function"]
NativeDialect = Literal["messages", "completions"]  # of clients: Anthropic's messages, OpenAI's older completions


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

    `model` is the name the client asked for. `body` is the whole request in the OpenAI chat dialect, the client's own
    where it spoke that and a translation of it where it spoke another one; empty where it said nothing beyond
    `messages` and `parameters`. A worker passes on what its backend understands of it: tools, response_format, images
    in messages, reasoning_effort. `rewritten` is true when `messages` differ from those in `body`, `shortened` when
    `parameters.max_tokens` is lower than the limit there. With `stream` false the worker may yield the whole answer at
    once.

    `native` is the client's body as it came, when it spoke another dialect (`native_dialect`) and nothing of request
    and answer has to be changed on the way: a worker whose backend speaks that dialect passes it on with the model's
    name put right, and answers with frames of that dialect (`Delta.native`). With `native_answer` false the
    answer has to be changed, and comes as any other. Workers whose backends speak other dialects go by `body`.
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
    native: bytes = b""
    native_dialect: NativeDialect | None = None
    native_answer: bool = True


class Usage(msgspec.Struct, frozen=True):
    """Tokens as the backend counted them, whatever its names for them: `prompt_tokens` with those read from or written
    to a cache, `completion_tokens` with those of reasoning. `cached_tokens` and `reasoning_tokens` are parts of them.

    `raw` is the backend's own usage object (JSON) where it sent one in the OpenAI chat dialect.
    """

    prompt_tokens: int
    completion_tokens: int
    raw: bytes = b""
    cached_tokens: int = 0
    reasoning_tokens: int = 0


class Delta(msgspec.Struct, frozen=True, eq=False, gc=False):
    """One increment of one choice of an answer.

    `raw` is a `chat.completion.chunk` (JSON, without SSE framing), so that it can be forwarded as it is: the backend's,
    or where that speaks another dialect and there is more to tell than text, one that the worker made
    (`workers.canonical`); empty where `text` and `finish_reason` say all. `extra` is true when the chunk carries more
    than text for this choice (tool calls, reasoning, log probabilities, several choices): such a chunk is kept even
    when its text is filtered away. `finish_reason` is one of OpenAI's: stop, length, tool_calls, content_filter,
    function_call.

    `native` is true where `raw` is instead one or more whole SSE frames (as bytes of the wire, with their framing) of
    the request's `native_dialect`.
    """

    text: str = ""
    index: int = 0
    finish_reason: str | None = None
    raw: bytes = b""
    extra: bool = False
    native: bool = False


class DeltaBatch(msgspec.Struct, frozen=True, eq=False):
    """What arrived together.

    `usage` comes once, with the last batch or in one of its own without deltas. `body` is set only for an answer that
    was not streamed: the whole `chat.completion` object (JSON) in the OpenAI dialect, the backend's or one that the
    worker made; `deltas` then hold its text, one delta a choice. Where these are `native`, it is the object of the
    request's `native_dialect`. For embeddings it is OpenAI's list object.

    `frames` are the deltas' `raw` as they came in, with their framing, where all of the batch is in them and nothing
    else: whoever has nothing to change forwards these.
    """

    deltas: tuple[Delta, ...] = ()
    usage: Usage | None = None
    body: bytes = b""
    frames: bytes = b""


class Health(msgspec.Struct, frozen=True):
    """Whether a backend can be called now, and what was seen when it cannot.

    `slots` is how many calls it works on at once and `context_tokens` its model's window, where it tells.
    """

    ok: bool
    detail: str = ""
    slots: int | None = None
    context_tokens: int | None = None


class EmbeddingRequest(msgspec.Struct, frozen=True, eq=False):
    """Texts to be turned into vectors. `inputs` are texts, or lists of token ids where the client sent those.

    `model` is the name the client asked for, `dimensions` how long it wants the vectors, None for the model's own
    length. `purpose` is for models that embed a search's query and the documents differently. `body` is the client's
    body in OpenAI's embeddings dialect, else empty; `encoding` is how it wants the vectors.
    """

    request_id: str
    model: str
    inputs: tuple[str | tuple[int, ...], ...]
    dimensions: int | None = None
    purpose: Literal["query", "document"] | None = None
    body: bytes = b""
    encoding: Literal["float", "base64"] = "float"


class Embeddings(msgspec.Struct, frozen=True, eq=False):
    """One vector for each input, in order. `body` is the whole answer in OpenAI's dialect where the backend spoke that
    and the request had a `body`; `vectors` may then be empty. `model` is what the backend calls its model; empty: as
    the client does."""

    vectors: tuple[tuple[float, ...], ...] = ()
    usage: Usage | None = None
    body: bytes = b""
    model: str = ""


class ModelWorker(Protocol):
    """A model backend. One instance serves many requests at once on one event loop.

    `generate` yields batches until the answer is complete; closing the iterator (`aclose`) aborts the backend call and
    returns its connection or closes it. It raises `WorkerError` and nothing else; time limits are the caller's.
    A completed answer has had exactly one `finish_reason` for each of its choices.
    """

    def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]: ...

    async def health(self) -> Health: ...

    async def aclose(self) -> None: ...


class Spout(Protocol):
    """What takes the batches of an answer as they come. `put` returns False when it is full, or nothing more is wanted:
    then `room` must be awaited before the next. That returns False where nothing more is wanted."""

    def put(self, batch: DeltaBatch) -> bool: ...

    async def room(self) -> bool: ...


@runtime_checkable
class PouringWorker(Protocol):
    """A worker that can do what `generate` does without a task that is woken for each batch: `spout.put` is called from
    wherever the data came in. Returns when the answer is complete or not wanted any more; raises `WorkerError` and
    nothing else. Cancelling it aborts the backend call."""

    async def pour(self, request: GenerationRequest, spout: Spout) -> None: ...


@runtime_checkable
class EmbeddingWorker(Protocol):
    """A worker that can also embed. Raises `WorkerError` and nothing else; cancelling aborts the backend call."""

    async def embed(self, request: EmbeddingRequest) -> Embeddings: ...


@runtime_checkable
class CountingWorker(Protocol):
    """A worker whose backend counts tokens by its model's own tokenizer."""

    async def count_tokens(self, request: GenerationRequest) -> int | None:
        """Tokens of the whole prompt as the model would see it; None where the backend cannot tell after all. Raises
        `WorkerError`."""
        ...


class Embedder(Protocol):
    """Turns texts into unit vectors of `dimension` floats; `query` says that they are searches, not documents.

    `fingerprint` names model and preparation: vectors of two fingerprints must never be compared. `embed` leaves the
    event loop free while it computes; it accepts any number of texts, of any length (empty too). `warm` loads what is
    loaded lazily, so that the first query is not the slow one.
    """

    name: str
    dimension: int
    fingerprint: str

    async def warm(self) -> None: ...

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]: ...

    async def aclose(self) -> None: ...
