"""A retriever over a store that this process reaches itself; the query's vector comes from elsewhere."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from pipeline.core.errors import RetrievalError
from pipeline.core.ports import CollectionStore, Manifest
from workers.base import Passage


class Embedded(msgspec.Struct, frozen=True):
    """A query's vector, and the fingerprint of the embedder that made it."""

    embedder: str
    vector: list[float]


class StoredRetriever:
    """A `Retriever` of one collection.

    `embed` makes the query's vector and raises `RetrievalError`. `open_store` is called with the first query, when it
    is known which embedder there is, again when opening failed, and again when the embedder has changed.
    """

    def __init__(
        self,
        collection: str,
        embed: Callable[[str], Awaitable[Embedded]],
        open_store: Callable[[Manifest], Awaitable[CollectionStore]],
    ) -> None:
        self._collection = collection
        self._embed = embed
        self._open_store = open_store
        self._opening = asyncio.Lock()
        self._store: CollectionStore | None = None
        self._manifest: Manifest | None = None

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        if collection != self._collection:
            raise RetrievalError(f"no collection {collection!r} here, only {self._collection!r}", collection=collection)
        if not query.strip():
            return []
        embedded = await self._embed(query)
        store = await self._opened(Manifest(self._collection, embedded.embedder, len(embedded.vector)))
        return await store.search(embedded.vector, query, limit)

    async def aclose(self) -> None:
        if self._store is not None:
            store, self._store = self._store, None
            await store.aclose()

    async def _opened(self, manifest: Manifest) -> CollectionStore:
        async with self._opening:
            if self._store is None or manifest != self._manifest:
                await self.aclose()
                self._store = await self._open_store(manifest)
                self._manifest = manifest
            return self._store
