"""A run that comes to more than the journal keeps of one fails, and says why; a journal that comes and goes is told of
sparingly."""

import asyncio

from structlog.testing import capture_logs

from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.workflow import shared
from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.ports import Result
from pipeline.workflow.states import RunState
from tests.workflow.definitions import definition, llm
from tests.workflow.engine.lab import lab


def big(context) -> Result:
    return Result("x" * 20_000 + context.path)


CHAIN = definition(*(llm(f"s{at}", prompt="big", depends_on=[f"s{at - 1}"] if at else []) for at in range(9)))


async def test_a_run_of_too_many_bytes_fails():
    async with lab({"big": big}, journal=MemoryJournal(run_max=50_000)) as here:
        record, history = await here.run(CHAIN)
        assert record.state is RunState.FAILED
        assert record.error is not None
        assert record.error["kind"] == "too_large"
        assert "50000 bytes" in record.error["message"]
        assert 2 <= len(here.done) < 9
        assert history.ended_at is not None
        assert here.engine.stats()["runs_open"] == 0


async def test_outputs_that_are_too_large_fail_it_too():
    outputs = {"all": "{{ steps.s0.value }}" * 4}
    whole = definition(llm("s0", prompt="big"), outputs=outputs)
    async with lab({"big": big}, journal=MemoryJournal(run_max=60_000)) as here:
        record, _ = await here.run(whole)
        assert (record.state, record.outputs) == (RunState.FAILED, None)
        assert record.error is not None
        assert record.error["kind"] == "too_large"
        assert here.engine.stats()["runs_open"] == 0


async def test_who_gave_up_waiting_does_not_keep_a_journal_from_coming_back(monkeypatch):
    monkeypatch.setattr(shared, "_SURE_S", 0.01)

    async def fails() -> None:
        raise JournalFailed("locked")

    async with lab() as here:
        asking = asyncio.create_task(here.engine._runs.persist(fails))
        while not here.engine.trouble:
            await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait({asking})
        here.engine._shared.journal_works("ledger", written=True)
        async with asyncio.timeout(5):
            while here.engine.trouble:
                await asyncio.sleep(0.01)


async def test_a_journal_is_back_when_it_was_written_and_not_sooner(monkeypatch):
    monkeypatch.setattr(shared, "_SURE_S", 0.05)
    async with lab() as here:
        common = here.engine._shared
        with capture_logs() as logs:
            for turn in range(20):  # reads work, writes do not
                common.journal_failed(JournalFailed("locked"), "look")
                common.journal_works("look")
                await asyncio.sleep(0.01 if turn < 10 else 0)
            assert [one["event"] for one in logs] == ["journal_unavailable"]
            assert here.engine.trouble == "locked"
            common.journal_works("ledger", written=True)
            common.journal_failed(JournalFailed("locked again"), "look")  # too soon
            common.journal_works("look", written=True)
            await asyncio.sleep(0.2)
            assert [one["event"] for one in logs] == ["journal_unavailable", "journal_back"]
        assert here.engine.trouble == ""
        assert here.engine.stats()["journal_failures"] == 1
