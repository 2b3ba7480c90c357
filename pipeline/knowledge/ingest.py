"""Brings a collection up to date with files: new and changed ones are stored, vanished ones deleted.

Every document is complete, or known to be incomplete, at any moment, so an ingest may be interrupted and run again.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing, suppress
from pathlib import Path

import msgspec

from config.schema import CollectionSection, Config
from pipeline.core.errors import RetrievalError
from pipeline.knowledge.discovery import Discovery, Document, Unread, discover
from pipeline.knowledge.errors import Disconnected, IngestError
from pipeline.knowledge.reach import Reach, reach
from pipeline.knowledge.reading import Cut, Job, Reader, Refused
from pipeline.knowledge.wire import Piece

PIECES_AT_ONCE = 16
DOCUMENTS_AT_ONCE = 2  # one is being read and cut while the other one is being embedded


class Progress(msgspec.Struct):
    """How far an ingest has come. Bytes are the measure that is known from the start."""

    files: int = 0
    files_done: int = 0
    bytes: int = 0
    bytes_done: float = 0.0
    chunks: int = 0
    current: str = ""


class IngestReport(msgspec.Struct):
    """`unreadable` are what was asked for and could not be used, `empty` what holds no text. `chunks` were stored now,
    `total_chunks` are in the collection. `spared`: it holds other documents, and nothing was done."""

    added: int = 0
    updated: int = 0
    unchanged: int = 0
    deleted: int = 0
    empty: list[str] = msgspec.field(default_factory=list)
    unreadable: list[Unread] = msgspec.field(default_factory=list)
    chunks: int = 0
    total_chunks: int = 0
    spared: bool = False
    seconds: float = 0.0


async def ingest(
    paths: Sequence[Path],
    collection: str,
    config: Config,
    *,
    prune: bool = True,
    recreate: bool = False,
    spare_others: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
) -> IngestReport:
    """Brings `collection` up to date with the documents in `paths`, by the running daemon's knowledge process, else by
    one of its own for as long as it takes.

    `prune` deletes documents that came from under `paths` and are no longer there; `recreate` empties the collection
    first; `spare_others` does nothing when it holds documents from elsewhere. `report` is called often, with the same,
    growing object.

    Raises `IngestError` (a path is missing, the collection is not configured, no knowledge process), `RetrievalError`
    (the collection cannot be used). Safe to cancel.
    """
    began = time.monotonic()
    section = _section(config, collection)
    found = await asyncio.to_thread(discover, paths)
    async with reach(config, section) as process, aclosing(Reader()) as reader:
        run = _Run(process, reader, section, found, report)
        if recreate:
            await process.retried(lambda: process.client.recreate(collection))
        await run.documents(prune=prune, spare_others=spare_others)
        if process.own:
            await run.optimize()
        run.result.total_chunks = await process.retried(lambda: process.client.count(collection))
    run.result.seconds = time.monotonic() - began
    return run.result


def _section(config: Config, name: str) -> CollectionSection:
    for section in config.collections:
        if section.name == name:
            return section
    known = ", ".join(section.name for section in config.collections) or "none"
    raise IngestError(f"no collection {name!r} is configured (there are: {known})")


class _Run:
    """One ingest under way."""

    def __init__(
        self,
        process: Reach,
        reader: Reader,
        section: CollectionSection,
        found: Discovery,
        report: Callable[[Progress], None],
    ) -> None:
        self.result = IngestReport(unreadable=list(found.unread))
        self._process = process
        self._reader = reader
        self._section = section
        self._found = found
        self._report = report
        self._stored: dict[str, str] = {}
        self._progress = Progress(files=len(found.documents), bytes=sum(document.size for document in found.documents))

    async def documents(self, *, prune: bool, spare_others: bool) -> None:
        self._report(self._progress)
        self._stored = await self._process.retried(lambda: self._process.client.documents(self._section.name))
        if spare_others and not all(map(self._found.covers, self._stored)):
            self.result.spared = True
            return
        if prune:
            for source in self._found.vanished(sorted(self._stored)):
                await self._delete(source)
        waiting = iter(self._found.documents)
        workers = [asyncio.create_task(self._work(waiting)) for _ in range(DOCUMENTS_AT_ONCE)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
            await asyncio.gather(*workers, return_exceptions=True)
        self.result.chunks = self._progress.chunks
        self.result.unreadable.sort()
        self.result.empty.sort()

    async def optimize(self) -> None:
        """In our own knowledge process, which serves nobody else. One that took over from it refuses, and rightly."""
        if self.result.chunks or self.result.deleted:
            self._progress.current = "building the index"
            self._report(self._progress)
            with suppress(RetrievalError):
                await self._process.client.optimize(self._section.name)

    async def _work(self, waiting: Iterator[Document]) -> None:
        for document in waiting:
            self._progress.current = document.source
            self._report(self._progress)
            await self._document(document)
            self._progress.files_done += 1
            self._report(self._progress)

    async def _document(self, document: Document) -> None:
        known = self._stored.get(document.source, "")
        job = Job(os.fsencode(document.path), self._section.chunk_chars, self._section.overlap_chars, known)
        result = await self._reader.read(job)
        if isinstance(result, Cut) and result.texts:
            await self._process.retried(lambda: self._write(document, result))
            self.result.added += document.source not in self._stored
            self.result.updated += document.source in self._stored
            return
        if isinstance(result, Refused):
            self.result.unreadable.append(Unread(document.source, result.reason))
        elif isinstance(result, Cut):
            self.result.empty.append(document.source)
            if document.source in self._stored:
                await self._delete(document.source)
        else:
            self.result.unchanged += 1
        self._progress.bytes_done += document.size

    async def _write(self, document: Document, cut: Cut) -> None:
        """Stores a document in parts. An attempt that breaks off is made again from the start, so it does not count."""
        last = len(cut.texts) - 1
        pieces = [
            Piece(document.source, i, title, text, cut.digest, i == last) for i, (title, text) in enumerate(cut.texts)
        ]
        stored = 0
        try:
            for part in (pieces[i : i + PIECES_AT_ONCE] for i in range(0, len(pieces), PIECES_AT_ONCE)):
                await self._process.client.write(self._section.name, part)
                stored += len(part)
                self._count(len(part), document.size / len(pieces))
        except Disconnected:
            self._count(-stored, document.size / len(pieces))
            raise

    def _count(self, chunks: int, bytes_each: float) -> None:
        self._progress.chunks += chunks
        self._progress.bytes_done += chunks * bytes_each
        self._report(self._progress)

    async def _delete(self, source: str) -> None:
        await self._process.retried(lambda: self._process.client.delete(self._section.name, source))
        self.result.deleted += 1
