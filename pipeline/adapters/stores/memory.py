"""Collections in memory, with the semantics of the real stores: for tests, demonstrations and what may be lost."""

import asyncio
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from operator import mul

from pipeline.adapters.stores import bm25, common
from pipeline.core.errors import RetrievalError
from pipeline.core.ports import Chunk, Manifest
from workers.base import Passage


class MemoryStore:
    """A `CollectionStore`. Brute force in Python: meant for hundreds of chunks, not for hundreds of thousands."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._chunks: dict[str, Chunk] = {}
        self._words: dict[int, dict[str, float]] = defaultdict(dict)  # term → chunk id → weight

    async def search(self, vector: Sequence[float], text: str, limit: int) -> list[Passage]:
        self._check_dimension(vector)
        count = common.candidates(limit)
        rankings = await asyncio.to_thread(
            lambda: (self._nearest(vector, list(self._chunks.values()), count), self._matching(text, count))
        )
        fused: dict[str, float] = defaultdict(float)
        for ranking in rankings:
            for rank, key in enumerate(ranking):
                fused[key] += 1.0 / (common.RRF_K + rank + 1)
        best = sorted(fused, key=lambda key: (-fused[key], key))
        found = [(self._chunks.get(key), fused[key]) for key in best]
        return [common.passage(common.payload(chunk), score) for chunk, score in found if chunk is not None][:limit]

    async def write(self, chunks: Sequence[Chunk]) -> None:
        for chunk in chunks:
            self._check_dimension(chunk.vector)
        last = common.last_position(chunks)
        if chunks and last is None and common.begins(chunks):
            await self.delete(chunks[0].source)
        for chunk in chunks:
            self._put(chunk)
        if last is not None:
            self._remove(c for c in self._of(chunks[0].source) if c.position > last)

    async def delete(self, source: str) -> None:
        self._remove(self._of(source))

    async def documents(self) -> dict[str, str]:
        return common.digests(common.payload(chunk) for chunk in self._chunks.values())

    async def count(self) -> int:
        return len(self._chunks)

    async def aclose(self) -> None:
        return None

    def _check_dimension(self, vector: Sequence[float]) -> None:
        if len(vector) != self.manifest.dimension:
            raise RetrievalError(
                f"collection {self.manifest.collection!r}: a vector of {len(vector)} dimensions instead of "
                f"{self.manifest.dimension}",
                collection=self.manifest.collection,
            )

    def _of(self, source: str) -> list[Chunk]:
        return [chunk for chunk in self._chunks.values() if chunk.source == source]

    def _put(self, chunk: Chunk) -> None:
        key = common.chunk_id(chunk.source, chunk.position)
        if key in self._chunks:
            self._remove([self._chunks[key]])
        self._chunks[key] = chunk
        sparse = bm25.of_chunk(common.searchable(chunk.title, chunk.text))
        for term, weight in zip(sparse.indices, sparse.values, strict=True):
            self._words[term][key] = weight

    def _remove(self, chunks: Iterable[Chunk]) -> None:
        for chunk in list(chunks):
            key = common.chunk_id(chunk.source, chunk.position)
            del self._chunks[key]
            for term in bm25.of_chunk(common.searchable(chunk.title, chunk.text)).indices:
                self._words[term].pop(key, None)
                if not self._words[term]:
                    del self._words[term]

    @staticmethod
    def _nearest(vector: Sequence[float], chunks: list[Chunk], count: int) -> list[str]:
        """Ids by cosine, best first; the vectors are of unit length."""
        scored = [
            (-sum(map(mul, vector, chunk.vector)), common.chunk_id(chunk.source, chunk.position)) for chunk in chunks
        ]
        return [key for _, key in sorted(scored)[:count]]

    def _matching(self, text: str, count: int) -> list[str]:
        """Ids by BM25, best first; only those that share a word with the query."""
        scores: dict[str, float] = defaultdict(float)
        total = len(self._chunks)
        for term in bm25.of_query(text[: common.MAX_QUERY_CHARS]).indices:
            postings = dict(self._words.get(term, {}))
            rarity = math.log(1 + (total - len(postings) + 0.5) / (len(postings) + 0.5))
            for key, weight in postings.items():
                scores[key] += weight * rarity
        return sorted(scores, key=lambda key: (-scores[key], key))[:count]


class MemoryShelf:
    """The collections in this process's memory, by name: they outlive their stores, as on a server."""

    def __init__(self) -> None:
        self._stores: dict[str, MemoryStore] = {}

    async def open(self, manifest: Manifest, *, recreate: bool = False) -> MemoryStore:
        """Raises `CollectionMismatch` when another embedder made the collection, unless it is to be made anew."""
        store = self._stores.get(manifest.collection)
        if store is None or recreate:
            store = self._stores[manifest.collection] = MemoryStore(manifest)
        common.check_manifest(store.manifest, manifest)
        return store
