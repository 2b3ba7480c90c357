"""The tables, and what a file must be to hold them.

A run has a row in `runs` and its entries in `entries`. What decides who executes it (state, holder, epoch, when it is
due) are columns of the row; what never changes is one blob (`made`); the rest is read from its newest entry and its
newest change of state (`changed`). `doomed` are runs that are deleted, whose entries are not yet.

The indexes serve the pages of lists by any of caller, workflow and state, and finding, among a million runs, those that
should be executed: they hold only these.
"""

import sqlite3
from pathlib import Path

from pipeline.workflow.errors import JournalFailed

VERSION = 1
_APPLICATION = 0x48475746  # "HGWF"
_OLDEST = (3, 35, 0)  # UPDATE … FROM, the JSON functions
_CHECKED_BYTES = 32 << 20  # files up to this size are checked whole when they are opened: some 0.1 s

TABLES = """
CREATE TABLE bundles (id INTEGER PRIMARY KEY, digest TEXT NOT NULL UNIQUE, data BLOB NOT NULL);
CREATE TABLE workflows (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, version TEXT NOT NULL, digest TEXT NOT NULL,
    created_at REAL NOT NULL, description TEXT NOT NULL, bundle INTEGER NOT NULL, source TEXT NOT NULL,
    UNIQUE (name, version));
CREATE INDEX workflows_bundle ON workflows (bundle);
CREATE TABLE runs (
    seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, caller TEXT NOT NULL, workflow TEXT NOT NULL, state TEXT NOT NULL,
    holder TEXT NOT NULL, epoch INTEGER NOT NULL, changed INTEGER NOT NULL, wake_at REAL, ended_at REAL,
    bundle INTEGER NOT NULL, idempotency_key TEXT, request_digest TEXT NOT NULL, made BLOB NOT NULL);
CREATE UNIQUE INDEX runs_key ON runs (caller, idempotency_key) WHERE idempotency_key IS NOT NULL;
CREATE INDEX runs_state ON runs (state);
CREATE INDEX runs_workflow ON runs (workflow, state);
CREATE INDEX runs_caller ON runs (caller, state);
CREATE INDEX runs_both ON runs (caller, workflow, state);
CREATE INDEX runs_bundle ON runs (bundle);
CREATE INDEX runs_held ON runs (holder) WHERE holder <> '';
CREATE INDEX runs_free ON runs (seq) WHERE holder = '' AND state IN ('pending', 'running');
CREATE INDEX runs_due ON runs (wake_at) WHERE holder = '' AND state = 'waiting';
CREATE INDEX runs_ended ON runs (ended_at) WHERE ended_at IS NOT NULL;
CREATE TABLE inputs (run INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE entries (run INTEGER NOT NULL, number INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (run, number))
    WITHOUT ROWID;
CREATE TABLE blobs (
    id INTEGER PRIMARY KEY, run INTEGER NOT NULL, digest BLOB NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX blobs_of ON blobs (run, digest, part);
CREATE TABLE doomed (run INTEGER PRIMARY KEY);
"""


def connect(path: Path, *, create: bool, patience: float) -> sqlite3.Connection:
    """A connection without transactions of its own. `patience`: seconds it waits for a lock. Raises sqlite3.Error."""
    mode = "rwc" if create else "rw"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    return sqlite3.connect(uri, uri=True, isolation_level=None, cached_statements=256, timeout=patience)


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Makes the tables where the file is new, and refuses one that is not ours. To be called in one's turn."""
    if sqlite3.sqlite_version_info < _OLDEST:
        wanted = ".".join(map(str, _OLDEST))
        raise JournalFailed(f"SQLite {sqlite3.sqlite_version} is too old for the journal: it needs {wanted} or newer")
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    if not tables:
        # Pages that are free can be given back bit by bit; can only be said of an empty file.
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
    _check_ours(connection, path, tables)
    (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
    if mode != "wal":
        raise JournalFailed(f"The journal {path} is on a file system that cannot share memory: put it on a local disk")
    if not tables:
        connection.execute("BEGIN IMMEDIATE")
        for statement in TABLES.split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {_APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute("COMMIT")
    elif path.stat().st_size <= _CHECKED_BYTES:
        _check_whole(connection, path)


def _check_ours(connection: sqlite3.Connection, path: Path, tables: int) -> None:
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if tables and application != _APPLICATION:
        raise JournalFailed(f"{path} is the database of another program: the journal needs a file of its own")
    if version > VERSION:
        raise JournalFailed(
            f"The journal {path} has format {version}, this version of Headgate knows formats up to {VERSION}: "
            "use the newer Headgate that wrote it"
        )


def _check_whole(connection: sqlite3.Connection, path: Path) -> None:
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise JournalFailed(damaged(path, found))


def damaged(path: Path, what: str) -> str:
    return (
        f"The journal {path} is damaged ({what}): it is left as it is; put a copy in its place, "
        "or move it away to begin with a new one"
    )


def tune(connection: sqlite3.Connection, synchronous: str, *, writes: bool) -> None:
    # Normal: a commit outlives the process; full: also a power cut. A commit is whole after either.
    connection.execute(f"PRAGMA synchronous = {'FULL' if synchronous == 'full' else 'NORMAL'}")
    connection.execute("PRAGMA secure_delete = OFF")
    connection.execute("PRAGMA cache_size = -8192")  # KiB
    connection.execute("PRAGMA journal_size_limit = 67108864")
    # Pages in the log before it is folded into the file (16 MiB), while all who write wait: four times the default, so
    # that pages which change with every commit are written a quarter as often.
    connection.execute("PRAGMA wal_autocheckpoint = 4096")
    connection.execute("PRAGMA busy_timeout = 0" if writes else "PRAGMA query_only = ON")
