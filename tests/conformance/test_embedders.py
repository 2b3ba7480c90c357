"""Every embedder keeps the same promises."""

import asyncio
import math
from collections.abc import AsyncIterator
from operator import mul
from pathlib import Path

import pytest

from config.schema import EchoWorker
from workers.base import Embedder
from workers.echo import Echo
from workers.lexical import DIMENSION, Lexical
from workers.minilm import MiniLM, missing_packages
from workers.remote_embedder import RemoteEmbedder

ODD = ["", "   \n\t", "\0", "\ud800", "é" * 5000, "a" * 200_000, "word " * 50_000, "灯塔", "😀" * 300, "..."]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(params=["lexical", "minilm", "remote"])
async def embedder(request: pytest.FixtureRequest, models: Path) -> AsyncIterator[Embedder]:
    made: Embedder
    if request.param == "lexical":
        made = Lexical()
    elif request.param == "remote":
        made = RemoteEmbedder("w", "echo", "m", DIMENSION, lambda: [Echo(EchoWorker(name="w"))])
    else:
        assert not missing_packages(), "`make test` installs them"
        made = MiniLM(models)
    yield made
    await made.aclose()


def cosine(a: list[float], b: list[float]) -> float:
    return sum(map(mul, a, b))


async def test_unit_vectors_of_the_stated_dimension(embedder: Embedder):
    vectors = await embedder.embed(["one", "The second text is longer."])
    assert [len(v) for v in vectors] == [embedder.dimension] * 2
    assert all(math.isclose(cosine(v, v), 1.0, rel_tol=1e-5) for v in vectors)


async def test_nothing_in_nothing_out(embedder: Embedder):
    assert await embedder.embed([]) == []


async def test_odd_texts_have_vectors_too(embedder: Embedder):
    vectors = await embedder.embed(ODD)
    assert len(vectors) == len(ODD)
    for vector in vectors:
        assert len(vector) == embedder.dimension
        assert math.isclose(cosine(vector, vector), 1.0, rel_tol=1e-5)


async def test_the_same_text_has_the_same_vector_alone_or_in_company(embedder: Embedder):
    texts = [f"text number {i} " * (i % 13 + 1) for i in range(60)]
    together = await embedder.embed(texts)
    for i in (0, 17, 59):
        (alone,) = await embedder.embed([texts[i]])
        assert cosine(alone, together[i]) > 0.9999
    assert await embedder.embed(texts[:5]) == await embedder.embed(texts[:5])


async def test_related_texts_are_nearer_than_unrelated_ones(embedder: Embedder):
    question, answer, other = await embedder.embed(
        [
            "How deep is the channel at low tide?",
            "At low tide the channel is four metres deep.",
            "Single tickets for children are free of charge.",
        ]
    )
    assert cosine(question, answer) > cosine(question, other) + 0.2


async def test_the_loop_turns_while_it_computes(embedder: Embedder):
    await embedder.warm()
    task = asyncio.create_task(embedder.embed([" ".join(f"word{i}x{j}" for j in range(200)) for i in range(20)]))
    turns = 0
    while not task.done():
        turns += 1
        await asyncio.sleep(0)
    await task
    assert turns > 5


async def test_calls_at_once_do_not_mix(embedder: Embedder):
    texts = [f"question {i}" for i in range(30)]
    expected = await embedder.embed(texts)
    results = await asyncio.gather(*(embedder.embed([text]) for text in texts))
    assert all(cosine(vector, wanted) > 0.9999 for (vector,), wanted in zip(results, expected, strict=True))


def test_fingerprints_and_names_differ():
    assert len({Lexical.fingerprint, MiniLM.fingerprint}) == len({Lexical.name, MiniLM.name}) == 2
