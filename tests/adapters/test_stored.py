"""A retriever over a store, with the query's vector from elsewhere."""

import asyncio

import pytest

from pipeline.adapters.retrievers.stored import Embedded, StoredRetriever
from pipeline.adapters.stores.memory import MemoryShelf, MemoryStore
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.core.ports import Chunk, Manifest


class World:
    """An embedder that can be exchanged and a place for stores that can be out of order."""

    def __init__(self) -> None:
        self.embedder = "one"
        self.opened = 0
        self.down = False
        self.shelf = MemoryShelf()

    async def embed(self, text: str) -> Embedded:
        return Embedded(self.embedder, [1.0, 0.0])

    async def open(self, manifest: Manifest) -> MemoryStore:
        await asyncio.sleep(0)
        if self.down:
            raise RetrievalError("out of order", collection=manifest.collection)
        self.opened += 1
        store = await self.shelf.open(manifest)
        await store.write([Chunk("a.md", 0, "", "text", "d", [1.0, 0.0], last=True)])
        return store


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def retriever(world: World) -> StoredRetriever:
    return StoredRetriever("docs", world.embed, world.open)


async def test_the_store_is_opened_once_with_the_embedder_there_is(world: World, retriever: StoredRetriever):
    found = await asyncio.gather(*(retriever.search("docs", "text", 1) for _ in range(5)))
    assert [passages[0].text for passages in found] == ["text"] * 5
    assert world.opened == 1


async def test_opening_is_tried_again_after_it_failed(world: World, retriever: StoredRetriever):
    world.down = True
    for _ in range(2):
        with pytest.raises(RetrievalError, match="out of order"):
            await retriever.search("docs", "text", 1)
    world.down = False
    assert len(await retriever.search("docs", "text", 1)) == 1


async def test_another_embedder_is_noticed(world: World, retriever: StoredRetriever):
    await retriever.search("docs", "text", 1)
    world.embedder = "two"
    for _ in range(2):
        with pytest.raises(CollectionMismatch, match=r"one.*two"):
            await retriever.search("docs", "text", 1)
    world.embedder = "one"
    assert len(await retriever.search("docs", "text", 1)) == 1


async def test_a_search_cancelled_while_the_store_opens_leaves_the_next_one_alone(
    world: World, retriever: StoredRetriever
):
    task = asyncio.create_task(retriever.search("docs", "text", 1))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert len(await retriever.search("docs", "text", 1)) == 1
