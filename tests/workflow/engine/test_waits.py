"""Waits: for a time, until a moment, for a signal; and runs that leave the memory meanwhile."""

import asyncio
import time
from datetime import UTC, datetime, timedelta

import pytest

from pipeline.adapters.journals.memory import Book
from pipeline.workflow.errors import Conflict, UnknownRun
from pipeline.workflow.states import RunState, StepState
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.lab import Gate, lab


async def test_a_run_that_only_waits_leaves_the_memory_and_comes_back_in_time():
    async with lab() as here:
        since = time.time()
        run = await here.submit(
            definition(
                llm("a", "A"), step("wait", "w", seconds=0.15, depends_on=["a"]), llm("b", "B", depends_on=["w"])
            )
        )
        record = await here.until(run, RunState.WAITING)
        assert record.wake_at == pytest.approx(since + 0.15, abs=0.1)
        assert len(here.engine._runs) == 0
        record, history = await here.end(run)
        assert record.state is RunState.COMPLETED
        assert time.time() - since >= 0.15
        assert here.done == ["a", "b"]
        assert history.steps["w"].state is StepState.COMPLETED


async def test_a_moment_that_is_past_ends_the_wait_at_once():
    past = (datetime.now(UTC) - timedelta(days=1)).isoformat()
    async with lab() as here:
        run, _ = await here.run(definition(step("wait", "w", until=past), llm("b", "B", depends_on=["w"])))
        assert run.outputs == {"b": "B"}


@pytest.mark.parametrize("until", ["tomorrow", "2030-01-01T00:00:00", 5])
async def test_a_moment_must_be_one(until):
    async with lab() as here:
        run, _ = await here.run(definition(llm("a", until), step("wait", "w", until="{{ a }}")))
        assert run.error is not None
        assert run.error["kind"] == "invalid_value"


@pytest.mark.parametrize("seconds", [-1, 1e12, "long", True, None])
async def test_seconds_must_be_some(seconds):
    async with lab() as here:
        run, _ = await here.run(definition(llm("a", seconds), step("wait", "w", seconds="{{ a }}")))
        assert run.error is not None
        assert run.error["kind"] == "invalid_value"


async def test_a_signal_ends_a_wait_with_its_payload():
    async with lab() as here:
        run = await here.submit(definition(step("wait", "w", event="go"), llm("b", "{{ w.x }}")))
        await here.until(run, RunState.WAITING)
        record = await here.engine.signal(run, "other", None)
        assert not record.state.final
        await here.until(run, RunState.WAITING)
        await here.engine.signal(run, "go", {"x": 5})
        record, _ = await here.end(run)
        assert record.outputs == {"b": 5}


async def test_a_signal_may_come_before_its_wait_and_is_taken_once():
    gate = Gate()
    async with lab({"wait": gate}) as here:
        run = await here.submit(
            definition(
                llm("a", "wait"), step("wait", "v", event="go", depends_on=["a"]),
                step("wait", "w", event="go", depends_on=["v"]), llm("z", "{{ v }}{{ w }}"),
            )
        )  # fmt: skip
        await gate.reached.wait()
        await here.engine.signal(run, "go", 1)
        await here.engine.signal(run, "go", 2)
        gate.open.set()
        record, history = await here.end(run)
        assert record.outputs == {"z": "12"}
        assert history.signals == []


async def test_a_signal_to_a_run_that_still_has_other_things_to_do():
    gate = Gate()
    async with lab({"wait": gate}) as here:
        run = await here.submit(definition(llm("a", "wait"), step("wait", "w", event="go"), llm("z", "{{ w }}{{ a }}")))
        await gate.reached.wait()
        await here.engine.signal(run, "go", "gone: ")
        gate.open.set()
        record, _ = await here.end(run)
        assert record.outputs == {"z": "gone: let go"}


async def test_a_wait_for_a_signal_gives_up():
    async with lab() as here:
        run = await here.submit(
            definition(
                step("wait", "w", event="go", timeout_seconds=0.05, on_failure="continue"),
                llm("b", "{{ steps.w.error.kind }}"),
            )
        )
        await here.until(run, RunState.WAITING)
        record, _ = await here.end(run)
        assert record.outputs == {"b": "timeout"}
        assert record.state is RunState.PARTIAL


async def test_a_wait_that_is_longer_than_its_time_out():
    async with lab() as here:
        run, history = await here.run(
            definition(
                step("wait", "w", seconds=60, timeout_seconds=0.02, retry={"max_attempts": 2, "initial_delay_ms": 1})
            )
        )
        assert run.error is not None
        assert run.error["kind"] == "timeout"
        assert history.steps["w"].attempt == 2


async def test_the_time_out_of_a_run_reaches_one_that_waits():
    async with lab() as here:
        run, history = await here.run(definition(step("wait", "w", seconds=60), timeout_seconds=0.3))
        assert run.state is RunState.FAILED
        assert run.error is not None
        assert run.error["kind"] == "timeout"
        assert history.started_at is not None
        assert history.ended_at is not None
        assert history.ended_at - history.started_at < 0.55


async def test_the_configured_time_out_does_not_count_waiting():
    async with lab(run_timeout_ms=60) as here:
        run, _ = await here.run(definition(step("wait", "w", seconds=0.12), llm("a", "A", depends_on=["w"])))
        assert run.state is RunState.COMPLETED


async def test_waits_inside_of_a_map():
    async with lab() as here:
        run = await here.submit(
            definition(
                step(
                    "map", "each", items=[1, 2, 3], steps=[step("wait", "w", event="e{{ item }}"), llm("a", "{{ w }}")]
                )
            )
        )
        for number in (2, 1, 3):
            await here.until(run, RunState.WAITING)
            await here.engine.signal(run, f"e{number}", number * 10)
        record, _ = await here.end(run)
        assert record.outputs == {"each": [10, 20, 30]}


async def test_a_wait_goes_on_after_a_restart():
    book = Book()
    async with lab(book=book) as here:
        run = await here.submit(definition(step("wait", "w", event="go", timeout_seconds=60), llm("b", "{{ w }}")))
        wake_at = (await here.until(run, RunState.WAITING)).wake_at
    async with lab(book=book) as here:
        await here.engine.signal(run, "none", None)
        assert (await here.until(run, RunState.WAITING)).wake_at == wake_at
        await here.engine.signal(run, "go", "went")
        record, _ = await here.end(run)
        assert record.outputs == {"b": "went"}


async def test_signals_that_cannot_be_taken():
    async with lab() as here:
        with pytest.raises(UnknownRun):
            await here.engine.signal("none", "go", None)
        run, _ = await here.run(definition(llm("a", "A")))
        with pytest.raises(Conflict):
            await here.engine.signal(run.id, "go", None)
        with pytest.raises(Conflict):
            await here.engine.signal(run.id, "go", float("nan"))


@pytest.mark.slow
async def test_ten_thousand_waiting_runs_are_held_by_the_journal_alone():
    async with lab(max_executing=500) as here:
        waits = definition(step("wait", "w", event="go"))
        for number in range(10_000):
            await here.submit(waits, run_id=f"r{number}")
        async with asyncio.timeout(40):
            while (await here.journal.counts())[RunState.WAITING] < 10_000:
                await asyncio.sleep(0.05)
        assert len(here.engine._runs) == 0
        assert here.engine._runs.wakes == []
        await asyncio.gather(*(here.engine.signal(f"r{number}", "go", number) for number in range(0, 10_000, 100)))
        for number in range(0, 10_000, 100):
            record, _ = await here.end(f"r{number}")
            assert record.outputs == {"w": number}


async def test_a_wait_between_attempts_is_not_left_behind_by_another_one():
    async with lab() as here:
        run, history = await here.run(
            definition(
                step("wait", "v", seconds=60, timeout_seconds=0.02, retry={"max_attempts": 2, "initial_delay_ms": 30}),
                step("wait", "w", event="go"),
            )
        )
        assert run.error is not None
        assert (run.error["kind"], run.error["step"]) == ("timeout", "v")
        assert history.steps["v"].attempt == 2


async def test_each_of_two_waits_takes_one_of_two_signals_that_came_while_their_run_was_paused():
    gate = Gate("A")
    async with lab({"wait": gate}) as here:
        waits = (step("wait", "v", event="go"), step("wait", "w", event="go"))
        run = await here.submit(definition(llm("a", "wait"), *waits, llm("z", "{{ v }}{{ w }}")))
        await gate.reached.wait()
        await here.engine.pause(run)
        await here.engine.signal(run, "go", 1)
        await here.engine.signal(run, "go", 2)
        await here.engine.resume(run)
        gate.open.set()
        record, _ = await here.end(run)
        assert record.outputs is not None
        assert record.outputs["z"] == "12"


async def test_a_wait_takes_one_of_two_signals_that_came_while_its_run_was_paused():
    gate = Gate("A")
    async with lab({"wait": gate}) as here:
        run = await here.submit(definition(llm("a", "wait"), step("wait", "w", event="go"), llm("z", "{{ w }}{{ a }}")))
        await gate.reached.wait()
        await here.engine.pause(run)
        await here.engine.signal(run, "go", 1)
        await here.engine.signal(run, "go", 2)
        await here.engine.resume(run)
        gate.open.set()
        record, history = await here.end(run)
        assert record.outputs == {"z": "1A"}
        assert history.signals == [("go", 2)]
