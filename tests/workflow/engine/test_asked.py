"""What people ask of runs: pause, resume, cancel, retry; and what cannot be asked."""

import asyncio
import time
from typing import Any

import pytest

from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow.engine import Elsewhere
from pipeline.workflow.errors import Conflict, TooManyRuns, UnknownRun
from pipeline.workflow.journal import RunRecord
from pipeline.workflow.ports import StepContext
from pipeline.workflow.states import RunState, StepState
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.lab import Gate, bundle_of, fails, flaky, lab


async def test_a_pause_lets_steps_end_and_starts_no_more():
    gate = Gate("A")
    async with lab({"wait": gate}) as here:
        run = await here.submit(definition(llm("a", "wait"), llm("b", "{{ a }}B")))
        await gate.reached.wait()
        assert (await here.engine.pause(run)).state is RunState.PAUSED
        gate.open.set()
        await here.until(run, RunState.PAUSED)
        assert (await here.history(run)).steps["a"].state is StepState.COMPLETED
        assert here.began == ["a"]
        with pytest.raises(Conflict):
            await here.engine.pause(run)
        await here.engine.resume(run)
        record, _ = await here.end(run)
        assert record.outputs == {"b": "AB"}
        assert here.began == ["a", "b"]


async def test_a_run_that_is_resumed_while_a_step_is_still_under_way():
    gate = Gate("A")
    async with lab({"wait": gate}) as here:
        run = await here.submit(definition(llm("a", "wait"), llm("b", "{{ a }}B")))
        await gate.reached.wait()
        await here.engine.pause(run)
        await here.engine.resume(run)
        gate.open.set()
        record, _ = await here.end(run)
        assert record.outputs == {"b": "AB"}
        assert here.began == ["a", "b"]


async def test_a_paused_run_that_has_nothing_left_to_do_ends_when_it_is_resumed():
    gate = Gate("A")
    async with lab({"wait": gate}) as here:
        run = await here.submit(definition(llm("a", "wait")))
        await gate.reached.wait()
        await here.engine.pause(run)
        gate.open.set()
        await here.until(run, RunState.PAUSED)
        await here.engine.resume(run)
        record, _ = await here.end(run)
        assert record.outputs == {"a": "A"}


async def test_a_paused_wait_that_is_over_ends_when_it_is_resumed():
    async with lab() as here:
        run = await here.submit(definition(step("wait", "w", seconds=0.05), llm("b", "B", depends_on=["w"])))
        await here.until(run, RunState.WAITING)
        await here.engine.pause(run)
        await asyncio.sleep(0.1)
        assert (await here.until(run, RunState.PAUSED)).state is RunState.PAUSED
        await here.engine.resume(run)
        record, _ = await here.end(run)
        assert record.outputs == {"b": "B"}


async def test_a_cancelled_run_has_ended_when_that_returns():
    gate = Gate()
    async with lab({"wait": gate}) as here:
        run = await here.submit(definition(llm("a", "wait"), llm("b", "{{ a }}")))
        await gate.reached.wait()
        record = await here.engine.cancel(run, "no longer wanted")
        assert record.state is RunState.CANCELLED
        assert gate.cancelled == 1
        assert (await here.history(run)).because == "no longer wanted"
        for ask in (here.engine.cancel, here.engine.pause, here.engine.resume):
            with pytest.raises(Conflict):
                await ask(run)


async def test_runs_that_wait_or_are_paused_are_cancelled_too():
    async with lab() as here:
        waits = definition(step("wait", "w", event="go"))
        one, other = await here.submit(waits), await here.submit(waits)
        await here.until(one, RunState.WAITING)
        assert (await here.engine.cancel(one)).state is RunState.CANCELLED
        await here.engine.pause(other)
        await here.until(other, RunState.PAUSED)
        assert (await here.engine.cancel(other)).state is RunState.CANCELLED
        assert (await here.end(other))[0].state is RunState.CANCELLED


async def test_a_retry_does_what_failed_and_nothing_that_was_completed():
    async with lab({"flaky": flaky(1)}) as here:
        wanted = definition(llm("a", "A"), llm("b", "flaky", depends_on=["a"]), llm("c", "{{ a }}{{ b }}"))
        run, _ = await here.run(wanted)
        assert run.state is RunState.FAILED
        await here.engine.retry(run.id)
        record, history = await here.end(run.id)
        assert record.state is RunState.COMPLETED
        assert record.outputs == {"c": "Aat last"}
        assert here.began == ["a", "b", "b", "c"]
        assert history.steps["b"].state is StepState.COMPLETED


async def test_a_retry_goes_inside_and_does_again_what_depended_on_a_failure():
    tries = flaky(1)
    async with lab({"flaky": tries}) as here:
        run, _ = await here.run(
            definition(
                step(
                    "map", "each", items=["x", "flaky"],
                    steps=[llm("one", "one"), llm("two", "{{ item }}", depends_on=["one"], on_failure="continue")],
                ),
                llm("end", "{{ each }}"),
            )
        )  # fmt: skip
        assert run.state is RunState.PARTIAL
        assert run.outputs == {"end": ["x", None]}
        await here.engine.retry(run.id)
        record, _ = await here.end(run.id)
        assert record.state is RunState.COMPLETED
        assert record.outputs == {"end": ["x", "at last"]}
        assert sorted(here.began) == sorted(
            ["each[0]/one", "each[1]/one", "each[0]/two", "each[1]/two", "end", "each[1]/two", "end"]
        )


async def test_a_retry_from_a_step_does_that_one_and_what_depends_on_it():
    counted = 0

    def count(_: StepContext) -> Any:
        nonlocal counted
        counted += 1
        return counted

    async with lab({"count": count}) as here:
        run, _ = await here.run(
            definition(
                llm("a", "count"), llm("b", "{{ a }}"), llm("other", "O"),
                step("loop", "l", max_iterations=3, steps=[llm("x", "count")]), llm("z", "{{ b }}{{ l }}{{ other }}"),
            )
        )  # fmt: skip
        assert run.outputs == {"z": "14O"}
        await here.engine.retry(run.id, "a")
        record, _ = await here.end(run.id)
        assert record.outputs == {"z": "54O"}
        here.began.clear()
        await here.engine.retry(run.id, "l[1]/x")
        record, _ = await here.end(run.id)
        assert here.began == ["l[1]/x", "l[2]/x", "z"]
        assert record.outputs == {"z": "57O"}
        with pytest.raises(Conflict):
            await here.engine.retry(run.id, "nowhere")


async def test_a_cancelled_run_goes_on_where_it_was_when_it_is_retried():
    gate = Gate("slow")
    async with lab({"wait": gate}) as here:
        run = await here.submit(
            definition(
                step("parallel", "p", steps=[llm("a", "A"), llm("b", "wait", depends_on=["a"])]), llm("z", "{{ p }}")
            )
        )
        await gate.reached.wait()
        with pytest.raises(Conflict):
            await here.engine.retry(run)
        await here.engine.cancel(run)
        gate.open.set()
        await here.engine.retry(run)
        record, _ = await here.end(run)
        assert record.outputs == {"z": {"a": "A", "b": "slow"}}
        assert here.began == ["p/a", "p/b", "p/b", "z"]


async def test_unknown_runs_and_those_of_others():
    book = Book()
    gate = Gate()
    async with lab({"wait": gate}, book=book) as here, lab(book=book, journal=MemoryJournal(book=book)) as there:
        for ask in (here.engine.pause, here.engine.resume, here.engine.cancel, here.engine.retry, here.engine.finished):
            with pytest.raises(UnknownRun):
                await ask("nothing")
        run = await here.submit(definition(llm("a", "wait")))
        await gate.reached.wait()
        for ask in (there.engine.pause, there.engine.cancel):
            with pytest.raises(Elsewhere) as elsewhere:
                await ask(run)
            assert elsewhere.value.holder == here.journal.holder


async def test_more_runs_than_may_be_executed_are_pending_and_the_oldest_is_next():
    gates = {f"g{number}": Gate() for number in range(4)}
    async with lab(gates, max_executing=1) as here:
        runs = [await here.submit(definition(llm("a", f"g{number}"))) for number in range(4)]
        for number, run in enumerate(runs):
            await asyncio.wait_for(gates[f"g{number}"].reached.wait(), 10)
            assert len(here.engine._runs) == 1
            gates[f"g{number}"].open.set()
            assert (await here.end(run))[0].state is RunState.COMPLETED


async def test_too_many_runs_are_refused():
    async with lab(max_runs=2) as here:
        waits = definition(step("wait", "w", event="go"))
        one, _ = await here.submit(waits), await here.submit(waits)
        with pytest.raises(TooManyRuns) as refused:
            await here.submit(waits)
        assert refused.value.retry_after
        await here.engine.cancel(one)
        await here.submit(waits)


async def test_the_same_key_gives_the_same_run():
    async with lab() as here:
        bundle = bundle_of(definition(llm("a", "A")))
        now = time.time()

        def record(run_id: str, digest: str) -> RunRecord:
            return RunRecord(
                run_id,
                "main",
                "1",
                bundle.digest,
                RunState.PENDING,
                now,
                now,
                inputs={},
                idempotency_key="k",
                request_digest=digest,
            )

        one = await here.engine.submit(record("one", "d"), bundle)
        again = await here.engine.submit(record("two", "d"), bundle)
        assert one.id == again.id == "one"
        with pytest.raises(Conflict):
            await here.engine.submit(record("three", "e"), bundle)
        await here.end("one")
        assert here.engine.stats()["runs_submitted"] == 1
        assert here.engine.stats()["runs_open"] == 0


async def test_a_failed_step_and_a_run_under_way_can_be_told_from_the_stats():
    gate = Gate()
    async with lab({"wait": gate, "fail": fails()}, max_steps=1) as here:
        run = await here.submit(definition(llm("a", "wait"), llm("b", "wait")))
        await gate.reached.wait()
        stats = here.engine.stats()
        assert (stats["runs_executing"], stats["steps_executing"], stats["steps_pending"]) == (1, 1, 1)
        await here.engine.cancel(run)
        stats = here.engine.stats()
        assert (stats["runs_executing"], stats["steps_executing"], stats["steps_pending"]) == (0, 0, 0)
        assert stats["runs_cancelled"] == 1
