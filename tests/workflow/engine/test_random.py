"""Random workflows come to what a simple interpreter says; from every prefix of a journal too; and whatever people do
to a run meanwhile, it ends in order."""

import asyncio
import itertools
import random
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import Conflict
from pipeline.workflow.history import fold
from pipeline.workflow.journal import AnyEntry, Numbered, RunRecord, StateChanged, StepCompleted, StepSkipped
from pipeline.workflow.states import RunState, may_follow
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.lab import bundle_of, fails, flaky, lab
from tests.workflow.engine.random_runs import Drawn, expected, inputs, steps, written

ON_FAILURE = st.sampled_from(["fail", "continue"])
SCRIPT = {"fail": fails()}


def states_of(history: Any) -> dict[str, str]:
    return {path: one.state.value for path, one in history.steps.items() if "/" not in path}


@pytest.mark.slow
@settings(max_examples=100)
@given(steps(9), ON_FAILURE)
def test_a_run_comes_to_what_its_definition_says(drawn: list[Drawn], on_failure: str) -> None:
    async def go() -> None:
        states, state = expected(drawn, on_failure)
        async with lab(SCRIPT) as here:
            run, history = await here.run(written(drawn, on_failure), inputs(drawn))
            assert run.state.value == state, run.error
            if state != "failed" or on_failure == "continue":
                assert states_of(history) == states
            assert not here.engine._shared.writers
            assert len(here.engine._runs) == 0

    asyncio.run(go())


async def _cut(entries: Sequence[AnyEntry], record: RunRecord, wanted: Definition) -> Book:
    """A journal that has these entries of a run, and nobody who holds it."""
    book = Book()
    journal = MemoryJournal(book=book)
    await journal.open()
    begun = RunRecord(
        record.id, record.workflow, "1", record.bundle, RunState.PENDING, record.created_at, record.created_at,
        inputs=record.inputs,
    )  # fmt: skip
    _, lease = await journal.create(begun, bundle_of(wanted), take=True)
    assert lease is not None
    if len(entries) > 1:
        await journal.append(lease, entries[1:])
    await journal.aclose()
    return book


def _ended(entries: Sequence[AnyEntry]) -> set[str]:
    return {entry.path for entry in entries if isinstance(entry, StepCompleted | StepSkipped)}


async def _crash_anywhere(wanted: Definition, given_inputs: Any, script: Any) -> None:
    async with lab(script) as here:
        record, history = await here.run(wanted, given_inputs)
        entries = [one.entry for one in await here.journal.entries(record.id)]
    for length in range(1, len(entries)):
        kept = entries[:length]
        before = fold(Numbered(number, entry) for number, entry in enumerate(kept, 1))
        if before.state.final:
            continue
        async with lab(script, book=await _cut(kept, record, wanted)) as here:
            again, later = await here.end(record.id)
            assert again.state is record.state, (length, again.error)
            assert again.outputs == record.outputs, length
            # Inside of a step that failed it is chance which others had ended.
            if record.state is not RunState.FAILED:
                assert states_of(later) == states_of(history), length
            assert not _ended(kept) & set(here.began), length


@pytest.mark.slow
@settings(max_examples=15)
@given(steps(5), ON_FAILURE)
def test_a_crash_anywhere_changes_nothing(drawn: list[Drawn], on_failure: str) -> None:
    asyncio.run(_crash_anywhere(written(drawn, on_failure), inputs(drawn), SCRIPT))


@pytest.mark.slow
async def test_a_crash_anywhere_in_steps_within_steps():
    def late(context: Any) -> Any:
        if context.attempt < 2:
            fails(retryable=True)(context)
        return "late"

    inner = [
        step(
            "parallel",
            "p",
            steps=[llm("one", "{{ item }}", output="said"), llm("two", "late", retry={"initial_delay_ms": 0})],
        ),
        llm("last", "{{ said }}{{ steps.p.two }}"),
    ]
    wanted = definition(
        step("wait", "w", seconds=0.001),
        step("map", "each", items=[1, 2], steps=inner, depends_on=["w"]),
        step(
            "loop",
            "l",
            variables={"n": 0},
            until="n >= 3",
            steps=[llm("add", "{{ n + 1 }}", output="n")],
            depends_on=["each"],
        ),
        step("reduce", "r", items="{{ each }}", initial="", steps=[llm("join", "{{ accumulator }}{{ item }}")]),
        llm("bad", "fail", on_failure="fallback", fallback="instead"),
        llm("end", "{{ n }} {{ r }} {{ bad }}"),
    )
    await _crash_anywhere(wanted, {}, {**SCRIPT, "late": late})


@pytest.mark.slow
@settings(max_examples=60)
@given(
    steps(6),
    ON_FAILURE,
    st.lists(st.sampled_from(["pause", "resume", "cancel", "signal", "turn", "restart"]), max_size=8),
)
def test_whatever_is_done_to_a_run_it_ends_in_order(drawn: list[Drawn], on_failure: str, acts: list[str]) -> None:
    async def go() -> None:
        async def slow(_: Any) -> str:
            await asyncio.sleep(0)
            return "slow"

        script = {**SCRIPT, "before": slow}
        book, wanted = Book(), written(drawn, on_failure)
        async with lab(script, book=book) as here:
            run = await here.submit(wanted, inputs(drawn))
            for act in acts:
                await _do(here, run, act)
                if act == "restart":
                    break
        async with lab(script, book=book) as here:
            record = await here.journal.run(run)
            if record is not None and record.state is RunState.PAUSED:
                await here.engine.resume(run)
            record, history = await here.end(run)
            states = [one.entry.state for one in await here.journal.entries(run) if isinstance(one.entry, StateChanged)]
            for before, after in itertools.pairwise(states):
                assert may_follow(before, after) or before is after is RunState.RUNNING, states
            assert all(one.state.final for one in history.steps.values())
            if record.state is not RunState.CANCELLED:
                assert record.state.value == expected(drawn, on_failure)[1]

    asyncio.run(go())


async def _do(here: Any, run: str, act: str) -> None:
    try:
        match act:
            case "turn":
                for _ in range(random.randrange(12)):
                    await asyncio.sleep(0)
            case "signal":
                await here.engine.signal(run, "go", 1)
            case "pause" | "resume" | "cancel":
                await getattr(here.engine, act)(run)
    except Conflict:
        pass


@pytest.mark.slow
@settings(max_examples=30)
@given(
    st.lists(
        st.sampled_from(["ok", "fail", "flaky", "nan", "break", "cancel", "slow", "exit"]), min_size=1, max_size=6
    ),
    ON_FAILURE,
)
def test_no_handler_makes_a_run_hang(kinds: list[str], on_failure: str) -> None:
    async def slow(_: Any) -> Any:
        await asyncio.sleep(30)

    async def cancels(_: Any) -> Any:
        raise asyncio.CancelledError

    def breaks(_: Any) -> Any:
        raise ZeroDivisionError

    script = {
        **SCRIPT, "slow": slow, "cancel": cancels, "break": breaks, "flaky": flaky(1), "nan": lambda _: float("nan"),
        "exit": lambda _: object(),
    }  # fmt: skip

    async def go() -> None:
        async with lab(script) as here:
            made = [
                llm(f"s{n}", kind, timeout_seconds=0.01, retry={"initial_delay_ms": 0, "max_attempts": 2})
                for n, kind in enumerate(kinds)
            ]
            run, _ = await here.run(definition(*made, llm("z", "end", depends_on=["s0"]), on_failure=on_failure))
            good = all(kind in {"ok", "flaky"} for kind in kinds)
            assert (run.state is RunState.COMPLETED) == good

    asyncio.run(go())
