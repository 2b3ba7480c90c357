"""What is done again and again, and how often."""

import asyncio
import time
from collections.abc import Callable

from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.journal import Lease, RunRecord
from pipeline.workflow.states import RunState
from pipeline.workflow.upkeep import EXPIRED_AT_ONCE
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.lab import Lab, lab, section


async def test_more_runs_than_are_deleted_at_once():
    book, count = Book(), EXPIRED_AT_ONCE + 100
    async with lab(book=book) as here:
        for number in range(count):
            await here.submit(definition(llm("a", "A")), run_id=f"r{number}")
        for number in range(count):
            await here.end(f"r{number}")
    later = time.time() + 3700
    journal = MemoryJournal(book=book, now=lambda: later)
    await journal.open()
    here = Lab(journal, section(retention_hours=1, lease_ms=1000), {})
    here.engine._shared.now = lambda: later
    await here.engine.start()
    async with asyncio.timeout(20):
        while (await journal.runs(limit=1)).runs:
            await asyncio.sleep(0.02)
    await here.engine.stop()


class Gone(MemoryJournal):
    """A journal that cannot be asked for runs."""

    def __init__(self) -> None:
        super().__init__()
        self.failing = False
        self.asked = 0
        self.again = asyncio.Event()

    async def claim_many(self, limit: int, *, due: float, mine: Callable[[str], bool]) -> list[tuple[RunRecord, Lease]]:
        if self.failing:
            self.asked += 1
            if self.asked == 3:
                self.again.set()
            raise JournalFailed("the database is gone")
        return await super().claim_many(limit, due=due, mine=mine)


async def test_a_journal_that_fails_while_a_run_is_due_is_asked_now_and_then():
    journal = Gone()
    async with lab(journal=journal) as here:
        run = await here.submit(definition(step("wait", "w", seconds=0.05)))
        await here.until(run, RunState.WAITING)
        journal.failing = True
        async with asyncio.timeout(10):
            await journal.again.wait()
        for _ in range(1000):
            await asyncio.sleep(0)
        assert journal.asked < 10
        journal.failing = False
        record, _ = await here.end(run)
        assert record.state is RunState.COMPLETED
