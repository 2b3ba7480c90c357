"""What is done again and again, and how often."""

import asyncio
from collections.abc import Callable

from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.journal import Lease, RunRecord
from pipeline.workflow.states import RunState
from tests.workflow.definitions import definition, step
from tests.workflow.engine.lab import lab


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
