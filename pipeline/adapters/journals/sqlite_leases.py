"""Runs that are made, and who executes them."""

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec

from pipeline.adapters.journals import codec
from pipeline.adapters.journals.holders import Holders
from pipeline.adapters.journals.sqlite_appends import Entries, heads, insert
from pipeline.adapters.journals.sqlite_jobs import Claim, Create, Register, Release
from pipeline.adapters.journals.sqlite_reads import as_json, json_of, records, workflow
from pipeline.adapters.journals.sqlite_values import slim_value, store_blob
from pipeline.workflow.errors import Conflict, UnknownRun, VersionTaken
from pipeline.workflow.journal import Bundle, Lease, Registered, RunRecord

_KEYS = """
SELECT json_group_array(json_array(caller, idempotency_key, seq, request_digest)) FROM json_each(?) AS asked
JOIN runs ON caller = json_extract(asked.value, '$[0]') AND idempotency_key = json_extract(asked.value, '$[1]')
"""
_NEXT = "SELECT max((SELECT coalesce(max(seq), 0) FROM runs), (SELECT coalesce(max(run), 0) FROM doomed)) + 1"
_RUNS = (
    "INSERT INTO runs (seq, id, caller, workflow, state, holder, epoch, changed, wake_at, ended_at, bundle, "
    "idempotency_key, request_digest, made)"
)
_FREE = """
SELECT json_group_array(json_array(seq, holder)) FROM runs WHERE id IN (SELECT value FROM json_each(?1))
AND (?2 IS NULL OR state IN ('pending', 'running') OR state = 'waiting' AND wake_at <= ?2)
"""
_TAKE = "UPDATE runs SET holder = ?, epoch = epoch + 1 WHERE seq IN (SELECT value FROM json_each(?))"
_RELEASE = """
UPDATE runs SET holder = '' FROM
    (SELECT json_extract(value, '$[0]') AS run, json_extract(value, '$[1]') AS turn FROM json_each(?1)) AS given
WHERE id = given.run AND epoch = given.turn AND holder = ?2
"""
Created = tuple[RunRecord, Lease | None]


class Creating:
    """Adds runs together. A key that two of them have counts for the first."""

    def __init__(self, connection: sqlite3.Connection, holder: str, inline_bytes: int) -> None:
        self._connection = connection
        self._holder = holder
        self._inline_bytes = inline_bytes
        self._entries = Entries(connection, inline_bytes)
        self._runs: list[tuple[Any, ...]] = []
        self._inputs: list[tuple[Any, ...]] = []
        self._bundles: dict[str, int] = {}
        self._known: dict[tuple[str, str], tuple[int | RunRecord, str]] = {}
        self._ids: set[str] = set()

    def create(self, jobs: Sequence[Create]) -> list[Created | Exception]:
        self._ids = set(heads(self._connection, [job.run.id for job in jobs]))
        keys = [(job.run.caller, job.run.idempotency_key) for job in jobs if job.run.idempotency_key is not None]
        for caller, key, seq, digest in json_of(self._connection, _KEYS, as_json(keys)) if keys else ():
            self._known[caller, key] = (seq, digest)
        (seq,) = self._connection.execute(_NEXT).fetchone()
        results: list[Created | Exception] = []
        for job in jobs:
            result = self._one(job, seq + len(self._runs))
            results.append(result)
        insert(self._connection, _RUNS, self._runs)
        insert(self._connection, "INSERT INTO inputs (run, data)", self._inputs)
        self._entries.write()
        return results

    def _one(self, job: Create, seq: int) -> Created | Exception:
        run = job.run
        if run.idempotency_key is not None:
            known = self._known.get((run.caller, run.idempotency_key))
            if known is not None:
                return self._again(run, *known)
        if run.id in self._ids:
            return Conflict(f"There is a run {run.id!r} already")
        self._ids.add(run.id)
        holder, epoch = (self._holder, 1) if job.take else ("", 0)
        made = msgspec.structs.replace(run, last=1, holder=holder, epoch=epoch, updated_at=run.created_at)
        self._add(job, seq, made)
        if run.idempotency_key is not None:
            self._known[run.caller, run.idempotency_key] = (made, run.request_digest)
        return made, Lease(run.id, holder, epoch) if job.take else None

    def _again(self, run: RunRecord, there: int | RunRecord, digest: str) -> Created | Exception:
        if digest != run.request_digest:
            return Conflict(f"The idempotency key {run.idempotency_key!r} came with another request before")
        if isinstance(there, int):
            (there,) = records(self._connection, [there])
        return there, None

    def _add(self, job: Create, seq: int, run: RunRecord) -> None:
        def store(digest: bytes, data: bytes) -> None:
            store_blob(self._connection, seq, digest, data)

        bundle = self._bundles.get(job.bundle.digest)
        if bundle is None:
            bundle = self._bundles[job.bundle.digest] = bundle_id(self._connection, job.bundle)
        ended_at = run.created_at if run.state.final else None
        lease = (run.holder, run.epoch)
        key = (run.idempotency_key, run.request_digest)
        names = (run.id, run.caller, run.workflow, run.state.value)
        self._runs.append((seq, *names, *lease, 1, run.wake_at, ended_at, bundle, *key, job.made))
        self._entries.add(seq, 1, msgspec.structs.replace(job.first, change=None))
        if job.inputs is not None:
            self._inputs.append((seq, slim_value(job.inputs, self._inline_bytes, store)))


def bundle_id(connection: sqlite3.Connection, bundle: Bundle) -> int:
    row = connection.execute("SELECT id FROM bundles WHERE digest = ?", (bundle.digest,)).fetchone()
    if row is not None:
        return int(row[0])
    data = codec.encode_bundle(bundle)
    added = connection.execute("INSERT INTO bundles (digest, data) VALUES (?, ?)", (bundle.digest, data))
    return int(added.lastrowid or 0)


def claim(connection: sqlite3.Connection, holders: Holders, job: Claim) -> list[tuple[RunRecord, Lease]] | Exception:
    """Those of the runs that nobody alive holds, with their leases now."""
    rows = json_of(connection, _FREE, as_json(job.runs), job.due)
    if not rows and job.due is None:
        return UnknownRun(f"There is no run {job.runs[0]!r}")
    tokens = {holder for _, holder in rows if holder}
    free = {"", *holders.dead(tokens)}
    seqs = sorted(seq for seq, holder in rows if holder in free)
    if not seqs:
        return []
    connection.execute(_TAKE, (holders.token, as_json(seqs)))
    return [(run, Lease(run.id, run.holder, run.epoch)) for run in records(connection, seqs)]


def release(connection: sqlite3.Connection, holder: str, jobs: Sequence[Release]) -> list[None]:
    connection.execute(_RELEASE, (as_json([(job.run, job.epoch) for job in jobs]), holder))
    return [None] * len(jobs)


def release_all(connection: sqlite3.Connection, holder: str) -> None:
    connection.execute("UPDATE runs SET holder = '' WHERE holder <> '' AND holder = ?", (holder,))


def register(connection: sqlite3.Connection, job: Register) -> Registered | Exception:
    new = job.workflow
    there = workflow(connection, new.name, new.version)
    if there is not None:
        if there.digest == new.digest:
            return there
        return VersionTaken(f"Version {new.version} of the workflow {new.name!r} is registered with other content")
    bundle = bundle_id(connection, new.bundle)
    connection.execute(
        "INSERT INTO workflows (name, version, digest, created_at, description, bundle, source) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (new.name, new.version, new.digest, new.created_at, new.description, bundle, new.source),
    )
    return new
