"""Old runs go, a little at a time: nobody who writes waits for long."""

import sqlite3

from pipeline.adapters.journals.sqlite_jobs import Doom
from pipeline.adapters.journals.sqlite_reads import as_json

_ROWS = 1000  # entries deleted in a transaction
_PARTS = 8  # parts of large values, of a MiB at most
_PAGES = 32  # given back in a transaction
_ROOM = 1024  # free pages that are kept

ENDED = "SELECT seq, bundle FROM runs WHERE ended_at IS NOT NULL AND ended_at < ? ORDER BY ended_at LIMIT ?"
# CROSS: from the doomed to their entries, not from all entries to the doomed.
_PARTS_OF_DOOMED = "SELECT b.id FROM doomed CROSS JOIN blobs AS b ON b.run = doomed.run LIMIT ?"
_ENTRIES_OF_DOOMED = "SELECT e.run, e.number FROM doomed CROSS JOIN entries AS e ON e.run = doomed.run LIMIT ?"


def doom(connection: sqlite3.Connection, job: Doom) -> int:
    """Their rows are gone at once, so that nobody sees half a run; a number is not given out again before its entries
    are gone too."""
    rows = connection.execute(ENDED, (job.before, job.limit)).fetchall()
    seqs = as_json([seq for seq, _ in rows])
    connection.execute("INSERT INTO doomed (run) SELECT value FROM json_each(?)", (seqs,))
    connection.execute("DELETE FROM runs WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
    connection.execute("DELETE FROM inputs WHERE run IN (SELECT value FROM json_each(?))", (seqs,))
    connection.execute(
        "DELETE FROM bundles WHERE id IN (SELECT value FROM json_each(?)) "
        "AND NOT EXISTS (SELECT 1 FROM runs WHERE bundle = bundles.id) "
        "AND NOT EXISTS (SELECT 1 FROM workflows WHERE bundle = bundles.id)",
        (as_json(list({bundle for _, bundle in rows})),),
    )
    return len(rows)


def purge(connection: sqlite3.Connection) -> bool:
    """Tells whether there is more."""
    parts = connection.execute(f"DELETE FROM blobs WHERE id IN ({_PARTS_OF_DOOMED})", (_PARTS,)).rowcount  # noqa: S608
    if parts == _PARTS:
        return True
    rows = connection.execute(f"DELETE FROM entries WHERE (run, number) IN ({_ENTRIES_OF_DOOMED})", (_ROWS,)).rowcount  # noqa: S608
    if rows < _ROWS:
        connection.execute("DELETE FROM doomed")
    return rows == _ROWS


def shrink(connection: sqlite3.Connection) -> bool:
    """Free pages are used again; more of them than a quarter of the file are given back to the disk. Tells whether
    there are more."""
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if free <= max(_ROOM, pages // 4):
        return False
    for _ in range(_PAGES):
        connection.execute("PRAGMA incremental_vacuum(1)")  # of more, the module does the first page only
    return True
