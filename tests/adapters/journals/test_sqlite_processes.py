"""Several processes on one journal, and what is left of those that are killed."""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.adapters.journals.opening import opened
from tests.conformance.journals.journals import BUNDLE, completed, record

pytestmark = pytest.mark.slow
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start() -> Iterator[Start]:
    children: list[subprocess.Popen[str]] = []

    def run(command: str, path: Path, argument: str = "") -> "subprocess.Popen[str]":
        words = [sys.executable, "-m", "tests.adapters.journals.child", command, str(path), argument]
        children.append(subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return children[-1]

    yield run
    for child in children:
        child.kill()
        child.communicate()


def whole(path: Path) -> None:
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


async def test_what_was_acknowledged_outlives_kill_9(tmp_path: Path, start: Start):
    path = tmp_path / "w.db"
    acknowledged: dict[str, int] = {}
    for kill in range(10):
        children = [start("append", path, f"k{kill}-{i}") for i in range(2)]
        for child in children:
            lines = random.randint(20, 200)
            for _ in range(lines):
                run_id, last = child.stdout.readline().split()
                acknowledged[run_id] = int(last)
        for child in children:
            child.send_signal(signal.SIGKILL)
        for child in children:
            rest = child.stdout.read()
            for line in rest.splitlines(keepends=True):
                if line.endswith("\n"):
                    run_id, last = line.split()
                    acknowledged[run_id] = int(last)
    assert len(acknowledged) > 100
    async with opened(path) as journal:
        histories = await journal.histories(list(acknowledged))
        for run_id, last in acknowledged.items():
            history = histories[run_id]
            assert len(history) >= last
            assert len(history) % 2 == 1  # pairs are whole
            assert [one.number for one in history] == list(range(1, len(history) + 1))
            assert all(len(one.entry.value) in {20, 3000} for one in history[1:])
        claimed = await journal.claim_many(1000, due=0.0, mine=lambda _: True)
        assert len(claimed) == 160  # every run of every process that was killed, at once
    whole(path)


async def test_a_holder_that_is_killed_is_dead_at_once(tmp_path: Path, start: Start):
    path = tmp_path / "w.db"
    async with opened(path, lease_seconds=3600) as journal:
        child = start("hold", path, "r1")
        holder = child.stdout.readline().strip()
        assert journal.alive(holder)
        assert (await journal.run("r1")).holder == holder
        assert await journal.claim("r1") is None
        child.kill()
        child.wait()
        assert not journal.alive(holder)
        lease = await journal.claim("r1")
        assert (lease.holder, lease.epoch) == (journal.holder, 2)
        assert [one.name for one in Path(f"{path}.holders").iterdir() if ":" in one.name] == [journal.holder]


async def test_a_holder_that_hangs_loses_its_leases_and_writes_nothing_more(tmp_path: Path, start: Start):
    path = tmp_path / "w.db"
    async with opened(path, lease_seconds=0.5) as journal:
        child = start("hold", path, "r1")
        child.stdout.readline()
        child.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(20):
            while (lease := await journal.claim("r1")) is None:
                await asyncio.sleep(0.02)
        assert await journal.append(lease, [completed()]) == 2


async def test_several_processes_share_the_work_and_nothing_is_done_twice(tmp_path: Path, start: Start):
    path = tmp_path / "w.db"
    async with opened(path) as journal:
        await asyncio.gather(*(journal.create(record(f"r{i}"), BUNDLE, take=False) for i in range(200)))
        children = [start("claim", path) for _ in range(3)]
        for child in children:
            assert child.stdout.readline() == "ready\n"
        for child in children:
            child.stdin.write("go\n")
            child.stdin.flush()
        said = [child.communicate(timeout=40)[0].split() for child in children]
        assert sorted(run for runs in said for run in runs) == sorted(f"r{i}" for i in range(200))
        histories = await journal.histories([f"r{i}" for i in range(200)])
        for child, runs in zip(children, said, strict=True):
            assert all([one.entry.value for one in histories[run][1:-1]] == [child.pid] for run in runs)
    whole(path)


def test_two_loops_in_two_threads_of_one_process_share_a_file(tmp_path: Path):
    path = tmp_path / "w.db"
    failures: list[BaseException] = []

    async def work(shard: int) -> None:
        async with opened(path, shard) as journal:
            _, lease = await journal.create(record(f"r{shard}"), BUNDLE, take=True)
            for i in range(200):
                assert await journal.append(lease, [completed("a", i)]) == i + 2

    def run(shard: int) -> None:
        try:
            asyncio.run(work(shard))
        except BaseException as error:  # noqa: BLE001 - told in the other thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(shard,)) for shard in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    whole(path)


async def test_a_child_process_does_not_keep_its_dead_parents_leases(tmp_path: Path, start: Start):
    """A fork has a copy of every descriptor, and with it of its lock."""
    path = tmp_path / "w.db"
    async with opened(path) as journal, opened(path, 1) as other:
        await journal.create(record(), BUNDLE, take=True)
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(writing)
            os.read(reading, 1)  # until the parent lets go
            os._exit(0)
        os.close(reading)
        try:
            assert other.alive(journal.holder)
            await journal.aclose()
            assert not other.alive(journal.holder)
            assert await other.claim("r1") is not None
        finally:
            os.close(writing)
            os.waitpid(child, 0)
