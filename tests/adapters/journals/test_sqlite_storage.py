"""What is stored, how much of it, and how long that takes."""

import asyncio
import sqlite3
import time
from pathlib import Path

import msgspec
import pytest

from pipeline.adapters.journals import sqlite_appends, sqlite_reads, sqlite_upkeep
from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.journal import Bundle, Lease, StateChanged, StepStarted
from pipeline.workflow.states import RunState
from tests.adapters.journals.opening import opened
from tests.conformance.journals.journals import completed, record

LARGE = "a large answer, " * 1000
BUNDLE = Bundle("b" * 64, msgspec.Raw(b'{"name":"greet","description":"' + b"long " * 2000 + b'"}'))


def ask(path: Path, query: str, *parameters):
    connection = sqlite3.connect(path)
    try:
        return connection.execute(query, parameters).fetchall()
    finally:
        connection.close()


async def test_a_large_value_is_stored_once_in_a_run_and_a_definition_once_for_all(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path) as journal:
        for i in range(3):
            run = record(f"r{i}", inputs={"text": LARGE})
            _, lease = await journal.create(run, BUNDLE, take=True)
            for step in range(10):
                await journal.append(lease, [completed(f"s{step}", LARGE, fields={"raw": LARGE})])
            await journal.append(lease, [completed("all", {"s1": LARGE, "both": [LARGE, {"again": LARGE}]})])
            end = StateChanged(2.0, RunState.COMPLETED, outputs={"text": LARGE})
            await journal.append(lease, [end])
        assert (await journal.run("r2")).outputs == {"text": LARGE}
    assert ask(path, "SELECT run, sum(length(data)) FROM blobs GROUP BY run") == [
        (i, len(LARGE) + 3) for i in (1, 2, 3)
    ]
    assert ask(path, "SELECT max(length(body)) < 500 FROM entries") == [(1,)]
    assert ask(path, "SELECT count(*) FROM bundles") == [(1,)]


async def test_what_is_looked_for_among_many_runs_has_an_index(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path):
        pass
    queries = [
        (sqlite_reads._CANDIDATES, (0, 1.0, "[]", 10), {"runs_free", "runs_due", "runs_held"}),
        (sqlite_reads._DUE, ("[]",), {"runs_due", "runs_held"}),
        (sqlite_reads._HOLDERS, (), {"runs_held"}),
        (sqlite_appends._HEADS, ("[]",), {"sqlite_autoindex_runs_1"}),
        (sqlite_upkeep.ENDED, (1.0, 10), {"runs_ended"}),
    ]
    for query, parameters, indexes in queries:
        plan = [row[3] for row in ask(path, f"EXPLAIN QUERY PLAN {query}", *parameters)]
        tables = [line for line in plan if " runs" in line and line.startswith(("SEARCH", "SCAN"))]
        assert all(line.startswith("SEARCH") for line in tables), plan
        assert indexes <= {word for line in tables for word in line.split()}, plan
    for filters in ("caller", "workflow", "caller AND workflow"):
        where = " AND ".join(f"{name} = 'x'" for name in filters.split(" AND "))
        query = f"SELECT seq FROM runs WHERE {where} AND state = 'failed' AND seq < 9 ORDER BY seq DESC LIMIT 3"
        ((_, _, _, plan),) = ask(path, f"EXPLAIN QUERY PLAN {query}")
        assert plan.startswith("SEARCH runs USING COVERING INDEX")


async def test_pages_that_are_free_go_back_to_the_disk(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path) as journal:
        for i in range(8):
            state = RunState.COMPLETED if i else RunState.RUNNING
            await journal.create(record(f"r{i}", inputs=f"{i}" * 1_500_000, state=state), BUNDLE, take=False)
        assert await journal.expire(1e9) == 7
    assert path.stat().st_size < 7_000_000
    assert ask(path, "SELECT count(DISTINCT run) FROM blobs") == [(1,)]
    assert ask(path, "SELECT count(*) FROM doomed") == [(0,)]
    assert ask(path, "PRAGMA integrity_check") == [("ok",)]


async def test_a_deletion_that_was_cut_off_is_finished_later(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path) as journal:
        _, lease = await journal.create(record("old"), BUNDLE, take=True)
        await journal.append(lease, [completed("a", LARGE), StateChanged(1.0, RunState.COMPLETED)])
    connection = sqlite3.connect(path)
    # As after a kill between the two transactions.
    connection.executescript("INSERT INTO doomed SELECT seq FROM runs; DELETE FROM runs;")
    connection.close()
    async with opened(path) as journal:
        await journal.create(record("new"), BUNDLE, take=False)
        assert len(await journal.entries("new")) == 1  # not in the old one's place
        assert await journal.expire(0.0) == 0
    assert ask(path, "SELECT count(*) FROM entries") == [(1,)]
    assert ask(path, "SELECT count(*) FROM blobs") == [(0,)]


async def test_damage_that_shows_in_use_is_told_of(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path) as journal:
        _, lease = await journal.create(record(), BUNDLE, take=True)
        await journal.append(lease, [completed("a", LARGE)])
        connection = sqlite3.connect(path)
        connection.execute("DELETE FROM blobs")
        connection.commit()
        connection.close()
        with pytest.raises(JournalFailed, match=f"{path} failed: a stored value is missing"):
            await journal.entries("r1")
        assert await journal.append(lease, [completed("b")]) == 3


@pytest.mark.alone
@pytest.mark.slow
async def test_many_appends_at_once_cost_little_each(tmp_path: Path):
    async with opened(tmp_path / "w.db") as journal:
        began = time.perf_counter()
        made = await asyncio.gather(*(journal.create(record(f"r{i}"), BUNDLE, take=True) for i in range(1000)))
        assert time.perf_counter() - began < 1.0

        async def work(lease: Lease) -> None:
            for i in range(20):
                await journal.append(lease, [completed(f"s{i}", "an answer")])

        began = time.perf_counter()
        await asyncio.gather(*(work(lease) for _, lease in made[:100]))
        assert (time.perf_counter() - began) / 2000 < 0.0003
    async with opened(tmp_path / "w.db") as journal:
        began = time.perf_counter()
        claimed = await journal.claim_many(1000, due=0.0, mine=lambda _: True)
        await journal.histories([run.id for run, _ in claimed])
        assert len(claimed) == 1000
        assert time.perf_counter() - began < 1.5


@pytest.mark.alone
@pytest.mark.slow
async def test_retention_holds_up_nobody_who_writes(tmp_path: Path):
    async with opened(tmp_path / "w.db") as journal:
        for batch in range(4):
            ended = [record(f"r{batch}-{i}", state=RunState.COMPLETED) for i in range(500)]
            await asyncio.gather(*(journal.create(run, BUNDLE, take=False) for run in ended))
        _, long = await journal.create(record("long"), BUNDLE, take=True)
        for i in range(40):
            await journal.append(long, [completed(f"s{n}", LARGE[: n + i]) for n in range(500)])
        await journal.append(long, [StateChanged(2000.0, RunState.COMPLETED)])
        _, lease = await journal.create(record("busy"), BUNDLE, take=True)
        times: list[float] = []
        expiring = asyncio.ensure_future(journal.expire(3000.0, limit=5000))
        while not expiring.done():
            began = time.perf_counter()
            await journal.append(lease, [StepStarted(1.0, "a")])
            times.append(time.perf_counter() - began)
        assert await expiring == 2001
        times.sort()
        assert len(times) > 20
        assert times[int(len(times) * 0.9)] < 0.05
