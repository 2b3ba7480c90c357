"""Every retriever keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient

from config.secrets import resolve
from pipeline.adapters.retrievers.memory import MemoryRetriever
from pipeline.adapters.retrievers.stored import Embedded, StoredRetriever
from pipeline.adapters.stores.qdrant import QdrantStore
from pipeline.core.errors import RetrievalError
from pipeline.core.ports import Chunk, Manifest, Retriever
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.retriever import build_retriever
from tests.knowledge.helpers import SEA, config, pieces, served
from workers.lexical import Lexical

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")


@pytest.fixture(params=["memory", "stored", "knowledge", "built"])
async def retriever(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Retriever]:
    """Each over a collection `docs` that holds SEA as sea.md."""
    if request.param == "memory":
        memory = MemoryRetriever(Lexical())
        await memory.add("docs", "sea.md", SEA)
        yield memory
        await memory.aclose()
    elif request.param == "stored":
        stored = StoredRetriever("docs", embed, open_qdrant)
        yield stored
        await stored.aclose()
    else:
        conf = config(tmp_path)
        async with served(conf) as writer:
            await writer.write("docs", pieces())
            socket = tmp_path / SOCKET
            under_test: Retriever = (
                KnowledgeClient(socket)
                if request.param == "knowledge"
                else build_retriever(conf.collections, socket, resolve)
            )
            yield under_test
            await under_test.aclose()


async def embed(text: str) -> Embedded:
    (vector,) = await Lexical().embed([text])
    return Embedded(Lexical.fingerprint, vector)


async def open_qdrant(manifest: Manifest) -> QdrantStore:
    store = await QdrantStore.open(AsyncQdrantClient(":memory:"), manifest)
    vectors = await Lexical().embed([f"{title}\n{text}" for title, text in SEA])
    await store.write(
        [Chunk("sea.md", i, *SEA[i], "d", vector, last=i == len(SEA) - 1) for i, vector in enumerate(vectors)]
    )
    return store


async def test_the_best_passage_first(retriever: Retriever):
    passages = await retriever.search("docs", "how deep is the channel at low tide?", 3)
    assert (passages[0].source, passages[0].position, passages[0].title, passages[0].text) == ("sea.md", 0, *SEA[0])
    assert [p.score for p in passages] == sorted((p.score for p in passages), reverse=True)


async def test_at_most_limit(retriever: Retriever):
    assert len(await retriever.search("docs", "lamp and ferry", 1)) == 1
    assert len(await retriever.search("docs", "lamp and ferry", 100)) == 3


async def test_a_blank_query_matches_nothing(retriever: Retriever):
    assert list(await retriever.search("docs", "  \n", 3)) == []


@pytest.mark.parametrize("query", ["\ud800 ferry", "ferry " * 100_000, "\0", "?"])
async def test_odd_queries_are_answered(retriever: Retriever, query: str):
    assert len(await retriever.search("docs", query, 3)) == 3


async def test_an_unknown_collection_is_an_error_that_names_it(retriever: Retriever):
    with pytest.raises(RetrievalError, match="nowhere") as caught:
        await retriever.search("nowhere", "ferry", 3)
    assert caught.value.collection == "nowhere"


async def test_many_at_once(retriever: Retriever):
    questions = ["low tide channel", "ferry forty minutes", "lighthouse lamp miles"] * 20
    found = await asyncio.gather(*(retriever.search("docs", q, 1) for q in questions))
    assert [passages[0].position for passages in found] == [0, 1, 2] * 20


async def test_cancelled_searches_leave_the_others_alone(retriever: Retriever):
    tasks = [asyncio.create_task(retriever.search("docs", "low tide channel", 1)) for _ in range(20)]
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(r, asyncio.CancelledError) for r in results[::2])
    assert all(not isinstance(r, BaseException) and r[0].position == 0 for r in results[1::2])
