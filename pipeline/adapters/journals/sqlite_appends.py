"""Entries: those of many runs in a few statements."""

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.adapters.journals.holders import Holders
from pipeline.adapters.journals.sizes import Sizes, full
from pipeline.adapters.journals.sqlite_jobs import Append, Draft
from pipeline.adapters.journals.sqlite_reads import as_json, json_of
from pipeline.adapters.journals.sqlite_values import slim_entry, store_blob
from pipeline.workflow.errors import Conflict, LeaseLost, UnknownRun

_HEADS = """
SELECT json_group_array(json_array(id, seq, holder, epoch, (SELECT max(number) FROM entries WHERE run = seq)))
FROM runs WHERE id IN (SELECT value FROM json_each(?))
"""
_CHANGE = """
UPDATE runs SET state = new.state, changed = new.number, wake_at = new.wake_at, ended_at = new.ended_at FROM (
    SELECT json_extract(value, '$[0]') AS run, json_extract(value, '$[1]') AS state,
        json_extract(value, '$[2]') AS number, json_extract(value, '$[3]') AS wake_at,
        json_extract(value, '$[4]') AS ended_at
    FROM json_each(?)) AS new
WHERE seq = new.run
"""
_WAKE = """
UPDATE runs SET wake_at = min(coalesce(wake_at, new.at), new.at) FROM
    (SELECT json_extract(value, '$[0]') AS run, json_extract(value, '$[1]') AS at FROM json_each(?)) AS new
WHERE seq = new.run AND state = 'waiting'
"""
# Statements for so many rows at a time: one for all sizes would be compiled anew for each.
_SIZES = (256, 64, 16, 4, 1)
Row = tuple[int, int, bytes]  # run, number, body


class Head(msgspec.Struct):
    """Where a run stands."""

    seq: int
    holder: str
    epoch: int
    last: int


def heads(connection: sqlite3.Connection, run_ids: Sequence[str]) -> dict[str, Head]:
    rows = json_of(connection, _HEADS, as_json(run_ids))
    return {run_id: Head(seq, holder, epoch, last) for run_id, seq, holder, epoch, last in rows}


def append(
    connection: sqlite3.Connection, holders: Holders, inline_bytes: int, sizes: Sizes, jobs: Sequence[Append]
) -> list[int | Exception]:
    """The number of each one's last entry."""
    found = heads(connection, list({job.run for job in jobs}))
    sizes.learn(connection, [(head.seq, head.last) for head in found.values()])
    writing = Entries(connection, inline_bytes)
    results: list[int | Exception] = []
    for job in jobs:
        head = found.get(job.run)
        refused = _refused(job, head, holders, sizes)
        if refused is not None or head is None:
            results.append(refused or LeaseLost(job.run))
            continue
        for draft in job.drafts:
            head.last += 1
            sizes.add(head.seq, writing.add(head.seq, head.last, draft))
        results.append(head.last)
    writing.write()
    return results


def _refused(job: Append, head: Head | None, holders: Holders, sizes: Sizes) -> Exception | None:
    if job.holder is not None:
        if head is None or head.holder != job.holder or head.epoch != job.epoch:
            return LeaseLost(job.run)
    elif head is None:
        return UnknownRun(f"There is no run {job.run!r}")
    elif any(draft.restricted for draft in job.drafts) and head.holder and holders.alive(head.holder):
        return Conflict(f"The run {job.run!r} is being executed: only who does may change its state")
    more, again = sum(len(draft.data) for draft in job.drafts), any(draft.again for draft in job.drafts)
    return full(job.run, sizes.most) if sizes.refuses(head.seq, more, again=again) else None


class Entries:
    """Gathers entries, and writes them together."""

    def __init__(self, connection: sqlite3.Connection, inline_bytes: int) -> None:
        self._connection = connection
        self._inline_bytes = inline_bytes
        self._rows: list[Row] = []
        self._changes: dict[int, tuple[int, str, int, float | None, float | None]] = {}
        self._wakes: dict[int, float] = {}

    def add(self, seq: int, number: int, draft: Draft) -> int:
        """How many bytes it takes."""
        apart = 0

        def store(digest: bytes, data: bytes) -> None:
            nonlocal apart
            if store_blob(self._connection, seq, digest, data):
                apart += len(data)

        body = slim_entry(draft.data, self._inline_bytes, store)
        self._rows.append((seq, number, body))
        if draft.change is not None:
            state, wake_at = draft.change.state, draft.change.wake_at
            ended_at = draft.at if state.final else None
            self._changes[seq] = (seq, state.value, number, wake_at, ended_at)
            self._wakes.pop(seq, None)
        elif draft.wakes:
            # Somebody has to look at it, also if who posted it does not live to say so.
            self._wakes.setdefault(seq, draft.at)
        return len(body) + apart

    def write(self) -> None:
        insert(self._connection, "INSERT INTO entries (run, number, body)", self._rows)
        if self._changes:
            self._connection.execute(_CHANGE, (as_json(list(self._changes.values())),))
        if self._wakes:
            self._connection.execute(_WAKE, (as_json(list(self._wakes.items())),))


def insert(connection: sqlite3.Connection, into: str, rows: Sequence[tuple[Any, ...]]) -> None:
    """Many rows with each statement: see `sqlite_reads` on what a statement costs."""
    at = 0
    for size in _SIZES:
        while len(rows) - at >= size:
            chunk = rows[at : at + size]
            marks = f"({','.join('?' * len(chunk[0]))})"
            values = ",".join([marks] * size)
            connection.execute(f"{into} VALUES {values}", [value for row in chunk for value in row])
            at += size
