"""What outlives the process, and what happens while the journal cannot be written."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.adapters.journals.sqlite import SqliteJournal
from pipeline.workflow.errors import DefinitionRefused, Fault, JournalFailed
from pipeline.workflow.journal import AnyEntry, Lease, RunRecord, Signalled, StepCompleted
from pipeline.workflow.states import RunState, StepState
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.lab import Gate, Lab, bundle_of, fails, lab, section


class Trouble(MemoryJournal):
    """A journal whose disk can be full."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.failing = False
        self.refused = 0

    def _check(self) -> None:
        if self.failing:
            self.refused += 1
            raise JournalFailed("the disk is full")

    async def create(self, *args: Any, **options: Any) -> Any:
        self._check()
        return await super().create(*args, **options)

    async def append(self, lease: Lease, entries: Sequence[AnyEntry]) -> int:
        self._check()
        return await super().append(lease, entries)


async def said_to_be_back(capsys: pytest.CaptureFixture[str]) -> str:
    """What was logged until it said so."""
    said = capsys.readouterr().out
    async with asyncio.timeout(20):
        while "journal_back" not in said:
            await asyncio.sleep(0.02)
            said += capsys.readouterr().out
    return said


async def test_a_full_disk_loses_and_fails_nothing(capsys):
    journal = Trouble()
    gate = Gate("A")
    async with lab({"wait": gate}, journal=journal) as here:
        run = await here.submit(definition(llm("a", "wait"), llm("b", "{{ a }}B"), llm("c", "C")))
        await gate.reached.wait()
        journal.failing = True
        gate.open.set()
        async with asyncio.timeout(10):
            while not journal.refused:
                await asyncio.sleep(0.01)
        with pytest.raises(JournalFailed):
            await here.submit(definition(llm("a", "A")))
        assert "b" not in here.began
        journal.failing = False
        record, _ = await here.end(run)
        assert record.outputs == {"b": "AB", "c": "C"}
        assert here.began.count("a") == 1
        out = await said_to_be_back(capsys)
    assert out.count("journal_unavailable") == out.count("journal_back") == 1


async def test_a_lost_lease_ends_it_here(capsys):
    book, gate = Book(), Gate("A")
    moment = time.time()
    now = [moment]
    journal = MemoryJournal(book=book, now=lambda: now[0])
    async with lab({"wait": gate}, journal=journal) as here:
        run = await here.submit(definition(llm("a", "wait"), llm("b", "wait"), llm("z", "{{ a }}")))
        await gate.reached.wait()
        now[0] += 1000
        other = MemoryJournal(book=book, now=lambda: now[0])
        await other.open()
        lease = await other.claim(run)
        assert lease is not None
        gate.open.set()
        async with asyncio.timeout(10):
            while len(here.engine._runs):
                await asyncio.sleep(0.01)
        assert "z" not in here.began
        assert "lease_lost" in capsys.readouterr().out
        assert here.engine.stats()["runs_lost"] == 1
        assert (await other.run(run)).holder == other.holder  # type: ignore[union-attr]


async def test_interrupted_runs_are_taken_up_and_finished_steps_are_not_done_again():
    book, gate = Book(), Gate()
    keys: list[str] = []

    async def first(context: Any) -> Any:
        keys.append(context.idempotency_key)
        return await gate(context)

    async with lab({"wait": first}, book=book) as here:
        run = await here.submit(
            definition(
                llm("a", "A"), llm("n", "N"), llm("b", "wait", depends_on=["a", "n"]), llm("c", "{{ a }}{{ b }}")
            )
        )
        await gate.reached.wait()
        assert await here.engine.stop() is None
        assert (await here.journal.run(run)).state is RunState.RUNNING  # type: ignore[union-attr]
    attempts: list[int] = []

    def again(context: Any) -> str:
        attempts.append(context.attempt)
        keys.append(context.idempotency_key)
        assert context.underway
        return "B"

    async with lab({"wait": again}, book=book) as here:
        record, history = await here.end(run)
        assert record.outputs == {"c": "AB"}
        assert here.began == ["b", "c"]
        assert attempts == [2]
        assert keys[0] == keys[1]
        assert history.steps["b"].failures == 0
        assert here.engine.stats()["runs_resumed"] == 1


async def test_a_stop_with_grace_lets_steps_end():
    book, gate = Book(), Gate("A")
    async with lab({"wait": gate}, book=book) as here:
        run = await here.submit(definition(llm("a", "wait"), llm("b", "{{ a }}")))
        await gate.reached.wait()
        stopping = asyncio.create_task(here.engine.stop(10))
        await asyncio.sleep(0)
        gate.open.set()
        await stopping
        assert (await here.history(run)).steps["a"].state is StepState.COMPLETED
        assert here.began == ["a"]
        assert (await here.journal.run(run)).holder == ""  # type: ignore[union-attr]


async def test_a_retry_goes_on_where_it_was_after_a_restart():
    book = Book()
    wanted = definition(llm("a", "fail", retry={"max_attempts": 2, "initial_delay_ms": 60, "jitter": False}))
    async with lab({"fail": fails(retryable=True)}, book=book) as here:
        run = await here.submit(wanted)
        async with asyncio.timeout(10):
            while (
                "a" not in (await here.history(run)).steps
                or (await here.history(run)).steps["a"].state is not StepState.RETRYING
            ):
                await asyncio.sleep(0.002)
    async with lab({"fail": fails(retryable=True)}, book=book) as here:
        record, history = await here.end(run)
        assert record.state is RunState.FAILED
        assert history.steps["a"].attempt == 2
        assert len(here.began) == 1


async def test_a_run_whose_definition_is_refused_now_fails_with_that():
    book = Book()
    async with lab(book=book) as here:
        run = await here.submit(definition(step("wait", "w", seconds=0.05)))
        await here.until(run, RunState.WAITING)

    def refuses(_: Any) -> Any:
        raise DefinitionRefused([Fault("steps.w", "there is no such type any more")])

    journal = MemoryJournal(book=book)
    await journal.open()
    here = Lab(journal, section(), {})
    here.engine._runs._plans._make = refuses
    await here.engine.start()
    record, _ = await here.end(run)
    assert record.state is RunState.FAILED
    assert record.error is not None
    assert record.error["kind"] == "definition"
    assert "no such type" in record.error["message"]
    await here.engine.stop()


async def test_only_runs_that_are_mine_are_taken_up():
    book = Book()
    journal = MemoryJournal(book=book)
    await journal.open()
    bundle = bundle_of(definition(llm("a", "A")))
    now = time.time()
    for run_id in ("mine", "yours"):
        await journal.create(
            RunRecord(run_id, "main", "1", bundle.digest, RunState.PENDING, now, now, inputs={}), bundle, take=False
        )
    mine: Callable[[str], bool] = lambda run_id: run_id == "mine"  # noqa: E731
    here = Lab(journal, section(), {})
    here.engine._upkeep._mine = mine
    await here.engine.start()
    await here.end("mine")
    assert (await journal.run("yours")).state is RunState.PENDING  # type: ignore[union-attr]
    await here.engine.stop()


async def test_runs_older_than_the_retention_are_deleted():
    book = Book()
    async with lab(book=book) as here:
        run, _ = await here.run(definition(llm("a", "A")))
    later = [time.time() + 3700]
    journal = MemoryJournal(book=book, now=lambda: later[0])
    await journal.open()
    here = Lab(journal, section(retention_hours=1, lease_ms=1000), {})
    here.engine._shared.now = lambda: later[0]
    await here.engine.start()
    async with asyncio.timeout(10):
        while await journal.run(run.id) is not None:
            await asyncio.sleep(0.02)
    await here.engine.stop()


async def test_an_orphan_is_taken_up_by_the_sweep():
    book = Book()
    dead, now = MemoryJournal(book=book), time.time()
    await dead.open()
    bundle = bundle_of(definition(llm("a", "A")))
    async with lab(book=book, lease_ms=1000) as here:
        await dead.create(
            RunRecord("r", "main", "1", bundle.digest, RunState.PENDING, now, now, inputs={}), bundle, take=True
        )
        await dead.aclose()
        record, _ = await here.end("r")
        assert record.state is RunState.COMPLETED


async def test_a_signal_that_another_process_posted_is_heard():
    gate, book = Gate("A"), Book()
    other = MemoryJournal(book=book)
    await other.open()
    async with lab({"wait": gate}, book=book) as here:
        run = await here.submit(definition(llm("a", "wait"), step("wait", "w", event="go"), llm("z", "{{ a }}{{ w }}")))
        await gate.reached.wait()
        await other.post(run, [Signalled(time.time(), "go", "B")])
        gate.open.set()
        record, history = await here.end(run)
        assert record.outputs == {"z": "AB"}
        assert [one.number for one in here.eyes.seen[run]] == list(range(2, history.last + 1))


async def test_an_error_of_the_journal_that_is_none_of_its_own_leaves_no_run_hanging(capsys):
    class Odd(MemoryJournal):
        odd = 1

        async def append(self, lease: Lease, entries: Sequence[AnyEntry]) -> int:
            if any(isinstance(entry, StepCompleted) for entry in entries) and self.odd:
                self.odd = 0
                raise ZeroDivisionError
            return await super().append(lease, entries)

    async with lab(journal=Odd()) as here:
        run, _ = await here.run(definition(llm("a", "A"), llm("b", "{{ a }}")))
        assert run.state is RunState.FAILED
        assert run.error is not None
        assert run.error["kind"] == "internal"
        assert "run_broke" in capsys.readouterr().out


@pytest.mark.slow
async def test_a_thousand_interrupted_runs_go_on_within_seconds(tmp_path):
    def journal() -> SqliteJournal:
        return SqliteJournal(
            tmp_path / "workflows.db", shard=0, synchronous="normal", lease_seconds=10, inline_bytes=4096
        )

    gate = Gate("A")
    wanted = definition(llm("a", "A"), llm("b", "wait", depends_on=["a"]), llm("c", "{{ b }}"))
    async with lab({"wait": gate}, journal=journal(), max_steps=2000) as here:
        runs = await asyncio.gather(*(here.submit(wanted, run_id=f"r{number}") for number in range(1000)))
        async with asyncio.timeout(30):
            while here.began.count("b") < 1000:
                await asyncio.sleep(0.02)
    gate.open.set()
    async with lab({"wait": gate}, journal=journal()) as here:
        since = time.monotonic()
        for run in runs:
            assert (await here.end(run))[0].outputs == {"c": "A"}
        assert time.monotonic() - since < 20
        assert "a" not in here.began
