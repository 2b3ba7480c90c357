"""What is read. Each query gives one row of JSON: a thread that reads row by row has to wait for the interpreter's lock
with each, up to 5 ms where the event loop is busy."""

import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any, cast

import msgspec

from pipeline.adapters.journals import codec
from pipeline.adapters.journals.sqlite_values import Values
from pipeline.workflow.journal import Bundle, Numbered, Registered, RunRecord, StateChanged
from pipeline.workflow.states import ACTIVE, RunState

_ROWS = 1000  # entries read at a time
_RUNS = 64  # runs whose entries are read at a time
_decode = msgspec.json.decode

_RECORDS = """
SELECT json_group_array(json_array(r.seq, r.state, r.holder, r.epoch, hex(r.made), e.number, hex(e.body),
    CASE WHEN e.number = r.changed THEN '' ELSE
        (SELECT hex(body) FROM entries WHERE run = r.seq AND number = r.changed) END,
    CASE WHEN ?2 THEN (SELECT hex(data) FROM inputs WHERE run = r.seq) END))
FROM json_each(?1) AS wanted JOIN runs AS r ON r.seq = wanted.value
JOIN entries AS e ON e.run = r.seq AND e.number = (SELECT max(number) FROM entries WHERE run = r.seq)
"""
_ENTRIES = """
SELECT json_group_array(json_array(number, hex(body))) FROM
    (SELECT number, body FROM entries WHERE run = ? AND number > ? ORDER BY number LIMIT ?)
"""
_HISTORIES = """
SELECT json_group_array(json_array(run, number, hex(body))) FROM
    (SELECT e.run, e.number, e.body FROM json_each(?) AS wanted JOIN entries AS e ON e.run = wanted.value)
"""
_LASTS = """
SELECT json_group_array(json_array(id, seq, (SELECT max(number) FROM entries WHERE run = seq)))
FROM runs WHERE id IN (SELECT value FROM json_each(?))
"""
_HOLDERS = """
WITH RECURSIVE found (token) AS (
    SELECT min(holder) FROM runs WHERE holder <> ''
    UNION ALL
    SELECT (SELECT min(holder) FROM runs WHERE holder <> '' AND holder > token) FROM found WHERE token IS NOT NULL)
SELECT json_group_array(token) FROM found WHERE token IS NOT NULL
"""
_CANDIDATES = """
SELECT json_group_array(json_array(seq, id)) FROM (
    SELECT * FROM (SELECT seq, id FROM runs INDEXED BY runs_free
        WHERE holder = '' AND state IN ('pending', 'running') AND seq > ?1 ORDER BY seq LIMIT ?4)
    UNION ALL
    SELECT * FROM (SELECT seq, id FROM runs INDEXED BY runs_due
        WHERE holder = '' AND state = 'waiting' AND wake_at <= ?2 AND seq > ?1 ORDER BY seq LIMIT ?4)
    UNION ALL
    SELECT * FROM (SELECT seq, id FROM runs INDEXED BY runs_held
        WHERE holder <> '' AND holder IN (SELECT value FROM json_each(?3)) AND seq > ?1
        AND (state IN ('pending', 'running') OR state = 'waiting' AND wake_at <= ?2) ORDER BY seq LIMIT ?4)
    ORDER BY 1 LIMIT ?4)
"""
_DUE = """
SELECT min(at) FROM (
    SELECT min(wake_at) AS at FROM runs INDEXED BY runs_due WHERE holder = '' AND state = 'waiting'
    UNION ALL
    SELECT min(wake_at) FROM runs INDEXED BY runs_held
    WHERE holder <> '' AND holder IN (SELECT value FROM json_each(?)) AND state = 'waiting')
"""
_WORKFLOW = """
SELECT w.name, w.version, w.digest, w.created_at, w.description, w.source, b.digest, b.data
FROM workflows AS w JOIN bundles AS b ON b.id = w.bundle
"""


def json_of(connection: sqlite3.Connection, query: str, *parameters: Any) -> Any:
    """The one value, JSON, that a query gives."""
    (text,) = connection.execute(query, parameters).fetchone()
    return _decode(text)


def as_json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()


def records(connection: sqlite3.Connection, seqs: Sequence[int], *, whole: bool = True) -> list[RunRecord]:
    """In this order, without those that are not there. `whole`: with inputs and outputs."""
    values = Values(connection)
    rows = json_of(connection, _RECORDS, as_json(seqs), whole)
    found = {row[0]: _record(values, row, whole=whole) for row in rows}
    return [found[seq] for seq in seqs if seq in found]


def _record(values: Values, row: list[Any], *, whole: bool) -> RunRecord:
    seq, state, holder, epoch, made, last, body, changed, inputs = row
    made_record = codec.decode_record(bytes.fromhex(made))
    newest = codec.decode_entry(bytes.fromhex(body))
    change = bytes.fromhex(changed or body)
    ending = values.ending(seq, change)
    return msgspec.structs.replace(
        made_record,
        state=RunState(state),
        updated_at=newest.at,
        inputs=values.value(seq, bytes.fromhex(inputs)) if inputs else None,
        outputs=cast("StateChanged", values.entry(seq, change)).outputs if whole else None,
        error=ending.error,
        wake_at=ending.wake_at,
        last=last,
        holder=holder,
        epoch=epoch,
    )


def seq_of(connection: sqlite3.Connection, run_id: str) -> int | None:
    row = connection.execute("SELECT seq FROM runs WHERE id = ?", (run_id,)).fetchone()
    return None if row is None else int(row[0])


def run(connection: sqlite3.Connection, run_id: str, *, whole: bool = True) -> RunRecord | None:
    seq = seq_of(connection, run_id)
    return None if seq is None else records(connection, [seq], whole=whole)[0]


def page(
    connection: sqlite3.Connection,
    *,
    caller: str | None,
    workflow: str | None,
    states: Sequence[RunState],
    limit: int,
    before: int,
) -> list[tuple[int, RunRecord]]:
    """With their places, newest first. One query for each state, as the indexes have them, and their results merged."""
    wanted = {"caller": caller, "workflow": workflow}
    given = {name: value for name, value in wanted.items() if value is not None}
    where = [f"{name} = :{name}" for name in given]
    each: Sequence[str | None] = [*states] or ([*RunState] if given else [None])
    seqs: list[int] = []
    for state in each:
        terms = [*where, "seq < :before"] + (["state = :state"] if state is not None else [])
        query = f"SELECT seq FROM runs WHERE {' AND '.join(terms)} ORDER BY seq DESC LIMIT :limit"  # noqa: S608
        parameters = {**given, "before": before, "limit": limit, "state": state}
        (rows,) = connection.execute(f"SELECT json_group_array(seq) FROM ({query})", parameters).fetchone()  # noqa: S608
        seqs += _decode(rows)
    newest = sorted(set(seqs), reverse=True)[:limit]
    return list(zip(newest, records(connection, newest, whole=False), strict=True))


def entries(
    connection: sqlite3.Connection, run_id: str, after: int, limit: int | None, most: int | None = None
) -> list[Numbered]:
    seq = seq_of(connection, run_id)
    if seq is None:
        return []
    values, found = Values(connection), []
    for numbered in _entries(connection, values, seq, after, limit):
        found.append(numbered)
        if most is not None and values.taken >= most:
            break
    return found


def outline(connection: sqlite3.Connection, run_id: str, most: int) -> list[Numbered]:
    seq = seq_of(connection, run_id)
    if seq is None:
        return []
    values = Values(connection)
    return [Numbered(number, values.outline(seq, body, most)) for number, body in _bodies(connection, seq, 0, None)]


def _entries(
    connection: sqlite3.Connection, values: Values, seq: int, after: int, limit: int | None
) -> Iterator[Numbered]:
    for number, body in _bodies(connection, seq, after, limit):
        yield Numbered(number, values.entry(seq, body))


def _bodies(connection: sqlite3.Connection, seq: int, after: int, limit: int | None) -> Iterator[tuple[int, bytes]]:
    left = limit
    while left is None or left > 0:
        rows = json_of(connection, _ENTRIES, seq, after, _ROWS if left is None else min(left, _ROWS))
        for number, body in rows:
            yield number, bytes.fromhex(body)
        if len(rows) < _ROWS:
            return
        after = rows[-1][0]
        left = None if left is None else left - len(rows)


def histories(connection: sqlite3.Connection, run_ids: Sequence[str]) -> dict[str, list[Numbered]]:
    values = Values(connection)
    ids: dict[int, str] = {}
    found: dict[str, list[Numbered]] = {}
    for run_id, seq, last in json_of(connection, _LASTS, as_json(run_ids)):
        if last > _ROWS:
            found[run_id] = list(_entries(connection, values, seq, 0, None))
        else:
            ids[seq] = run_id
    seqs = list(ids)
    for start in range(0, len(seqs), _RUNS):
        rows = json_of(connection, _HISTORIES, as_json(seqs[start : start + _RUNS]))
        for seq, number, body in sorted(rows):
            entry = values.entry(seq, bytes.fromhex(body))
            found.setdefault(ids[seq], []).append(Numbered(number, entry))
    return found


def counts(connection: sqlite3.Connection) -> dict[RunState, int]:
    query = "SELECT count(*) FROM runs WHERE state = ?"
    return {state: connection.execute(query, (state,)).fetchone()[0] for state in sorted(ACTIVE)}


def holders(connection: sqlite3.Connection) -> list[str]:
    """Tokens of all who hold leases, or did when they died."""
    found: list[str] = json_of(connection, _HOLDERS)
    return found


def candidates(
    connection: sqlite3.Connection, dead: Sequence[str], due: float, after: int, limit: int
) -> list[tuple[int, str]]:
    """Places and ids of runs that should be executed and that nobody alive holds, the oldest first."""
    return [(seq, run_id) for seq, run_id in json_of(connection, _CANDIDATES, after, due, as_json(dead), limit)]


def next_due(connection: sqlite3.Connection, dead: Sequence[str]) -> float | None:
    found: float | None = connection.execute(_DUE, (as_json(dead),)).fetchone()[0]
    return found


def workflow(connection: sqlite3.Connection, name: str, version: str | None) -> Registered | None:
    if version is None:
        query, parameters = _WORKFLOW + "WHERE w.name = ? ORDER BY w.id DESC LIMIT 1", [name]
    else:
        query, parameters = _WORKFLOW + "WHERE w.name = ? AND w.version = ?", [name, version]
    row = connection.execute(query, parameters).fetchone()
    if row is None:
        return None
    name, version, digest, created_at, description, source, stored, data = row
    found = codec.decode_bundle(stored, data)
    return Registered(name, version, digest, created_at, description, source, found)


def workflows(connection: sqlite3.Connection) -> list[Registered]:
    query = (
        "SELECT w.name, w.version, w.digest, w.created_at, w.description, b.digest FROM workflows AS w "
        "JOIN bundles AS b ON b.id = w.bundle ORDER BY w.name, w.id DESC"
    )
    empty = msgspec.Raw(b"")
    return [
        Registered(name, version, digest, created_at, description, "", Bundle(stored, empty))
        for name, version, digest, created_at, description, stored in connection.execute(query).fetchall()
    ]


def bundle(connection: sqlite3.Connection, digest: str) -> Bundle | None:
    row = connection.execute("SELECT data FROM bundles WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else codec.decode_bundle(digest, row[0])
