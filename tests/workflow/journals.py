"""Journals in files, as several processes share them."""

import os
from pathlib import Path
from unittest import mock

from pipeline.adapters.journals.sqlite import SqliteJournal


def sqlite(folder: Path, shard: int, pid: int | None = None, lease_seconds: float = 10.0) -> SqliteJournal:
    """`pid` stands for that of a process."""
    with mock.patch("os.getpid", return_value=os.getpid() if pid is None else pid):
        return SqliteJournal(
            folder / "workflows.db", shard=shard, synchronous="normal", lease_seconds=lease_seconds, inline_bytes=4096
        )
