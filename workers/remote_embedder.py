"""An embedder whose model runs elsewhere: behind a worker that can embed."""

import asyncio
import math
import random
import uuid
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Protocol

import msgspec

from workers.base import EmbeddingRequest, Embeddings, EmbeddingWorker
from workers.errors import WorkerError, WorkerErrorKind

MAX_TEXTS = 64  # of one call
MAX_CHARS = 200_000
LONGEST = 32_768  # characters of a text; the rest is not looked at
_SHORTEST = 256  # characters: a model that finds these too many has another trouble
_PATIENT_RETRIES = 8  # for documents, which nobody waits for with a deadline
_PATIENT_PAUSE = 30.0  # seconds, also where the backend asks for more


class Worker(EmbeddingWorker, Protocol):
    async def aclose(self) -> None: ...


class Settings(msgspec.Struct, frozen=True):
    """`timeout` bounds a call, in seconds. A call is tried again up to `retries` times, after a pause that is drawn
    from zero to `pause`, doubled each time, `longest_pause` at most: "full jitter", see Marc Brooker, "Exponential
    Backoff and Jitter" (AWS Architecture Blog, 2015). For documents there are more tries and longer pauses."""

    timeout: float = 60.0
    retries: int = 2
    pause: float = 0.05
    longest_pause: float = 2.0


_USUAL = Settings()


class RemoteEmbedder:
    """An `Embedder` over a worker's replicas, which `make` makes; they are called in turn. `fingerprint` has the
    worker's `kind`, the `model` and the `dimension`: replicas must be of the same model.

    Raises `WorkerError` when a call fails and no other try is left, and when vectors are of another dimension. Texts
    that are longer than the model takes are cut, blank ones get a vector of our own. Where the backend has other
    credentials by now, they are looked up again: `make` is called anew. Safe to cancel.
    """

    def __init__(
        self,
        name: str,
        kind: str,
        model: str,
        dimension: int,
        make: Callable[[], Sequence[Worker]],
        *,
        settings: Settings = _USUAL,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        chance: Callable[[], float] = random.random,
    ) -> None:
        self.name = name
        self.dimension = dimension
        self.fingerprint = f"{kind}.{model}.{dimension}"
        self._model = model
        self._make = make
        self._workers = list(make())
        self._next = 0
        self._settings = settings
        self._sleep = sleep
        self._chance = chance
        self._shortens = False  # the model's own vectors are longer, and it is asked for ours

    async def warm(self) -> None:
        """Nothing: a backend may come after its gateway."""

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]:
        vectors = [[1.0] + [0.0] * (self.dimension - 1) for _ in texts]  # of those that say nothing
        for positions in _batches(texts):
            asked = [_clean(texts[position]) for position in positions]
            for position, vector in zip(positions, await self._all(asked, query=query), strict=True):
                vectors[position] = vector
        return vectors

    async def aclose(self) -> None:
        for worker in self._workers:
            await worker.aclose()

    async def _all(self, texts: list[str], *, query: bool) -> list[list[float]]:
        """In parts where together they are too long, and less of one that is too long by itself."""
        try:
            return await self._tried(texts, query=query)
        except WorkerError as error:
            if error.kind is not WorkerErrorKind.CONTEXT_TOO_LONG:
                raise
            if len(texts) > 1:
                half = len(texts) // 2
                return [
                    vector for part in (texts[:half], texts[half:]) for vector in await self._all(part, query=query)
                ]
            if len(texts[0]) <= _SHORTEST:
                raise
        return await self._all([texts[0][: len(texts[0]) // 2]], query=query)

    async def _tried(self, texts: list[str], *, query: bool) -> list[list[float]]:
        tries = 1 + (self._settings.retries if query else max(self._settings.retries, _PATIENT_RETRIES))
        for number in range(tries):
            try:
                return await self._once(texts, query=query)
            except WorkerError as error:
                pause = self._pause(error, number, query=query)
                if pause is None or number == tries - 1:
                    raise
            await self._sleep(pause)
        raise AssertionError("unreachable")

    def _pause(self, error: WorkerError, number: int, *, query: bool) -> float | None:
        """Seconds before the next try; None where it is of no use, or the backend wants to be left alone for longer."""
        if not error.retryable:
            return None
        longest = self._settings.longest_pause if query else _PATIENT_PAUSE
        drawn = self._chance() * min(self._settings.pause * 2.0**number, longest)
        if error.retry_after is None:
            return drawn
        return None if query and error.retry_after > longest else min(error.retry_after, longest) + drawn

    async def _once(self, texts: list[str], *, query: bool) -> list[list[float]]:
        asked = self._shortens  # others embed at the same time, and may find it out first
        try:
            answer = await self._call(texts, query=query)
        except WorkerError as error:
            if error.kind is not WorkerErrorKind.AUTH:
                raise
            await self._renew()
            answer = await self._call(texts, query=query)
        if not asked and any(len(vector) != self.dimension for vector in answer.vectors):
            self._shortens = True
            answer = await self._call(texts, query=query)
        return self._checked(answer, len(texts))

    async def _call(self, texts: list[str], *, query: bool) -> Embeddings:
        worker = self._workers[self._next % len(self._workers)]
        self._next += 1
        dimensions = self.dimension if self._shortens else None
        request = EmbeddingRequest(
            uuid.uuid4().hex, self._model, tuple(texts), dimensions, "query" if query else "document"
        )
        try:
            async with asyncio.timeout(self._settings.timeout):
                return await worker.embed(request)
        except TimeoutError as error:
            message = f"worker {self.name!r} had no vectors within {self._settings.timeout:g} s"
            raise WorkerError(WorkerErrorKind.TIMEOUT, message, retryable=True) from error

    async def _renew(self) -> None:
        old, self._workers = self._workers, list(self._make())
        for worker in old:
            await worker.aclose()

    def _checked(self, answer: Embeddings, number: int) -> list[list[float]]:
        if len(answer.vectors) != number:
            raise self._wrong(f"gave {len(answer.vectors)} vectors for {number} texts")
        return [self._unit(vector) for vector in answer.vectors]

    def _unit(self, vector: Sequence[float]) -> list[float]:
        if len(vector) != self.dimension:
            raise self._wrong(f"has vectors of {len(vector)} dimensions, but {self.dimension} are configured")
        length = math.hypot(*vector)
        if not 0.0 < length < math.inf:  # not a number, too
            raise self._wrong("gave a vector without a direction")
        return [x / length for x in vector]

    def _wrong(self, what: str) -> WorkerError:
        return WorkerError(WorkerErrorKind.PROTOCOL, f"worker {self.name!r} {what}")


def _batches(texts: Sequence[str]) -> Iterator[list[int]]:
    """Positions of texts that go into one call; blank ones go nowhere."""
    batch: list[int] = []
    chars = 0
    for position, text in enumerate(texts):
        if not text.strip():
            continue
        length = min(len(text), LONGEST)
        if batch and (len(batch) == MAX_TEXTS or chars + length > MAX_CHARS):
            yield batch
            batch, chars = [], 0
        batch.append(position)
        chars += length
    if batch:
        yield batch


def _clean(text: str) -> str:
    """What can be written as UTF-8 of it."""
    return text[:LONGEST].encode("utf-8", "replace").decode()
