"""Files that are no journal, and files that go away under one."""

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.workflow.errors import JournalFailed
from tests.adapters.journals.opening import journal as made
from tests.adapters.journals.opening import opened
from tests.conformance.journals.journals import BUNDLE, completed, record


async def refused(path: Path) -> str:
    """What is said when it cannot be opened. Nothing may be left running, and the file as it was."""
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(JournalFailed) as caught:
        async with opened(path):
            pass
    assert (path.read_bytes() if path.is_file() else None) == before
    return str(caught.value)


async def test_what_is_no_database_is_refused(tmp_path: Path):
    path = tmp_path / "w.db"
    path.write_text("name: greet\n" * 1000)
    assert await refused(path) == f"The journal {path} failed: it is not an SQLite database"


async def test_another_programs_database_is_refused(tmp_path: Path):
    path = tmp_path / "w.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (x)")
    connection.close()
    assert "database of another program" in await refused(path)


async def test_a_newer_format_is_refused(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path):
        pass
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 7")
    connection.close()
    assert "has format 7, this version of Headgate knows formats up to 1" in await refused(path)


@pytest.mark.parametrize("place", ["first page", "a later page", "end"])
async def test_a_damaged_file_is_refused_and_kept(tmp_path: Path, place: str):
    path = tmp_path / "w.db"
    async with opened(path) as journal:
        for i in range(50):
            await journal.create(record(f"r{i}", inputs="x" * 900), BUNDLE, take=False)
    data = bytearray(path.read_bytes())
    if place == "end":
        data = data[: len(data) // 2]
    else:
        at = 120 if place == "first page" else 3 * 4096
        data[at : at + 2000] = b"\xff" * 2000
    path.write_bytes(data)
    message = await refused(path)
    assert message.startswith(f"The journal {path} is damaged")
    assert "put a copy in its place" in message


async def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    message = await refused(tmp_path / "no" / "w.db")
    assert "cannot be used" in message
    assert str(tmp_path / "no") in message
    assert not (tmp_path / "no").exists()


async def test_a_folder_is_no_journal(tmp_path: Path):
    (tmp_path / "w.db").mkdir()
    assert "cannot be opened" in await refused(tmp_path / "w.db")


async def test_an_empty_file_becomes_a_journal(tmp_path: Path):
    path = tmp_path / "odd name%20?#.db"
    path.touch()
    async with opened(path) as journal:
        await journal.create(record(), BUNDLE, take=False)
    async with opened(path) as journal:
        assert (await journal.run("r1")).id == "r1"
    assert sorted(one.name for one in tmp_path.iterdir()) == [path.name, f"{path.name}.holders"]


async def test_a_journal_that_could_not_be_opened_can_be_opened_later(tmp_path: Path):
    path = tmp_path / "w.db"
    path.write_text("no database" * 100)
    journal = made(path)
    with pytest.raises(JournalFailed):
        await journal.open()
    path.unlink()
    await journal.open()
    await journal.create(record(), BUNDLE, take=True)
    await journal.aclose()


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """That everybody can reach: the tests' own folders are their owner's."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file_mode", "folder_mode", "says"),
    [
        (0o444, 0o777, "failed: it or its folder is read-only"),
        (0o000, 0o777, "failed: it cannot be opened: do it and its folder exist, and may they be written?"),
        (0o666, 0o555, "failed: it or its folder is read-only"),
        (0o666, 0o777, "written"),
    ],
)
def test_what_may_not_be_written_is_told_of(public_folder: Path, file_mode: int, folder_mode: int, says: str):
    path = public_folder / "w.db"
    asyncio.run(_make(path))
    path.chmod(file_mode)
    for one in (holders := Path(f"{path}.holders"), *holders.iterdir()):
        one.chmod(0o777)
    public_folder.chmod(folder_mode)
    before = path.read_bytes()
    result = subprocess.run(
        [sys.executable, "-m", "tests.adapters.journals.child", "as_nobody", str(path), "r2"],
        capture_output=True,
        text=True,
        check=True,
        timeout=30,
    )
    public_folder.chmod(0o777)
    written = says == "written"
    assert result.stdout.strip() == (says if written else f"The journal {path} {says}")
    assert (path.read_bytes() != before) == written


async def _make(path: Path) -> None:
    async with opened(path) as journal:
        await journal.create(record(), BUNDLE, take=False)


@pytest.mark.parametrize("what", ["file", "folder"])
async def test_a_journal_that_is_gone_for_a_while_goes_on_where_it_was(tmp_path: Path, what: str):
    folder = tmp_path / "data"
    folder.mkdir()
    path = folder / "w.db"
    async with opened(path) as journal:
        _, lease = await journal.create(record(), BUNDLE, take=True)
        assert await journal.append(lease, [completed("a")]) == 2
        there, away = (path, tmp_path / "away.db") if what == "file" else (folder, tmp_path / "away")
        there.rename(away)
        gone = f"The journal {path} is gone"
        with pytest.raises(JournalFailed, match=gone):
            await journal.append(lease, [completed("b")])
        with pytest.raises(JournalFailed, match=gone):
            await journal.run("r1")
        assert not path.exists()
        away.rename(there)
        assert await journal.append(lease, [completed("c")]) == 3
        await journal.renew()
    async with opened(path) as journal:
        assert [one.entry.path for one in (await journal.entries("r1"))[1:]] == ["a", "c"]


async def test_no_other_file_takes_the_journals_place(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path) as journal:
        _, lease = await journal.create(record(), BUNDLE, take=True)
        kept = tmp_path / "kept"
        kept.mkdir()
        for one in tmp_path.glob("w.db*"):
            if one.is_file():
                one.rename(kept / one.name)
        async with opened(tmp_path / "other.db") as other:
            await other.create(record("other"), BUNDLE, take=False)
        (tmp_path / "other.db").rename(path)
        for attempt in (journal.append(lease, [completed()]), journal.runs()):
            with pytest.raises(JournalFailed, match="has been replaced by another file"):
                await attempt
    # Closing has not touched what stands there now.
    async with opened(path) as journal:
        assert [run.id for run in (await journal.runs()).runs] == ["other"]


async def test_the_log_of_a_replacement_outlives_the_one_who_was_replaced(tmp_path: Path):
    path = tmp_path / "w.db"
    first = made(path)
    await first.open()
    await first.create(record("old"), BUNDLE, take=False)
    for one in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        one.unlink()
    shutil.rmtree(f"{path}.holders")
    async with opened(path) as second:
        await second.create(record("new"), BUNDLE, take=False)
        await first.aclose()
        assert (await second.run("new")).id == "new"
        await second.create(record("newer"), BUNDLE, take=False)
    async with opened(path) as third:
        assert [run.id for run in (await third.runs()).runs] == ["newer", "new"]


async def test_a_log_that_is_gone_is_noticed(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path) as journal:
        _, lease = await journal.create(record(), BUNDLE, take=True)
        log = Path(f"{path}-wal")
        log.rename(tmp_path / "away")
        with pytest.raises(JournalFailed, match=f"log {log} is gone"):
            await journal.append(lease, [completed()])
        (tmp_path / "away").rename(log)
        assert await journal.append(lease, [completed()]) == 2


async def test_nobody_begins_anew_beside_others_whose_file_is_gone(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path):
        path.rename(tmp_path / "away.db")
        assert "gone, while others use it" in await refused(path)
        assert not path.exists()
        (tmp_path / "away.db").rename(path)


async def test_a_holders_folder_that_was_removed_comes_back(tmp_path: Path):
    path = tmp_path / "w.db"
    async with opened(path) as journal, opened(path, 1) as other:
        assert other.alive(journal.holder)
        shutil.rmtree(f"{path}.holders")
        assert not other.alive(journal.holder)
        await journal.renew()
        assert other.alive(journal.holder)
        assert [one.name for one in Path(f"{path}.holders").iterdir()] == [journal.holder]
