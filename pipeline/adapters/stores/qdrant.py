"""A collection on a Qdrant server (1.16 or newer), searched by dense vector and by words, fused by the server."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

from pipeline.adapters.stores import bm25, common
from pipeline.core.errors import RetrievalError
from pipeline.core.ports import Chunk, Manifest
from workers.base import Passage

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient

INSTALL_HINT = "pip install qdrant-client"
PAGE = 2_000  # payloads read at once when listing documents
MANIFEST_KEY = "headgate"  # in the collection's metadata, which searches never return

_SAID = 300  # characters of what the server says of an error
_REFUSED = re.compile(r"[^A-Za-z0-9._-]")  # in the server's names of collections


def connect(url: str, api_key: str | None, timeout_ms: int) -> "AsyncQdrantClient":
    """Opens no connection yet. The import is heavy (numpy, pydantic, grpc): it waits until a collection needs it."""
    try:
        from qdrant_client import AsyncQdrantClient  # noqa: PLC0415 - see above
    except ImportError as error:
        raise RetrievalError(f"a Qdrant server needs qdrant-client: {INSTALL_HINT}", collection="-") from error
    return AsyncQdrantClient(url=url, api_key=api_key, timeout=math.ceil(timeout_ms / 1000), check_compatibility=False)


class _Status(msgspec.Struct, frozen=True):
    error: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    """What a Qdrant server sends where it does not do what it was asked for."""

    status: _Status = _Status()


class QdrantStore:
    """A `CollectionStore`. Owns its client. The words' vectors are made here, so that the server needs no model.
    `secret` is what the client shows to the server; nothing that is told of its answers repeats it."""

    def __init__(self, client: "AsyncQdrantClient", manifest: Manifest, secret: str | None = None) -> None:
        from qdrant_client import models  # noqa: PLC0415 - heavy: only where a server is configured

        self.manifest = manifest
        self._models: Any = models
        self._client = client
        self._secret = secret
        self._name = _REFUSED.sub("_", manifest.collection)

    @classmethod
    async def open(
        cls, client: "AsyncQdrantClient", manifest: Manifest, *, recreate: bool = False, secret: str | None = None
    ) -> "QdrantStore":
        """Makes the collection where there is none, or anew. Raises `CollectionMismatch` when another embedder, or
        another program, made it; `RetrievalError` when the server cannot be used."""
        store = cls(client, manifest, secret)
        with store._told("opening it on the Qdrant server"):
            exists = await client.collection_exists(store._name)
            if exists and recreate:
                await client.delete_collection(store._name)
            if recreate or not exists:
                await store._create()
            await store._check()
        return store

    async def search(self, vector: Sequence[float], text: str, limit: int) -> list[Passage]:
        models, count = self._models, common.candidates(limit)
        words = bm25.of_query(text[: common.MAX_QUERY_CHARS])
        prefetch = [models.Prefetch(query=list(vector), using=common.DENSE, limit=count)]
        if words.indices:  # servers refuse an empty vector
            sparse = models.SparseVector(indices=words.indices, values=words.values)
            prefetch.append(models.Prefetch(query=sparse, using=common.WORDS, limit=count))
        with self._told("searching"):
            answer = await self._client.query_points(
                self._name,
                prefetch=prefetch,
                query=models.RrfQuery(rrf=models.Rrf(k=common.RRF_K)),
                limit=limit,
                with_payload=True,
            )
            return [common.passage(point.payload or {}, point.score) for point in answer.points]

    async def write(self, chunks: Sequence[Chunk]) -> None:
        """See `EdgeStore`: one part replaces the older version, of several the first removes it."""
        if not chunks:
            return
        source, last = chunks[0].source, common.last_position(chunks)
        with self._told("writing"):
            if last is None and common.begins(chunks):
                await self._delete(source)
            await self._client.upsert(self._name, [self._point(chunk) for chunk in chunks], wait=True)
            if last is not None:
                await self._delete(source, after=last)

    async def delete(self, source: str) -> None:
        with self._told("deleting"):
            await self._delete(source)

    async def documents(self) -> dict[str, str]:
        entries: list[dict[str, Any]] = []
        offset: Any = None
        with self._told("listing documents"):
            while True:
                records, offset = await self._client.scroll(
                    self._name, limit=PAGE, offset=offset, with_payload=["source", "digest", "last"]
                )
                entries += [record.payload or {} for record in records]
                if offset is None:
                    return common.digests(entries)

    async def count(self) -> int:
        with self._told("counting"):
            return (await self._client.count(self._name, exact=True)).count

    async def aclose(self) -> None:
        with self._told("closing"):
            await self._client.close()

    @contextmanager
    def _told(self, doing: str) -> Iterator[None]:
        """As `common.translated`; of an answer that is an error, what the server says of it, not all that it sent."""
        from qdrant_client.http.exceptions import UnexpectedResponse  # noqa: PLC0415 - heavy, and here by now

        with common.translated(self.manifest.collection, doing):
            try:
                yield
            except UnexpectedResponse as error:
                said = _said(error.content)
                if self._secret is not None:
                    said = said.replace(self._secret, "[secret]")
                what = f"{doing} failed: the server answered {error.status_code}{said[:_SAID]}"
                name = self.manifest.collection
            else:
                return
        raise RetrievalError(f"collection {name!r}: {what}", collection=name)

    async def _create(self) -> None:
        models = self._models
        await self._client.create_collection(
            self._name,
            vectors_config={
                common.DENSE: models.VectorParams(size=self.manifest.dimension, distance=models.Distance.COSINE)
            },
            sparse_vectors_config={common.WORDS: models.SparseVectorParams(modifier=models.Modifier.IDF)},
            metadata={MANIFEST_KEY: msgspec.to_builtins(self.manifest)},
        )
        await self._client.create_payload_index(self._name, "source", models.PayloadSchemaType.KEYWORD, wait=True)

    async def _check(self) -> None:
        metadata = (await self._client.get_collection(self._name)).config.metadata or {}
        if MANIFEST_KEY not in metadata:
            raise RetrievalError(
                f"the server's collection {self._name!r} carries no manifest of Headgate: it was made by another "
                "program, or the server is older than 1.16. Give the collection another name, or update the server",
                collection=self.manifest.collection,
            )
        common.check_manifest(msgspec.convert(metadata[MANIFEST_KEY], Manifest), self.manifest)

    def _point(self, chunk: Chunk) -> Any:
        models = self._models
        words = bm25.of_chunk(common.searchable(chunk.title, chunk.text))
        vector: dict[str, Any] = {common.DENSE: chunk.vector}
        if words.indices:
            vector[common.WORDS] = models.SparseVector(indices=words.indices, values=words.values)
        identity = common.chunk_id(chunk.source, chunk.position)
        return models.PointStruct(id=identity, vector=vector, payload=common.payload(chunk))

    async def _delete(self, source: str, *, after: int | None = None) -> None:
        models = self._models
        conditions = [models.FieldCondition(key="source", match=models.MatchValue(value=source))]
        if after is not None:
            conditions.append(models.FieldCondition(key="position", range=models.Range(gt=after)))
        selector = models.FilterSelector(filter=models.Filter(must=conditions))
        await self._client.delete(self._name, selector, wait=True)


def _said(body: bytes) -> str:
    try:
        error = msgspec.json.decode(body, type=_Refusal).status.error
    except msgspec.DecodeError:
        return ""
    return f": {error}" if error else ""
