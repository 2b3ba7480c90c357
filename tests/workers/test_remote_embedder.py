"""An embedder whose model runs behind a worker."""

import asyncio
import math
from collections.abc import Callable

import pytest

from config.schema import OpenAIWorker
from tests.servers import Exchange, Script, ScriptedBackend, says, whole
from workers.base import EmbeddingRequest, Embeddings
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai import OpenAICompatible
from workers.remote_embedder import LONGEST, MAX_CHARS, MAX_TEXTS, RemoteEmbedder, Settings, Worker

Answer = Callable[[EmbeddingRequest], Embeddings]
USUAL = Settings()
BUSY = WorkerError(WorkerErrorKind.OVERLOADED, "too much to do", retryable=True)


def plain(request: EmbeddingRequest) -> Embeddings:
    """Three numbers a text, of which the first is its length."""
    return Embeddings(tuple((float(len(text)), 1.0, 2.0) for text in request.inputs))


class Scripted:
    """Answers as it is told, then as `plain`; an error is raised."""

    def __init__(self, *answers: Answer | WorkerError) -> None:
        self.answers = list(answers)
        self.asked: list[EmbeddingRequest] = []
        self.closed = False

    async def embed(self, request: EmbeddingRequest) -> Embeddings:
        self.asked.append(request)
        answer = self.answers.pop(0) if self.answers else plain
        if isinstance(answer, WorkerError):
            raise answer
        return answer(request)

    async def aclose(self) -> None:
        self.closed = True


class Made:
    """An embedder over these workers that notes how long it would have slept."""

    def __init__(self, *workers: Worker, dimension: int = 3, settings: Settings = USUAL) -> None:
        self.slept: list[float] = []
        self.embedder = RemoteEmbedder(
            "w", "test", "m", dimension, lambda: workers, settings=settings, sleep=self._sleep, chance=lambda: 0.5
        )

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)


async def failure(made: Made, *texts: str, query: bool = True) -> WorkerError:
    with pytest.raises(WorkerError) as caught:
        await made.embedder.embed(texts, query=query)
    return caught.value


async def test_vectors_are_made_one_long_and_blank_texts_cost_no_call():
    worker = Scripted()
    vectors = await Made(worker).embedder.embed(["", "abcd", " \n"], query=True)
    assert vectors[0] == vectors[2] == [1.0, 0.0, 0.0]
    assert [round(x, 6) for x in vectors[1]] == [round(x / math.sqrt(21), 6) for x in (4, 1, 2)]
    assert [(asked.inputs, asked.purpose, asked.model) for asked in worker.asked] == [(("abcd",), "query", "m")]
    await Made(worker).embedder.embed(["", ""])
    assert len(worker.asked) == 1


async def test_many_and_long_texts_go_in_several_calls_in_order():
    worker = Scripted()
    texts = ["x" * (n % 50 + 1) for n in range(MAX_TEXTS + 10)] + ["y" * (LONGEST + 1)] * 8
    vectors = await Made(worker).embedder.embed(texts)
    assert [round(vector[0] / vector[1]) for vector in vectors] == [min(len(text), LONGEST) for text in texts]
    assert all(len(asked.inputs) <= MAX_TEXTS for asked in worker.asked)
    assert all(sum(len(text) for text in asked.inputs) <= MAX_CHARS for asked in worker.asked)
    assert {asked.purpose for asked in worker.asked} == {"document"}


async def test_what_can_be_tried_again_is_after_a_drawn_pause_on_the_next_replica():
    one, two = Scripted(BUSY, BUSY), Scripted()
    made = Made(one, two, settings=Settings(retries=2, pause=1.0))
    assert len(await made.embedder.embed(["a"], query=True)) == 1
    assert (len(one.asked), len(two.asked), made.slept) == (1, 1, [0.5])


async def test_a_query_gives_up_soon_and_a_document_late():
    worker = Scripted(*[BUSY] * 20)
    made = Made(worker, settings=Settings(retries=2, pause=1.0, longest_pause=1.5))
    assert await failure(made, "a") is BUSY
    assert made.slept == [0.5, 0.75]
    assert await failure(made, "a", query=False) is BUSY
    assert len(made.slept) == 2 + 8
    assert max(made.slept) <= 15.0


async def test_a_wish_to_wait_is_kept_within_bounds():
    def wishing(seconds: float) -> WorkerError:
        return WorkerError(WorkerErrorKind.RATE_LIMITED, "slow down", retryable=True, retry_after=seconds)

    made = Made(Scripted(wishing(9.0)))
    assert (await failure(made, "a")).retry_after == 9.0  # nobody waits so long with a deadline
    assert made.slept == []
    made = Made(Scripted(wishing(9.0), wishing(900.0)), settings=Settings(pause=1.0))
    assert len(await made.embedder.embed(["a"])) == 1
    assert made.slept == [9.5, 31.0]


@pytest.mark.parametrize(
    "kind", [WorkerErrorKind.BAD_REQUEST, WorkerErrorKind.CONTENT_FILTERED, WorkerErrorKind.PROTOCOL]
)
async def test_what_would_fail_again_is_not_tried_again(kind: WorkerErrorKind):
    worker = Scripted(WorkerError(kind, "no"))
    assert (await failure(Made(worker), "a", query=False)).kind is kind
    assert len(worker.asked) == 1


async def test_texts_too_long_for_the_model_are_cut_and_the_others_are_not():
    def limited(request: EmbeddingRequest) -> Embeddings:
        if sum(len(text) for text in request.inputs) > 1000:
            raise WorkerError(WorkerErrorKind.CONTEXT_TOO_LONG, "1000 characters at most")
        return plain(request)

    texts = ["a" * 900, "b" * 5000, "c" * 30]
    vectors = await Made(Scripted(*[limited] * 30)).embedder.embed(texts)
    assert [round(vector[0] / vector[1]) for vector in vectors] == [900, 625, 30]
    never = Scripted(*[WorkerError(WorkerErrorKind.CONTEXT_TOO_LONG, "no")] * 30)
    assert (await failure(Made(never), "b" * 5000)).kind is WorkerErrorKind.CONTEXT_TOO_LONG
    assert len(never.asked) < 10


async def test_longer_vectors_are_asked_for_at_our_length_from_then_on():
    def shortening(request: EmbeddingRequest) -> Embeddings:
        return Embeddings(tuple((1.0,) * (request.dimensions or 5) for _ in request.inputs))

    worker = Scripted(*[shortening] * 3)
    made = Made(worker)
    for _ in range(2):
        assert [len(vector) for vector in await made.embedder.embed(["a"])] == [3]
    assert [asked.dimensions for asked in worker.asked] == [None, 3, 3]


@pytest.mark.parametrize(
    ("vectors", "said"),
    [
        (((1.0, 2.0),), "vectors of 2 dimensions, but 3 are configured"),
        ((), "0 vectors for 1 texts"),
        (((0.0, 0.0, 0.0),), "without a direction"),
        (((math.nan, 0.0, 1.0),), "without a direction"),
        (((math.inf, 0.0, 1.0),), "without a direction"),
    ],
)
async def test_vectors_that_are_none_are_an_error(vectors: tuple[tuple[float, ...], ...], said: str):
    answers: list[Answer | WorkerError] = [lambda _: Embeddings(vectors)] * 2
    error = await failure(Made(Scripted(*answers)), "a")
    assert error.kind is WorkerErrorKind.PROTOCOL
    assert said in error.message


async def test_a_call_that_hangs_is_ended_and_tried_again():
    class Hanging(Scripted):
        async def embed(self, request: EmbeddingRequest) -> Embeddings:
            if not self.asked:
                self.asked.append(request)
                await asyncio.Event().wait()
            return await super().embed(request)

    worker = Hanging()
    assert len(await Made(worker, settings=Settings(timeout=0.01)).embedder.embed(["a"], query=True)) == 1
    assert len(worker.asked) == 2


async def test_credentials_are_looked_up_again_where_they_are_refused():
    refused = WorkerError(WorkerErrorKind.AUTH, "401")
    old, new = Scripted(refused), Scripted()
    pools = [[old], [new]]
    embedder = RemoteEmbedder("w", "test", "m", 3, lambda: pools.pop(0))
    assert len(await embedder.embed(["a"])) == 1
    assert (old.closed, len(new.asked)) == (True, 1)
    new.answers = [refused, refused]
    pools.append([new])
    with pytest.raises(WorkerError, match="401"):
        await embedder.embed(["a"])


async def test_fingerprints_tell_kind_model_and_dimension_apart():
    def fingerprint(kind: str, model: str, dimension: int) -> str:
        return RemoteEmbedder("w", kind, model, dimension, list).fingerprint

    several = {fingerprint(*made) for made in (("a", "m", 3), ("b", "m", 3), ("a", "n", 3), ("a", "m", 4))}
    assert len(several) == 4


def over(backend: ScriptedBackend) -> RemoteEmbedder:
    section = OpenAIWorker(name="w", base_url=backend.base_url, model="m")
    make = lambda: [OpenAICompatible(section, backend.base_url, resolve=str)]  # noqa: E731
    return RemoteEmbedder("w", "openai", "m", 2, make, settings=Settings(pause=0.001))


async def speak(exchange: Exchange) -> None:
    """An OpenAI-compatible server for embeddings."""
    asked = exchange.json
    data = [
        {"object": "embedding", "index": index, "embedding": [float(len(text)), 1.0]}
        for index, text in enumerate(asked["input"])
    ]
    usage = {"prompt_tokens": 1, "total_tokens": 1}
    await exchange.send(whole({"object": "list", "data": data[::-1], "model": asked["model"], "usage": usage}))


async def test_over_a_real_connection_it_embeds_and_recovers():
    failures: list[Script] = [says(whole({"error": {"message": "busy"}}, 503)), says(whole(b"<html>", 502))]
    async with ScriptedBackend(speak, queued=failures) as backend:
        embedder = over(backend)
        vectors = await embedder.embed(["abc", "a"])
        assert [round(vector[0] / vector[1]) for vector in vectors] == [3, 1]
        assert [exchange.path for exchange in backend.exchanges] == ["/v1/embeddings"] * 3
        await embedder.aclose()


async def test_a_query_that_nobody_waits_for_any_more_ends_its_call():
    async def never(exchange: Exchange) -> None:
        await exchange.gone.wait()

    async with ScriptedBackend(never) as backend:
        embedder = over(backend)
        asking = asyncio.create_task(embedder.embed(["abc"], query=True))
        await backend.until(lambda b: len(b.exchanges) == 1)
        asking.cancel()
        await asyncio.wait([asking])
        await backend.until(lambda b: b.open == 0)
        await embedder.aclose()
