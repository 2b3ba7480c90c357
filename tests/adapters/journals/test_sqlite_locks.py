"""Disks that are full and files that others have locked."""

import asyncio
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.journal import StateChanged
from pipeline.workflow.states import RunState
from tests.adapters.journals.opening import opened
from tests.conformance.journals.journals import BUNDLE, completed, record


async def test_a_locked_file_is_waited_for_and_then_told_of(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path, patience=0.2) as journal:
        _, lease = await journal.create(record(), BUNDLE, take=True)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
        began = time.monotonic()
        results = await asyncio.gather(
            *(journal.append(lease, [completed(f"s{i}")]) for i in range(20)), return_exceptions=True
        )
        assert all(isinstance(result, JournalFailed) for result in results)
        assert str(results[0]) == f"The journal {path} is locked by another process (waited 0.2 s)"
        assert results[0].retry_after
        assert time.monotonic() - began < 10
        assert (await journal.run("r1")).last == 1  # those who read go on
        await journal.renew()
        other.execute("ROLLBACK")
        other.close()
        assert await journal.append(lease, [completed("after")]) == 2


async def test_a_lock_that_goes_in_time_is_not_told_of(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path, patience=30.0) as journal:
        _, lease = await journal.create(record(), BUNDLE, take=True)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.ensure_future(journal.append(lease, [completed()]))
        assert (await asyncio.wait([waiting], timeout=0.1))[1]
        other.execute("COMMIT")
        other.close()
        assert await waiting == 2


async def test_a_journal_that_is_closed_while_it_is_locked_does_not_hang(tmp_path: Path):
    path = tmp_path / "w.db"
    other = None
    async with opened(path, patience=0.1) as journal:
        await journal.create(record(), BUNDLE, take=True)
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN EXCLUSIVE")
    other.close()
    async with opened(path) as journal:  # its process is gone, so its lease is too
        assert await journal.claim("r1") is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("may not mount a file system")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.slow
async def test_a_full_disk_is_told_of_and_loses_nothing(small_disk: Path):
    path = small_disk / "w.db"
    async with opened(path) as journal:
        _, lease = await journal.create(record(), BUNDLE, take=True)
        values = [f"{i} " * 5000 for i in range(60)]
        each = [journal.append(lease, [completed("a", value)]) for value in values]
        results = await asyncio.gather(*each, return_exceptions=True)
        failures = [str(result) for result in results if isinstance(result, JournalFailed)]
        written = max(result for result in results if isinstance(result, int))
        assert set(failures) == {f"The journal {path} failed: its disk is full"}
        assert written == 1 + len(values) - len(failures) > 5
        with pytest.raises(JournalFailed, match="disk is full"):
            await journal.append(lease, [completed("a", "x" * 900_000), StateChanged(1.0, RunState.FAILED)])
        entries = await journal.entries("r1")
        assert [one.number for one in entries] == list(range(1, written + 1))
        assert (await journal.run("r1")).state is RunState.PENDING
        subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
        assert await journal.append(lease, [completed("b")]) == written + 1
    async with opened(path) as journal:
        assert len(await journal.entries("r1")) == written + 1


@pytest.mark.slow
async def test_what_is_too_large_for_the_disk_fails_alone(small_disk: Path):
    async with opened(small_disk / "w.db") as journal:
        made = await asyncio.gather(*(journal.create(record(f"r{i}"), BUNDLE, take=True) for i in range(3)))
        values = ["small", "x" * 900_000, "small too"]
        results = await asyncio.gather(
            *(journal.append(lease, [completed("a", value)]) for (_, lease), value in zip(made, values, strict=True)),
            return_exceptions=True,
        )
        assert (results[0], results[2]) == (2, 2)
        assert isinstance(results[1], JournalFailed)


@pytest.mark.slow
async def test_a_disk_that_becomes_read_only_is_told_of(small_disk: Path):
    path = small_disk / "w.db"
    async with opened(path) as journal:
        await journal.create(record(), BUNDLE, take=True)
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    with pytest.raises(JournalFailed, match=str(path)):
        async with opened(path):
            pass
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    async with opened(path) as journal:
        assert (await journal.run("r1")).last == 1


@pytest.mark.slow
def test_a_file_that_may_not_grow_is_told_of_and_loses_nothing(tmp_path: Path):
    result = subprocess.run(
        [sys.executable, "-m", "tests.adapters.journals.child", "fill", str(tmp_path / "w.db")],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    message, counts, after = result.stdout.splitlines()
    assert message.startswith(f"The journal {tmp_path / 'w.db'} failed: its disk ")
    written, kept = map(int, counts.split())
    assert written == kept > 10
    assert int(after) == written + 1
