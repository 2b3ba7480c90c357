"""Steps with steps inside: their limits while all inside waits, further attempts, what a restart must not forget."""

import asyncio
from itertools import product
from typing import Any

import pytest

from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow.journal import RunRecord, StepRetrying
from pipeline.workflow.ports import StepContext
from pipeline.workflow.states import RunState, StepState
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.lab import Gate, bundle_of, fails, flaky, lab

QUICK = {"initial_delay_ms": 1}
POLICIES: tuple[dict[str, Any], ...] = (
    {}, {"on_failure": "fail"}, {"on_failure": "continue"}, {"on_failure": "fallback", "fallback": "F"},
)  # fmt: skip


async def test_the_time_out_of_a_step_in_which_all_waits():
    async with lab() as here:
        run = await here.submit(
            definition(
                step("parallel", "p", steps=[step("wait", "w", event="go")], timeout_seconds=0.1,
                     on_failure="continue"),
                llm("b", "{{ steps.p.error.kind }}"),
            )
        )  # fmt: skip
        record = await here.until(run, RunState.WAITING)
        assert record.wake_at is not None
        record, history = await here.end(run)
        assert record.outputs == {"b": "timeout"}
        assert history.steps["p/w"].state is StepState.ABANDONED


async def test_the_time_out_of_a_called_workflow_in_which_all_waits():
    other = definition(step("wait", "w", event="go"), name="other", timeout_seconds=0.1)
    async with lab() as here:
        run, _ = await here.run(definition(step("workflow", "sub", workflow="other")), others={"other": other})
        assert run.error is not None
        assert (run.error["kind"], run.error["step"]) == ("timeout", "sub")


async def test_a_signal_in_between_gives_no_more_time():
    async with lab() as here:
        run = await here.submit(
            definition(
                step(
                    "parallel", "p", timeout_seconds=0.3,
                    steps=[step("wait", "v", event="one"), step("wait", "w", event="other")],
                )
            )
        )  # fmt: skip
        before = (await here.until(run, RunState.WAITING)).wake_at
        await here.engine.signal(run, "one", None)
        await here.until(run, RunState.WAITING, RunState.FAILED)
        record, history = await here.end(run)
        assert record.error is not None
        assert record.error["kind"] == "timeout"
        assert before is not None
        assert history.ended_at is not None
        assert history.ended_at - before < 0.25


async def test_a_called_workflow_that_goes_on_after_failures_is_tried_again():
    other = definition(llm("bad", "flaky"), name="other", on_failure="continue")
    async with lab({"flaky": flaky(1)}) as here:
        run, _ = await here.run(
            definition(step("workflow", "sub", workflow="other", retry=QUICK)), others={"other": other}
        )
        assert run.outputs == {"sub": {"bad": "at last"}}
        assert run.state is RunState.COMPLETED


async def test_a_crash_between_a_failure_inside_and_the_next_attempt():
    tries, book = flaky(1), Book()
    wanted = definition(step("parallel", "p", steps=[llm("a", "A"), llm("b", "flaky", depends_on=["a"])], retry=QUICK))
    async with lab({"flaky": tries}) as here:
        run, _ = await here.run(wanted)
        entries = [one.entry for one in await here.journal.entries(run.id)]
    cut = next(index for index, entry in enumerate(entries) if isinstance(entry, StepRetrying))
    journal = MemoryJournal(book=book)
    await journal.open()
    begun = RunRecord("r", "main", "1", run.bundle, RunState.PENDING, run.created_at, run.created_at, inputs={})
    _, lease = await journal.create(begun, bundle_of(wanted), take=True)
    assert lease is not None
    await journal.append(lease, entries[1:cut])
    await journal.aclose()
    async with lab({"flaky": tries}, book=book) as here:
        record, _ = await here.end("r")
        assert record.state is RunState.COMPLETED, record.error
        assert here.began == ["p/b"]


async def test_a_cancelled_run_has_ended_only_when_what_was_cancelled_before_has():
    began, going, gone = asyncio.Event(), asyncio.Event(), False

    async def slow(_: StepContext) -> Any:
        nonlocal gone
        began.set()
        try:
            await asyncio.sleep(30)
        finally:
            going.set()
            await asyncio.sleep(0.05)
            gone = True

    async with lab({"slow": slow}) as here:
        run = await here.submit(definition(step("parallel", "p", steps=[llm("a", "slow")], timeout_seconds=0.02)))
        await going.wait()
        record = await here.engine.cancel(run)
        assert gone
        assert record.state is RunState.CANCELLED


@pytest.mark.parametrize(
    ("outputs", "script"), [({}, {"ok": fails()}), ({"x": "{{ b.nothing }}"}, {"ok": lambda _: "fine"})]
)
async def test_what_a_called_workflow_could_not_do_is_not_forgotten_in_a_restart(outputs, script):
    book, gate = Book(), Gate("Z")
    other = definition(llm("a", "ok"), llm("b", {"x": 1}), name="other", on_failure="continue", outputs=outputs)
    wanted = definition(step("workflow", "sub", workflow="other"), llm("z", "wait", depends_on=["sub"]))
    async with lab({**script, "wait": gate}, book=book) as here:
        run = await here.submit(wanted, others={"other": other})
        await gate.reached.wait()
    gate.open.set()
    async with lab({"wait": gate}, book=book) as here:
        record, history = await here.end(run)
        assert record.state is RunState.PARTIAL
        assert history.steps["sub"].fields["metadata"]["partial"] is True


async def test_a_called_workflow_says_that_something_deep_inside_of_it_failed():
    other = definition(
        step("map", "each", items=[1], steps=[llm("a", "fail", on_failure="continue")]), name="other"
    )  # fmt: skip
    async with lab({"fail": fails()}) as here:
        run, history = await here.run(definition(step("workflow", "sub", workflow="other")), others={"other": other})
        assert run.state is RunState.PARTIAL
        assert history.steps["sub"].fields["metadata"] == {"partial": True}


async def test_what_failed_in_a_step_that_has_a_fallback_does_not_count():
    inside = [llm("a", "fail", on_failure="continue"), llm("b", "fail", depends_on=["a"])]
    async with lab({"fail": fails()}) as here:
        run, _ = await here.run(definition(step("parallel", "p", steps=inside, on_failure="fallback", fallback=1)))
        assert run.state is RunState.COMPLETED
        assert run.outputs == {"p": 1}


def _with(kind: str, inside: list[dict[str, Any]], policy: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    more: dict[str, dict[str, Any]] = {
        "map": {"items": [1, 2]}, "reduce": {"items": [1, 2]}, "loop": {"max_iterations": 2}, "workflow": {},
    }  # fmt: skip
    if kind == "workflow":
        other = definition(*inside, name="other")
        return step("workflow", "c", workflow="other", **policy), {"other": other}
    return step(kind, "c", steps=inside, **more.get(kind, {}), **policy), {}


@pytest.mark.parametrize("kind", ["parallel", "map", "loop", "reduce", "workflow"])
@pytest.mark.parametrize("on_failure", ["fail", "continue"])
async def test_every_policy_inside_and_around(kind, on_failure):
    async with lab({"fail": fails()}) as here:
        for outer, inner in product(POLICIES, POLICIES):
            inside = [llm("i", "fine"), llm("j", "fail", depends_on=["i"], **inner), llm("k", "[{{ j }}]")]
            made, others = _with(kind, inside, outer)
            run, _ = await here.run(
                definition(made, llm("ok", "fine"), llm("z", "{{ c | tojson }}{{ ok }}"), on_failure=on_failure),
                others=others,
            )
            decides = inner if inner.get("on_failure") in {"continue", "fallback"} else outer
            by_policy = {"continue": RunState.PARTIAL, "fallback": RunState.COMPLETED}
            otherwise = RunState.PARTIAL if on_failure == "continue" else RunState.FAILED
            assert run.state is by_policy.get(decides.get("on_failure", ""), otherwise), (outer, inner, run.error)
