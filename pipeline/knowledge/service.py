"""The collections of one process: opens their stores, embeds, searches and writes."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

import structlog

from config.schema import LOCAL_EMBEDDERS, AnyWorker, CollectionSection, KnowledgeSection
from pipeline.adapters.retrievers.stored import Embedded
from pipeline.adapters.stores.common import searchable, translated
from pipeline.adapters.stores.edge import EdgeStore
from pipeline.adapters.stores.memory import MemoryShelf
from pipeline.core.errors import RetrievalError
from pipeline.core.ports import CollectionStore, Manifest
from pipeline.knowledge.batching import QueryBatcher
from pipeline.knowledge.embedders import Embedders, RemoteEmbedders
from pipeline.knowledge.openers import Opener, ResolveSecret, opener_of
from pipeline.knowledge.places import MODELS
from pipeline.knowledge.wire import Piece
from workers.base import Embedder, Passage

_log = structlog.get_logger()

_REMOTE_BATCHES = 4  # embedded by one worker at a time
_END_SECONDS = 0.5  # for what is being embedded when the process ends; nobody waits for it any more


class _Collection:
    """A collection whose store is opened when it is first needed, and again after that failed."""

    def __init__(self, section: CollectionSection, embedder: Embedder, opener: Opener, queries: QueryBatcher) -> None:
        self.section = section
        self.embedder = embedder
        self.queries = queries
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
        workers: Sequence[AnyWorker] = (),
    ) -> None:
        """`workers` are those that may embed. Raises `EmbedderUnavailable`, and ConfigError for a secret that is not
        there."""
        remote = RemoteEmbedders(workers, resolve_secret, data_dir)
        self._embedders = Embedders(data_dir / MODELS, settings.threads, remote)
        self._settings = settings
        self._queries: dict[str, QueryBatcher] = {}  # by worker, so that a slow one keeps no other waiting; "": here
        self._collections: dict[str, _Collection] = {}
        shelf = MemoryShelf()
        for position, section in enumerate(sections):
            resolve = partial(resolve_secret, path=f"collections[{position}].api_key")
            opener = opener_of(section, shelf, data_dir, resolve)
            embedder = self._embedders.of(section)
            self._collections[section.name] = _Collection(section, embedder, opener, self._batcher(section))
        self._tasks: list[asyncio.Task[None]] = []

    async def open(self) -> None:
        """Warms the embedders and opens the collections that are kept here. One that cannot be opened does not keep the
        others from being served: it says why, here and to everyone who asks for it."""
        self._tasks = [
            asyncio.create_task(queries.run(), name="knowledge-queries") for queries in self._queries.values()
        ]
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
        for queries in self._queries.values():
            queries.close()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=_END_SECONDS)
            for task in late:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
        for collection in self._collections.values():
            await collection.aclose()
        await self._embedders.aclose()

    def _batcher(self, section: CollectionSection) -> QueryBatcher:
        local = section.embedder in LOCAL_EMBEDDERS
        name = "" if local else section.embedder
        if name not in self._queries:
            parallel = 1 if local else _REMOTE_BATCHES
            self._queries[name] = QueryBatcher(self._settings.capacity, self._settings.batch, parallel)
        return self._queries[name]

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
            return await collection.queries.vector(collection.embedder, text, name)
