"""A retriever that is all in this process: for tests and demonstrations."""

from collections.abc import Sequence

from pipeline.adapters.stores.memory import MemoryStore
from pipeline.core.errors import RetrievalError
from pipeline.core.ports import Chunk, Manifest
from workers.base import Embedder, Passage


class MemoryRetriever:
    """A `Retriever` over collections that `add` fills. Owns its embedder."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._stores: dict[str, MemoryStore] = {}

    async def add(self, collection: str, source: str, pieces: Sequence[tuple[str, str]]) -> None:
        """Stores a document as its pieces, each a title and a text; an older version is replaced."""
        if collection not in self._stores:
            manifest = Manifest(collection, self._embedder.fingerprint, self._embedder.dimension)
            self._stores[collection] = MemoryStore(manifest)
        vectors = await self._embedder.embed([f"{title}\n{text}" for title, text in pieces])
        chunks = [
            Chunk(source, position, title, text, digest="-", vector=vector, last=position == len(pieces) - 1)
            for position, ((title, text), vector) in enumerate(zip(pieces, vectors, strict=True))
        ]
        await self._stores[collection].write(chunks)

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        store = self._stores.get(collection)
        if store is None:
            raise RetrievalError(f"no collection {collection!r}", collection=collection)
        if not query.strip():
            return []
        (vector,) = await self._embedder.embed([query], query=True)
        return await store.search(vector, query, limit)

    async def aclose(self) -> None:
        await self._embedder.aclose()
