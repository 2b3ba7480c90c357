"""What an engine owes to the runs that it has when its process ends, in good order or not."""

import asyncio

import pytest

from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.states import RunState
from tests.workflow.definitions import definition, llm
from tests.workflow.engine.lab import Gate, Lab, lab, section
from tests.workflow.engine.test_durable import said_to_be_back

LEASE = 1.0


async def test_leases_are_kept_while_steps_are_given_time_to_end():
    book, gate = Book(), Gate()
    here = Lab(journal := MemoryJournal(book=book, lease_seconds=LEASE), section(lease_ms=1000), {"wait": gate})
    await journal.open()
    await here.engine.start()
    run = await here.submit(definition(llm("a", "wait")))
    await gate.reached.wait()
    stopping = asyncio.create_task(here.engine.stop(10))
    other = MemoryJournal(book=book, lease_seconds=LEASE)
    await other.open()
    for _ in range(15):  # longer than a lease lasts
        await asyncio.sleep(LEASE / 10)
        assert await other.claim(run) is None
    gate.open.set()
    await stopping
    assert (gate.cancelled, here.done) == (0, ["a"])
    assert await other.claim(run) is not None


def test_a_loop_that_ends_without_a_stop_leaves_steps_to_be_done_again():
    """As when a process ends by an error: `asyncio.run` cancels whatever there is."""
    book, gate = Book(), Gate()

    async def breaks_off() -> str:
        journal = MemoryJournal(book=book)
        await journal.open()
        here = Lab(journal, section(), {"wait": gate})
        await here.engine.start()
        run = await here.submit(definition(llm("a", "wait"), llm("b", "{{ steps.a.text }}")))
        await gate.reached.wait()
        return run

    async def goes_on(run: str) -> None:
        book.seen.clear()  # who was there before is dead
        async with lab(book=book) as here:
            record, history = await here.end(run)
        assert record.state is RunState.COMPLETED
        assert (history.steps["a"].attempt, history.steps["a"].error) == (2, None)

    run = asyncio.run(breaks_off())
    assert gate.cancelled == 1
    asyncio.run(goes_on(run))


class ReadOnly(MemoryJournal):
    """It can be read and not be written, for a while."""

    failing = False
    reads = 0
    read_again = asyncio.Event()

    async def append(self, *args: object) -> int:
        if self.failing:
            raise JournalFailed("the disk is full")
        return await super().append(*args)  # type: ignore[arg-type]

    async def counts(self) -> dict[RunState, int]:
        if self.failing:
            self.reads += 1
            if self.reads == 3:
                self.read_again.set()
        return await super().counts()


async def test_a_journal_that_can_be_read_only_has_not_come_back(capsys: pytest.CaptureFixture[str]):
    journal, gate = ReadOnly(), Gate()
    async with lab({"wait": gate}, journal=journal, lease_ms=1000) as here:
        run = await here.submit(definition(llm("a", "wait")))
        await gate.reached.wait()
        journal.failing = True
        gate.open.set()
        await asyncio.wait_for(journal.read_again.wait(), 20)
        said = capsys.readouterr().out
        assert (said.count("journal_unavailable"), said.count("journal_back")) == (1, 0)
        journal.failing = False
        record, _ = await here.end(run)
        assert record.state is RunState.COMPLETED
        assert here.engine.stats()["journal_failures"] == 1
        said = await said_to_be_back(capsys)
    assert (said.count("journal_unavailable"), said.count("journal_back")) == (0, 1)
