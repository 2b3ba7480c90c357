"""The embedded store: a Qdrant shard in this process, its write-ahead log on, dense vectors and BM25 fused.

One process at a time may have a collection open; the engine locks it. The engine's calls are synchronous and hold the
interpreter for milliseconds; they run in threads, writers in one, so that the event loop keeps turning between them.
"""

import asyncio
import os
import shutil
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pipeline.adapters.stores import common
from pipeline.core.errors import RetrievalError
from pipeline.core.ports import Chunk, Manifest
from workers.base import Passage

T = TypeVar("T")

INSTALL_HINT = "pip install 'headgate[embedded]'"
MANIFEST = "manifest.json"
SHARD = "shard"
PAGE = 5_000  # payloads read at once when listing documents
SEARCH_THREADS = 2


class EdgeStore:
    """A `CollectionStore` in a folder: `manifest.json` beside the engine's own files.

    A write is durable when `write` returns: against the end of this process always (write-ahead log), against the end
    of the machine once the document is complete (flush).
    """

    def __init__(self, manifest: Manifest, shard: Any) -> None:
        engine = _engine(manifest.collection)
        self.manifest = manifest
        self._engine = engine
        self._shard = shard
        # English stop words and stems; other languages lose nothing but that. The tokenizer splits unspaced scripts.
        self._bm25 = engine.Bm25(
            engine.Bm25Config(language="english", tokenizer=engine.TokenizerType.Multilingual, avg_len=150.0)
        )
        self._readers = ThreadPoolExecutor(SEARCH_THREADS, thread_name_prefix="edge-read")
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="edge-write")

    @classmethod
    async def open(cls, folder: Path, manifest: Manifest, *, recreate: bool = False) -> "EdgeStore":
        """Opens the collection in `folder`, or makes it where there is none or it is to be made anew.

        Raises `CollectionMismatch` when another embedder made it, `RetrievalError` when it cannot be opened.
        """
        with common.translated(manifest.collection, f"opening {folder}"):
            shard = await asyncio.to_thread(_open, folder, manifest, recreate=recreate)
        return cls(manifest, shard)

    async def search(self, vector: Sequence[float], text: str, limit: int) -> list[Passage]:
        return await self._run(self._readers, "searching", lambda: self._search(list(vector), text, limit))

    async def write(self, chunks: Sequence[Chunk]) -> None:
        if chunks:
            await self._run(self._writer, "writing", lambda: self._write(chunks))

    async def delete(self, source: str) -> None:
        await self._run(self._writer, "deleting", lambda: self._delete(source, flush=True))

    async def documents(self) -> dict[str, str]:
        entries: list[dict[str, Any]] = []
        offset: Any = None
        while True:  # page by page, so that searches get their turn in between
            page, offset = await self._run(self._readers, "listing documents", partial(self._page, offset))
            entries += page
            if offset is None:
                return common.digests(entries)

    async def count(self) -> int:
        return await self._run(self._readers, "counting", lambda: int(self._shard.count(self._engine.CountRequest())))

    async def optimize(self) -> None:
        """Builds the vector index of a large collection and gives back the room of deleted chunks.

        The engine holds the interpreter all the while (about half a second per thousand chunks): only for a process
        that serves nobody.
        """
        await self._run(self._writer, "optimizing", self._shard.optimize)

    async def aclose(self) -> None:
        """Waits for what is under way. Idempotent."""
        with common.translated(self.manifest.collection, "closing"):
            await asyncio.to_thread(self._close)

    async def _run(self, pool: ThreadPoolExecutor, doing: str, call: Callable[[], T]) -> T:
        with common.translated(self.manifest.collection, doing):
            return await asyncio.get_running_loop().run_in_executor(pool, call)

    def _search(self, vector: list[float], text: str, limit: int) -> list[Passage]:
        engine, count = self._engine, common.candidates(limit)
        words = self._bm25.embed_query(_encodable(text[: common.MAX_QUERY_CHARS]))
        request = engine.QueryRequest(
            limit=limit,
            prefetches=[
                engine.Prefetch(limit=count, query=engine.Query.Nearest(vector, using=common.DENSE)),
                engine.Prefetch(limit=count, query=engine.Query.Nearest(words, using=common.WORDS)),
            ],
            query=engine.Fusion.Rrf(k=common.RRF_K),
            with_payload=True,
        )
        return [common.passage(point.payload, point.score) for point in self._shard.query(request)]

    def _write(self, chunks: Sequence[Chunk]) -> None:
        """A document that comes in one part replaces its older version in one step; of one that comes in several, the
        older version is removed first, so that its end cannot pass for the end of this one."""
        source, last = chunks[0].source, common.last_position(chunks)
        if last is None and common.begins(chunks):
            self._delete(source)
        self._shard.update(self._engine.UpdateOperation.upsert_points([self._point(chunk) for chunk in chunks]))
        if last is not None:
            self._delete(source, after=last, flush=True)

    def _point(self, chunk: Chunk) -> Any:
        words = self._bm25.embed_document(common.searchable(chunk.title, chunk.text))
        vectors = {common.DENSE: chunk.vector, common.WORDS: words}
        return self._engine.Point(common.chunk_id(chunk.source, chunk.position), vectors, common.payload(chunk))

    def _delete(self, source: str, *, after: int | None = None, flush: bool = False) -> None:
        engine = self._engine
        conditions = [engine.FieldCondition("source", match=engine.MatchValue(source))]
        if after is not None:
            conditions.append(engine.FieldCondition("position", range=engine.RangeFloat(gt=after)))
        self._shard.update(engine.UpdateOperation.delete_points_by_filter(engine.Filter(must=conditions)))
        if flush:
            self._shard.flush()

    def _page(self, offset: Any) -> tuple[list[dict[str, Any]], Any]:
        request = self._engine.ScrollRequest(offset=offset, limit=PAGE, with_payload=["source", "digest", "last"])
        records, following = self._shard.scroll(request)
        return [record.payload for record in records], following

    def _close(self) -> None:
        self._readers.shutdown()
        self._writer.shutdown()
        shard, self._shard = self._shard, None
        if shard is not None:
            shard.flush()
            shard.close()


def _engine(collection: str) -> Any:
    try:
        import qdrant_edge  # noqa: PLC0415 - optional package
    except ImportError as error:
        raise RetrievalError(
            f"collection {collection!r}: the embedded store needs qdrant-edge-py: {INSTALL_HINT}", collection=collection
        ) from error
    return qdrant_edge


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")  # the engine refuses lone surrogates


def _open(folder: Path, manifest: Manifest, *, recreate: bool) -> Any:
    engine = _engine(manifest.collection)
    _sweep(folder)
    if recreate and folder.exists():
        _discard(folder)
    if not folder.exists():
        _create(engine, folder, manifest)
    common.check_manifest(_read_manifest(folder, manifest.collection), manifest)
    return engine.EdgeShard.load(str(folder / SHARD))


def _read_manifest(folder: Path, collection: str) -> Manifest:
    try:
        return msgspec.json.decode((folder / MANIFEST).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError) as error:
        raise RetrievalError(
            f"collection {collection!r}: {folder / MANIFEST} cannot be read ({error}); make the collection anew with "
            f"`headgate ingest PATH… --collection {collection} --recreate`",
            collection=collection,
        ) from error


def _create(engine: Any, folder: Path, manifest: Manifest) -> None:
    """The folder appears complete or not at all, whenever this process ends."""
    new = _beside(folder)
    (new / SHARD).mkdir(parents=True)
    config = engine.EdgeConfig(
        vectors={common.DENSE: engine.EdgeVectorParams(manifest.dimension, engine.Distance.Cosine)},
        sparse_vectors={common.WORDS: engine.EdgeSparseVectorParams(modifier=engine.Modifier.Idf)},
        max_search_threads=min(4, os.cpu_count() or 1),
        wal_enabled=True,
    )
    shard = engine.EdgeShard.create(str(new / SHARD), config)
    shard.update(engine.UpdateOperation.create_field_index("source", engine.PayloadSchemaType.Keyword))
    shard.flush()
    shard.close()
    (new / MANIFEST).write_bytes(msgspec.json.format(msgspec.json.encode(manifest)))
    new.rename(folder)


def _beside(folder: Path) -> Path:
    return folder.with_name(f".{folder.name}.{uuid.uuid4().hex}")


def _discard(folder: Path) -> None:
    away = _beside(folder)
    folder.rename(away)
    shutil.rmtree(away)


def _sweep(folder: Path) -> None:
    """Removes what an interrupted `_create` or `_discard` of this collection left."""
    for left in folder.parent.glob(f".{folder.name}.????????????????????????????????"):
        shutil.rmtree(left)
