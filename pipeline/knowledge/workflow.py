"""Collections as workflow steps see them: searched, and written by the same chunking as `headgate ingest`.

In a daemon all of them are reached through the knowledge process, whatever their store: it opens embedded ones, those
in its memory and those on a Qdrant server. A run without a daemon has those with `store = "memory"` in its own process;
for the others a daemon must run, whose process has the data folder.
"""

import asyncio
import hashlib
import itertools
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from weakref import WeakValueDictionary

from config.schema import CollectionSection, Config
from config.secrets import resolve
from pipeline.adapters.retrievers.stored import Embedded
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge import wire
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.errors import Busy, Disconnected
from pipeline.knowledge.places import SOCKET
from pipeline.workflow.errors import Postponed, StepFailed
from workers.base import Passage

if TYPE_CHECKING:  # its parsers take memory, which a shard that stores nothing does not spend
    from pipeline.knowledge.reading import Cut, Reader

PIECES_AT_ONCE = 16
BUSY_SECONDS = 1.0
IDLE_SECONDS = 10.0  # how long the parsers' process is kept
MAX_TITLE_CHARS = 300
_SUFFIXES = frozenset({".md", ".html"})


class Collections(Protocol):
    """`KnowledgeClient`, or `pipeline.knowledge.service.Knowledge` in the same process. Raises `RetrievalError`."""

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]: ...

    async def embed(self, collection: str, text: str) -> Embedded: ...

    async def write(self, collection: str, pieces: Sequence[wire.Piece]) -> None: ...

    async def delete(self, collection: str, source: str) -> None: ...

    async def aclose(self) -> None: ...


class CollectionKnowledge:
    """`pipeline.workflow.ports.Knowledge` over the configured collections. Raises `Postponed` too, where the knowledge
    process has no place left. It does not own what it is given, but is to be closed before its event loop: uvloop's
    would wait for the parsers' process for ever."""

    def __init__(self, sections: Sequence[CollectionSection], collections: Collections) -> None:
        self._sections = {section.name: section for section in sections}
        self._collections = collections
        self._cutter = _Cutter()
        self._writing: WeakValueDictionary[tuple[str, str], asyncio.Lock] = WeakValueDictionary()

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        self._section(collection)
        try:
            return await self._collections.search(collection, query, limit)
        except RetrievalError as error:
            raise told(error) from error

    async def embed(self, collection: str, text: str) -> list[float]:
        self._section(collection)
        try:
            return (await self._collections.embed(collection, text)).vector
        except RetrievalError as error:
            raise told(error) from error

    async def upsert(self, collection: str, source: str, title: str, text: str) -> int:
        """A source that ends in .md or .html says how the text is cut, else it is plain text. A text without words
        deletes the document. An upsert that breaks off leaves the document marked as incomplete, and is to be made
        again."""
        section = self._section(collection)
        source, title = wire.clean(source), wire.clean(title)
        key = (collection, source)
        lock = self._writing.setdefault(key, asyncio.Lock())
        async with lock:  # parts of two versions would not make one
            cut = await self._cutter.cut(section, source, text)
            try:
                return await self._store(collection, source, title, cut)
            except RetrievalError as error:
                raise told(error) from error

    async def aclose(self) -> None:
        await self._cutter.aclose()

    async def _store(self, collection: str, source: str, title: str, cut: "Cut") -> int:
        if not cut.texts:
            await self._collections.delete(collection, source)
            return 0
        digest = hashlib.sha256(f"{cut.digest}\n{title}".encode()).hexdigest()[:40] if title else cut.digest
        last = len(cut.texts) - 1
        pieces = [
            wire.Piece(source, i, _titled(title, heading), text, digest, i == last)
            for i, (heading, text) in enumerate(cut.texts)
        ]
        for at in range(0, len(pieces), PIECES_AT_ONCE):
            await self._collections.write(collection, pieces[at : at + PIECES_AT_ONCE])
        return len(pieces)

    def _section(self, collection: str) -> CollectionSection:
        section = self._sections.get(collection)
        if section is None:
            known = ", ".join(sorted(self._sections)) or "none"
            message = f"no collection {collection[:100]!r} is configured (there are: {known})"
            raise StepFailed("unknown_collection", message, details={"collection": collection[:100]})
        return section


class LocalCollections:
    """For runs without a daemon; a `Retriever` too. Collections in memory are this process' own, and empty at first;
    the others are asked of a daemon's knowledge process. Use `local_collections`."""

    def __init__(self, own: Collections, others: Collections, sections: Sequence[CollectionSection]) -> None:
        self._own = own
        self._others = others
        self._stores = {section.name: section.store for section in sections}

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]:
        return await self._of(collection).search(collection, query, limit)

    async def embed(self, collection: str, text: str) -> Embedded:
        return await self._of(collection).embed(collection, text)

    async def write(self, collection: str, pieces: Sequence[wire.Piece]) -> None:
        await self._of(collection).write(collection, pieces)

    async def delete(self, collection: str, source: str) -> None:
        await self._of(collection).delete(collection, source)

    async def aclose(self) -> None:
        """Nothing: what it is made of is closed where it was made. A pipeline closes its retriever."""

    def _of(self, collection: str) -> Collections:
        return self._own if self._stores.get(collection) == "memory" else self._others


@asynccontextmanager
async def local_collections(config: Config) -> AsyncIterator[LocalCollections]:
    """Raises `EmbedderUnavailable`, and ConfigError for a secret that is not there."""
    from pipeline.knowledge.service import Knowledge  # noqa: PLC0415 - heavy, and only for runs without a daemon

    data_dir = Path(config.server.data_dir)
    own = Knowledge(
        [section for section in config.collections if section.store == "memory"],
        config.knowledge,
        data_dir,
        resolve,
        config.workers,
    )
    others = KnowledgeClient(data_dir / SOCKET)
    try:
        await own.open()
        yield LocalCollections(own, others, config.collections)
    finally:
        await others.aclose()
        await own.aclose()


def told(error: RetrievalError) -> StepFailed | Postponed:
    """In the engine's terms. A full queue has only to be asked again."""
    if isinstance(error, Busy):
        return Postponed("knowledge_busy", BUSY_SECONDS)
    message = error.message
    if isinstance(error, Disconnected):
        message += "; collections that are not in memory need a daemon (`headgate serve`)"
    kind = "collection_mismatch" if isinstance(error, CollectionMismatch) else "retrieval_error"
    details = {"collection": error.collection}
    return StepFailed(kind, message, retryable=not isinstance(error, CollectionMismatch), details=details)


def _titled(title: str, heading: str) -> str:
    """Headings stand below the document's title."""
    return " > ".join(part for part in (title, heading) if part)[:MAX_TITLE_CHARS]


class _Cutter:
    """Cuts texts into chunks, as files are: in a process of its own, which is ended where a text takes too long, and
    when nobody has needed it for a while."""

    def __init__(self) -> None:
        self._reader: Reader | None = None
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._numbers = itertools.count()
        self._turn = asyncio.Lock()
        self._rest: asyncio.TimerHandle | None = None
        self._resting: asyncio.Task[None] | None = None

    async def cut(self, section: CollectionSection, source: str, text: str) -> "Cut":
        """Raises `StepFailed` for a text that cannot be used."""
        from pipeline.knowledge.reading import Cut, Job, Reader, Refused  # noqa: PLC0415 - see above

        suffix = Path(source).suffix.lower()
        async with self._turn:
            self._keep()
            reader = self._reader = self._reader or Reader()
            path = self._path(suffix if suffix in _SUFFIXES else ".txt")
            try:
                await asyncio.to_thread(path.write_bytes, text.encode("utf-8", "replace"))
                result = await reader.read(Job(bytes(path), section.chunk_chars, section.overlap_chars, ""))
            finally:
                path.unlink(missing_ok=True)
                self._rest = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._begin_rest)
        if isinstance(result, Cut):
            return result
        reason = result.reason if isinstance(result, Refused) else "it did not change"
        raise StepFailed(
            "invalid_document", f"the document {source[:100]!r} {reason}", details={"source": source[:100]}
        )

    async def aclose(self) -> None:
        self._keep()
        if self._resting is not None:
            self._resting.cancel()
            with suppress(asyncio.CancelledError):
                await self._resting
        await self._let_go()

    def _path(self, suffix: str) -> Path:
        """The parsers read files. Each has another name: whoever was cancelled may still be writing."""
        if self._folder is None:
            self._folder = tempfile.TemporaryDirectory(prefix="headgate-", ignore_cleanup_errors=True)
        return Path(self._folder.name) / f"{next(self._numbers)}{suffix}"

    async def _let_go(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None:
            await reader.aclose()
        folder, self._folder = self._folder, None
        if folder is not None:
            folder.cleanup()

    def _keep(self) -> None:
        rest, self._rest = self._rest, None
        if rest is not None:
            rest.cancel()

    def _begin_rest(self) -> None:
        self._rest = None
        self._resting = asyncio.get_running_loop().create_task(self._end(), name="knowledge-cutter")

    async def _end(self) -> None:
        async with self._turn:
            if self._rest is None:
                await self._let_go()
