"""What all stores have in common: a chunk's id and payload, the manifest's check, completeness, errors."""

import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.core.ports import Chunk, Manifest
from workers.base import Passage

DENSE = "dense"  # name of the embedder's vector in a store with several
WORDS = "words"  # name of the BM25 vector
RRF_K = 60  # of reciprocal rank fusion: Cormack, Clarke and Büttcher, 2009
MAX_QUERY_CHARS = 8_192  # of a query that are looked at for words

_NAMESPACE = uuid.UUID("8b0d6a52-9f5e-5a0e-8a52-6d1d5a0f3c11")


def chunk_id(source: str, position: int) -> str:
    """The same for the same place in the same document, so that writing it again replaces it."""
    return str(uuid.uuid5(_NAMESPACE, f"{source}\0{position}"))


def candidates(limit: int) -> int:
    """How many each of the two rankings gives to the fusion."""
    return max(4 * limit, 40)


def searchable(title: str, text: str) -> str:
    return f"{title}\n{text}" if title else text


def payload(chunk: Chunk) -> dict[str, Any]:
    return {
        "source": chunk.source,
        "position": chunk.position,
        "title": chunk.title,
        "text": chunk.text,
        "digest": chunk.digest,
        "last": chunk.last,
    }


def passage(stored: Mapping[str, Any], score: float) -> Passage:
    return Passage(
        text=stored["text"],
        source=stored["source"],
        position=stored["position"],
        score=score,
        title=stored.get("title", ""),
    )


def begins(chunks: Sequence[Chunk]) -> bool:
    return any(chunk.position == 0 for chunk in chunks)


def last_position(chunks: Sequence[Chunk]) -> int | None:
    """Position of the chunk that ends the document, if it is among these."""
    return next((chunk.position for chunk in chunks if chunk.last), None)


def digests(stored: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """source → digest from the payloads of all chunks; '' where a document is not exactly one complete version."""
    seen: dict[str, set[str]] = {}
    ends: dict[str, int] = {}
    for entry in stored:
        source = entry["source"]
        seen.setdefault(source, set()).add(entry["digest"])
        ends[source] = ends.get(source, 0) + bool(entry["last"])
    return {source: next(iter(found)) if len(found) == ends[source] == 1 else "" for source, found in seen.items()}


def check_manifest(found: Manifest, wanted: Manifest) -> None:
    """Raises `CollectionMismatch` unless a collection made as `found` may be used as `wanted`."""
    if found == wanted:
        return
    raise CollectionMismatch(
        f"collection {wanted.collection!r} was made by the embedder {_made_by(found)}; the embedder here is "
        f"{_made_by(wanted)}. Their vectors cannot be compared: configure or install the first one, or make the "
        f"collection anew with `headgate ingest PATH… --collection {wanted.collection} --recreate`",
        collection=wanted.collection,
    )


def _made_by(manifest: Manifest) -> str:
    return f"{manifest.embedder} ({manifest.dimension} dimensions, format {manifest.version}, {manifest.collection!r})"


@contextmanager
def translated(collection: str, doing: str) -> Iterator[None]:
    """Turns whatever a store's library raises into a `RetrievalError` that says what was being done."""
    try:
        yield
    except RetrievalError:
        raise
    except Exception as error:
        detail = " ".join(str(error).split()) or type(error).__name__
        raise RetrievalError(
            f"collection {collection!r}: {doing} failed: {detail[:500]}", collection=collection
        ) from error
