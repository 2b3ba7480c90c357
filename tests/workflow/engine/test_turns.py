"""Workflows do not keep the event loop from prompts, nor one run another."""

import asyncio
import time
from typing import Any

import pytest
from structlog.testing import capture_logs

from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.workflow import turns
from pipeline.workflow.history import INTERRUPTED
from pipeline.workflow.journal import RunRecord, StateChanged, StepCompleted
from pipeline.workflow.runs import _delay
from pipeline.workflow.states import RunState
from pipeline.workflow.turns import Turns
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.beats import beats
from tests.workflow.engine.lab import bundle_of, fails, lab

HEAVY = "{% for i in range(99999) %}{% for j in range(99999) %}{% if 'a' in 'b' %}{% endif %}{% endfor %}{% endfor %}"
# Some ms of work in one expression.
SLOW = "range(8000)|map('string')|map('upper')|map('lower')|map('upper')|list|length"
MS = 60  # that each heavy template takes
SHORT = 0.25  # seconds that a turn may take: those of some 4 of them


def template(text: str, id_: str = "t", **more: Any) -> dict[str, Any]:
    return step("transform", id_, operation="template", template=text, **more)


def busy(position: int) -> str:
    """Another one each time, and known to be busy only when it is filled in."""
    return f"{HEAVY}{{{{ inputs.x }}}}{position}"


def slow(position: int) -> str:
    return f"{{{{ {SLOW} + {position} }}}}"


WIDE = {
    "a map": [
        step("map", "m", items="{{ range(16)|list }}", max_concurrency=32,
             steps=[template(HEAVY + "{{ inputs.x }}", on_failure="continue")])
    ],
    "conditions": [
        llm(f"s{n}", "a", condition=f"{SLOW} == {n} + inputs.x", on_failure="continue")
        for n in range(24)
    ],
    "fallbacks": [llm(f"s{n}", "broken", on_failure="fallback", fallback=busy(n)) for n in range(16)],
    "headers": [
        step("action", "s", action="http_request", url="http://a", headers={f"h{n}": slow(n) for n in range(32)},
             on_failure="continue")
    ],
    "variables": [
        step("loop", "l", variables={f"v{n}": slow(n) for n in range(64)}, max_iterations=2, steps=[llm("a", "a")],
             on_failure="continue")
    ],
    "cases": [step("branch", "b", cases=[{"when": f"{SLOW} == {n}", "then": []} for n in range(24)])],
    "a condition in each turn": [
        step("map", "m", items="{{ range(24)|list }}", max_concurrency=24,
             steps=[llm("a", "a", condition=f"{SLOW} == item")])
    ],
}  # fmt: skip


FAILING = {"a map", "fallbacks", "headers", "variables"}


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize("kind", WIDE)
async def test_many_heavy_templates_take_short_turns(kind: str):
    limit = MS if kind in FAILING else 10 * MS
    async with lab({"broken": fails()}, template_timeout_ms=limit) as here, beats() as seen:
        run, _ = await here.run(definition(*WIDE[kind], inputs={"x": {}}, on_failure="continue"), {"x": 1})
    assert (run.state is RunState.COMPLETED) == (kind not in FAILING)
    assert seen.longest < SHORT


@pytest.mark.alone
@pytest.mark.slow
async def test_many_heavy_outputs_take_short_turns():
    outputs = {f"o{n}": busy(n) for n in range(16)}
    async with lab(template_timeout_ms=MS) as here, beats() as seen:
        run, _ = await here.run(definition(llm("a", "A"), inputs={"x": {}}, outputs=outputs), {"x": 1})
    assert run.error is not None
    assert run.error["details"]["errors"][0]["where"] == "outputs.o0"
    assert seen.longest < SHORT


@pytest.mark.alone
@pytest.mark.slow
async def test_a_run_with_heavy_steps_leaves_turns_to_another():
    heavy = step("map", "m", items="{{ range(64)|list }}", max_concurrency=64,
                 steps=[template(HEAVY + "{{ item }}", on_failure="continue")])  # fmt: skip
    async with lab(template_timeout_ms=MS) as here:
        wide = await here.submit(definition(heavy))
        since = time.monotonic()
        run, _ = await here.run(definition(llm("a", "A"), template("{{ a }}!", "b"), template("{{ b }}!", "c")))
        assert run.outputs == {"c": "A!!"}
        assert time.monotonic() - since < 64 * MS / 1000 / 2
        assert (await here.journal.run(wide)).state is RunState.RUNNING
        await here.engine.cancel(wide)


@pytest.mark.alone
@pytest.mark.slow
@pytest.mark.parametrize(
    "wide",
    [
        step("parallel", "p", steps=[template("x", f"s{n}") for n in range(9000)]),
        step("map", "m", items="{{ range(120)|list }}", max_concurrency=120, steps=[
            step("map", "n", items="{{ range(120)|list }}", max_concurrency=120, steps=[template("x")])]),
        step("reduce", "r", items="{{ range(10000)|list }}", initial=[], value="{{ accumulator + [item] }}"),
    ],
    ids=["parallel", "nested", "growing"],
)  # fmt: skip
async def test_what_is_wide_or_long_takes_short_turns(wide: dict[str, Any]):
    async with lab() as here, beats() as seen:
        run, _ = await here.run(definition(wide))
    assert run.state is RunState.COMPLETED
    assert seen.longest < SHORT


async def test_runs_take_turns(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(turns, "BUDGET", -1.0)  # each turn has been long enough as soon as it began
    shared, began = Turns(), []
    shared.open(asyncio.get_running_loop())
    assert shared.free("a")

    def begin(name: str) -> None:
        began.append(name)

    for name in ("a1", "a2", "a3", "b1", "b2"):
        assert not shared.free(name[0])
        shared.line(name[0], lambda name=name: begin(name))
    assert shared.waits("a")
    monkeypatch.setattr(turns, "BUDGET", 10.0)
    async with asyncio.timeout(5):
        while shared.waits("a"):
            await asyncio.sleep(0)
    assert began == ["a1", "b1", "a2", "b2", "a3"]
    assert not shared.waits("b")


# Runs that end their process.


async def interrupted(book: Book, *entries: Any, times: int) -> None:
    """A run that was begun so often, and each time its process ended."""
    journal = MemoryJournal(book=book)
    await journal.open()
    bundle = bundle_of(definition(llm("a", "A"), llm("b", "{{ a }}B")))
    now = time.time()
    record = RunRecord("poison", "w", "1", bundle.digest, RunState.PENDING, now, now, inputs={})
    _, lease = await journal.create(record, bundle, take=True)
    assert lease is not None
    await journal.append(lease, [StateChanged(now, RunState.RUNNING)])
    await journal.append(lease, [StateChanged(now, RunState.RUNNING, INTERRUPTED)] * times)
    if entries:
        await journal.append(lease, entries)
    await journal.aclose()


async def test_a_run_that_was_interrupted_again_and_again_is_taken_up_later():
    book = Book()
    await interrupted(book, times=6)
    with capture_logs() as lines:
        async with lab(book=book) as here:
            delayed = [line for line in lines if line["event"] == "run_delayed"]
            assert [(line["run"], line["seconds"], line["interruptions"]) for line in delayed] == [("poison", 15.0, 6)]
            other, _ = await here.run(definition(llm("z", "Z")))
            assert other.state is RunState.COMPLETED
            assert here.done == ["z"]
            run = await here.engine.cancel("poison")
            assert run.state is RunState.CANCELLED
            assert here.done == ["z"]


@pytest.mark.parametrize("times", [0, 4])
async def test_one_that_was_not_so_often_is_taken_up_at_once(times: int):
    book = Book()
    await interrupted(book, times=times)
    async with lab(book=book) as here:
        run, _ = await here.end("poison")
        assert run.outputs == {"b": "AB"}


async def test_a_step_that_ended_makes_up_for_interruptions():
    book = Book()
    await interrupted(book, StepCompleted(time.time(), "a", "A", {"text": "A"}, 1), times=9)
    async with lab(book=book) as here:
        run, _ = await here.end("poison")
        assert (run.outputs, here.done) == ({"b": "AB"}, ["b"])


async def test_a_delayed_run_can_be_paused_and_is_given_back():
    book = Book()
    await interrupted(book, times=5)
    async with lab(book=book) as here:
        assert (await here.engine.pause("poison")).state is RunState.PAUSED
        await here.engine.resume("poison")
        run, _ = await here.end("poison")
        assert run.outputs == {"b": "AB"}


async def test_that_it_is_taken_up_is_written_before_anything_is_done():
    book, known = Book(), []
    await interrupted(book, times=1)
    async with lab(book=book) as here:
        here.script["A"] = lambda _: known.extend(one.entry for one in here.eyes.seen["poison"]) or "A"
        await here.end("poison")
    assert [entry.because for entry in known if isinstance(entry, StateChanged)] == [INTERRUPTED]


def test_the_delay_grows_up_to_ten_minutes():
    assert [_delay(count) for count in (0, 4, 5, 6, 7, 10, 1000)] == [0, 0, 5, 15, 45, 600, 600]
