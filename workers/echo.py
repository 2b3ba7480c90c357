"""The worker that says back what it was told: deterministic, for tests, demonstrations and measuring."""

import asyncio
import contextlib
import math
import random
import time
import types
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator

from config.schema import EchoWorker
from workers.base import Delta, DeltaBatch, EmbeddingRequest, Embeddings, GenerationRequest, Health, Usage
from workers.errors import WorkerError, WorkerErrorKind
from workers.lexical import DIMENSION, Lexical
from workers.local import limited, newest_user_text, refuse_several, tokens_of

_FILLER = ["echo "]


class Echo:
    """Answers with the newest user message, word by word, at the pace that its section sets.

    Token i of an answer is due at first_token_ms + i / tokens_per_s after the start, whatever the consumer does: one
    that comes late gets what is due at once, so the pace does not drift. A batch is due with its first token, an answer
    that is not streamed with its last. Failures are drawn from `seed`, one draw a request in order of arrival. `clock`
    is in seconds, `sleep` waits on it.
    """

    def __init__(
        self,
        section: EchoWorker,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._section = section
        self._clock = clock
        self._sleep = sleep
        self._first = section.first_token_ms / 1000
        self._gap = 1 / section.tokens_per_s if section.tokens_per_s else 0.0
        self._paced = bool(self._first or self._gap)
        self._places = asyncio.Semaphore(section.capacity) if section.capacity else None
        self._embedder = Lexical()
        self._draws = random.Random(section.seed)  # noqa: S311 - repeatable failures, nothing secret

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        refuse_several(request, self._section.name)
        self._fail_perhaps()
        tokens, finish_reason = self._answer(request)
        usage = Usage(sum([len(m.text.split()) for m in request.messages]), len(tokens))
        if not request.stream and not self._paced and self._places is None:
            yield DeltaBatch((Delta("".join(tokens), 0, finish_reason),), usage)
            return
        async with self._places or contextlib.nullcontext():
            start = self._clock() + self._first
            for at, batch in self._batches(tokens, finish_reason, usage, stream=request.stream):
                if self._paced:
                    await self._sleep(max(0.0, start + self._gap * at - self._clock()))
                elif at:
                    await _tick()  # no answer keeps the others waiting
                yield batch

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        """By the words of each input, as the `lexical` embedder does: equal texts have equal vectors. They are shorter
        where `dimensions` says so, and unit vectors still; a paced worker gives them as one token."""
        length = request.dimensions or DIMENSION
        if length > DIMENSION:
            message = f"worker {self._section.name!r} has vectors of {DIMENSION} dimensions, but {length} are asked for"
            raise WorkerError(WorkerErrorKind.BAD_REQUEST, message)
        self._fail_perhaps()
        texts = [text if isinstance(text, str) else " ".join(map(str, text)) for text in request.inputs]
        async with self._places or contextlib.nullcontext():
            if self._first:
                await self._sleep(self._first)
            vectors = await self._embedder.embed(texts)
        usage = Usage(sum([len(text.split()) for text in texts]), 0)
        return Embeddings(tuple([_shortened(vector, length) for vector in vectors]), usage)

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        pass

    def _fail_perhaps(self) -> None:
        if self._section.failure_rate and self._draws.random() < self._section.failure_rate:
            raise WorkerError(
                WorkerErrorKind.INJECTED, "a failure that this worker is configured to have", retryable=True
            )

    def _answer(self, request: GenerationRequest) -> tuple[list[str], str]:
        text = newest_user_text(request)
        tokens = tokens_of(text)
        wanted = self._section.tokens
        if wanted:
            if wanted > len(tokens):
                tokens = tokens_of(text + " ") if text.strip() else _FILLER
                tokens = tokens * (wanted // len(tokens) + 1)
            tokens = tokens[:wanted]
        return limited(tokens, request.parameters)

    def _batches(
        self, tokens: list[str], finish_reason: str, usage: Usage, *, stream: bool
    ) -> Iterator[tuple[int, DeltaBatch]]:
        """The answer's batches, each with the number of the token whose time it must wait for."""
        if not stream:
            yield len(tokens) - 1, DeltaBatch((Delta("".join(tokens), 0, finish_reason),), usage)
            return
        size = self._section.tokens_per_batch
        last = (len(tokens) - 1) // size * size
        for at in range(0, last, size):
            yield at, DeltaBatch(tuple([Delta(token) for token in tokens[at : at + size]]))
        deltas = [Delta(token) for token in tokens[last:-1]]
        yield last, DeltaBatch((*deltas, Delta(tokens[-1], 0, finish_reason)), usage)


def _shortened(vector: list[float], length: int) -> tuple[float, ...]:
    """Its first `length` numbers, as a unit vector."""
    kept = vector[:length]
    norm = math.hypot(*kept)
    return tuple([number / norm for number in kept]) if norm else (1.0, *([0.0] * (length - 1)))


@types.coroutine
def _tick() -> Generator[None, None, None]:
    """A turn of the event loop for the others; `asyncio.sleep(0)` without its detour."""
    yield
