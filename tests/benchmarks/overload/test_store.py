"""The slow store is good enough for Headgate's own store, and slow."""

import asyncio

import pytest

from benchmarks.overload.store import SlowStore
from pipeline.adapters.stores.qdrant import QdrantStore, connect
from pipeline.core.errors import CollectionMismatch
from pipeline.core.ports import Manifest

pytestmark = pytest.mark.slow

MANIFEST = Manifest(collection="slow", embedder="words-1", dimension=4)
VECTOR = [0.1, 0.2, 0.3, 0.4]


async def test_a_collection_is_made_found_again_and_searched():
    with SlowStore(0.05) as store:
        for _ in range(2):
            opened = await QdrantStore.open(connect(store.url, None, 5_000), MANIFEST)
            assert await opened.search(VECTOR, "a question", 3) == []
            await opened.aclose()
        assert (store.searches, store.cut) == (2, 0)
        other = Manifest(collection="slow", embedder="words-2", dimension=4)
        client = connect(store.url, None, 5_000)
        with pytest.raises(CollectionMismatch):
            await QdrantStore.open(client, other)
        await client.close()


async def test_a_search_whose_client_goes_is_counted():
    with SlowStore(30.0) as store:
        opened = await QdrantStore.open(connect(store.url, None, 60_000), MANIFEST)
        searching = asyncio.ensure_future(opened.search(VECTOR, "a question", 3))
        async with asyncio.timeout(10):
            while not store.searches:
                await asyncio.sleep(0.01)
            searching.cancel()
            await asyncio.gather(searching, return_exceptions=True)
            await opened.aclose()
            while not store.cut:
                await asyncio.sleep(0.01)
        assert (store.searches, store.cut) == (1, 1)
