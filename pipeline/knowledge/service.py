"""The collections of one process: opens their stores, embeds, searches and writes."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from config.schema import CollectionSection, KnowledgeSection
from pipeline.adapters.retrievers.stored import Embedded
from pipeline.adapters.stores.common import searchable, translated
from pipeline.adapters.stores.edge import EdgeStore
from pipeline.adapters.stores.memory import MemoryShelf
from pipeline.core.errors import RetrievalError
from pipeline.core.ports import CollectionStore, Manifest
from pipeline.knowledge.batching import QueryBatcher
from pipeline.knowledge.embedders import Embedders
from pipeline.knowledge.openers import Opener, ResolveSecret, opener_of
from pipeline.knowledge.places import MODELS
from pipeline.knowledge.wire import Piece
from workers.base import Embedder, Passage

_log = structlog.get_logger()


class _Collection:
    """A collection whose store is opened when it is first needed, and again after that failed."""

    def __init__(self, section: CollectionSection, embedder: Embedder, opener: Opener) -> None:
        self.section = section
        self.embedder = embedder
        self.writing = asyncio.Lock()  # one document's part at a time: their order matters
        self._manifest = Manifest(section.name, embedder.fingerprint, embedder.dimension)
        self._opener = opener
        self._opening = asyncio.Lock()
        self._store: CollectionStore | None = None

    async def store(self) -> CollectionStore:
        async with self._opening:
            if self._store is None:
                self._store = await self._opener(self._manifest)
            return self._store

    async def recreate(self) -> None:
        async with self._opening:
            await self._close()
            self._store = await self._opener(self._manifest, recreate=True)

    async def aclose(self) -> None:
        async with self._opening:
            await self._close()

    async def _close(self) -> None:
        store, self._store = self._store, None
        if store is not None:
            await store.aclose()


class Knowledge:
    """All collections. Every method raises `RetrievalError`, or one of its kinds, and is safe to cancel."""

    def __init__(
        self,
        sections: Sequence[CollectionSection],
        settings: KnowledgeSection,
        data_dir: Path,
        resolve_secret: ResolveSecret,
    ) -> None:
        """Raises `EmbedderUnavailable`, and ConfigError for a secret that is not there."""
        self._embedders = Embedders(data_dir / MODELS, settings.threads)
        self._queries = QueryBatcher(settings.capacity, settings.batch)
        self._collections: dict[str, _Collection] = {}
        shelf = MemoryShelf()
        for position, section in enumerate(sections):
            resolve = partial(resolve_secret, path=f"collections[{position}].api_key")
            opener = opener_of(section, shelf, data_dir, resolve)
            embedder = self._embedders.get(section.embedder, section.name)
            self._collections[section.name] = _Collection(section, embedder, opener)
        self._task: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Warms the embedders and opens the collections that are kept here. One that cannot be opened does not keep the
        others from being served: it says why, here and to everyone who asks for it."""
        self._task = asyncio.create_task(self._queries.run(), name="knowledge-queries")
        local = [c for c in self._collections.values() if c.section.store != "qdrant"]
        results = await asyncio.gather(
            self._embedders.warm(), *(collection.store() for collection in local), return_exceptions=True
        )
        for result in results:
            if isinstance(result, RetrievalError):
                _log.error("collection_unusable", collection=result.collection, reason=result.message)
            elif isinstance(result, BaseException):
                raise result

    async def warn_of_empty(self) -> None:
        """Logs which of the collections kept here hold nothing. Their routes' answers do not tell: they have found
        nothing, as if the documents did not say."""
        for collection in self._collections.values():
            if collection.section.store == "qdrant":
                continue
            name = collection.section.name
            with suppress(RetrievalError):  # has been told
                if not await (await collection.store()).count():
                    _log.warning("collection_empty", collection=name, hint=f"headgate ingest PATH… --collection {name}")

    async def search(self, collection: str, query: str, limit: int) -> list[Passage]:
        found = self._get(collection)
        if not query.strip() or limit < 1:
            return []
        store = await found.store()
        vector = await self._vector(found, query)
        return await store.search(vector, query, limit)

    async def embed(self, collection: str, text: str) -> Embedded:
        found = self._get(collection)
        return Embedded(found.embedder.fingerprint, await self._vector(found, text))

    async def write(self, collection: str, pieces: Sequence[Piece]) -> None:
        found = self._get(collection)
        store = await found.store()
        with translated(collection, "embedding"):
            vectors = await found.embedder.embed([searchable(piece.title, piece.text) for piece in pieces])
        async with found.writing:
            await store.write([piece.with_vector(vector) for piece, vector in zip(pieces, vectors, strict=True)])

    async def delete(self, collection: str, source: str) -> None:
        found = self._get(collection)
        store = await found.store()
        async with found.writing:
            await store.delete(source)

    async def documents(self, collection: str) -> dict[str, str]:
        return await (await self._get(collection).store()).documents()

    async def count(self, collection: str) -> int:
        return await (await self._get(collection).store()).count()

    async def recreate(self, collection: str) -> None:
        found = self._get(collection)
        async with found.writing:
            await found.recreate()

    async def optimize(self, collection: str) -> None:
        """Only for a process that serves nobody else: see `EdgeStore.optimize`."""
        store = await self._get(collection).store()
        if isinstance(store, EdgeStore):
            await store.optimize()

    async def aclose(self) -> None:
        self._queries.close()
        if self._task is not None:
            await self._task
        for collection in self._collections.values():
            await collection.aclose()
        await self._embedders.aclose()

    def _get(self, name: str) -> _Collection:
        found = self._collections.get(name)
        if found is None:
            known = ", ".join(sorted(self._collections)) or "none"
            raise RetrievalError(
                f"the knowledge process has no collection {name!r}, only {known}; was it configured after the daemon "
                "was started?",
                collection=name,
            )
        return found

    async def _vector(self, collection: _Collection, text: str) -> list[float]:
        name = collection.section.name
        with translated(name, "embedding"):
            return await self._queries.vector(collection.embedder, text, name)
