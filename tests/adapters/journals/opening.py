"""Journals in a file, as these tests open them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pipeline.adapters.journals.sqlite import SqliteJournal

INLINE_BYTES = 1024


def journal(path: Path, shard: int = 0, *, patience: float = 5.0, lease_seconds: float = 10.0) -> SqliteJournal:
    return SqliteJournal(
        path,
        shard=shard,
        synchronous="normal",
        lease_seconds=lease_seconds,
        inline_bytes=INLINE_BYTES,
        patience=patience,
    )


@asynccontextmanager
async def opened(
    path: Path, shard: int = 0, *, patience: float = 5.0, lease_seconds: float = 10.0
) -> AsyncIterator[SqliteJournal]:
    found = journal(path, shard, patience=patience, lease_seconds=lease_seconds)
    await found.open()
    try:
        yield found
    finally:
        await found.aclose()
