"""Attempts: retries, sheds, time-outs, bugs, values that are none."""

import asyncio
import contextlib
from typing import Any

import pytest

from pipeline.workflow import leaf
from pipeline.workflow.errors import Postponed
from pipeline.workflow.ports import Result, StepContext
from pipeline.workflow.states import RunState
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.lab import Gate, fails, flaky, lab

QUICK = {"initial_delay_ms": 1}


async def test_a_step_is_tried_again_where_it_says_so_and_that_may_help():
    async with lab({"flaky": flaky(2), "fail": fails()}) as here:
        run, history = await here.run(definition(llm("a", "flaky", retry=QUICK)))
        assert run.outputs == {"a": "at last"}
        assert history.steps["a"].attempt == 3
        assert history.steps["a"].failures == 2
        run, history = await here.run(definition(llm("other", "flaky")))
        assert run.state is RunState.FAILED
        assert history.steps["other"].attempt == 1
        run, history = await here.run(definition(llm("a", "fail", retry=QUICK)))
        assert history.steps["a"].attempt == 1
        assert run.state is RunState.FAILED


async def test_the_last_attempts_failure_counts():
    async with lab({"fail": fails(retryable=True)}) as here:
        run, history = await here.run(definition(llm("a", "fail", retry={**QUICK, "max_attempts": 4})))
        assert run.state is RunState.FAILED
        assert history.steps["a"].attempt == 4
        assert here.began == ["a"] * 4
        assert here.engine.stats()["steps_retried"] == 3


async def test_the_idempotency_key_is_the_same_for_each_attempt_and_no_other_step():
    keys: list[str] = []
    tries = flaky(1)

    def play(context: StepContext) -> Any:
        keys.append(context.idempotency_key)
        return tries(context)

    async with lab({"play": play}) as here:
        await here.run(definition(llm("a", "play", retry=QUICK), llm("b", "play", retry=QUICK, depends_on=["a"])))
        assert keys[0] == keys[1] != keys[2] == keys[3]


async def test_a_shed_is_waited_out_and_is_no_attempt():
    sheds = 3

    def busy(context: StepContext) -> Any:
        nonlocal sheds
        sheds -= 1
        if sheds >= 0:
            raise Postponed("shed", 0.001)
        return context.attempt

    async with lab({"busy": busy}) as here:
        run, history = await here.run(definition(llm("a", "busy")))
        assert run.outputs == {"a": 1}
        assert history.steps["a"].attempt == 1
        assert here.engine.stats()["steps_postponed"] == 3


async def test_a_step_that_finds_no_place_in_time_has_timed_out():
    def busy(_: StepContext) -> Any:
        raise Postponed("shed", 0.01)

    async with lab({"busy": busy}) as here:
        run, _ = await here.run(definition(llm("a", "busy", timeout_seconds=0.08)))
        assert run.error is not None
        assert run.error["kind"] == "timeout"


async def test_a_time_out_cancels_what_runs_and_is_tried_again():
    gate = Gate()
    async with lab({"wait": gate}) as here:
        run, history = await here.run(
            definition(llm("a", "wait", timeout_seconds=0.02, retry={**QUICK, "max_attempts": 2}))
        )
        assert run.error is not None
        assert run.error["kind"] == "timeout"
        assert gate.cancelled == 2
        assert history.steps["a"].attempt == 2


async def test_a_handler_that_swallows_a_cancellation_is_cancelled_again_and_waited_for():
    gone = asyncio.Event()

    async def stubborn(_: StepContext) -> Any:
        for _ in range(2):
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                pass
            else:
                break
        gone.set()
        return "too late"

    async with lab({"stubborn": stubborn}) as here:
        run, history = await here.run(definition(llm("a", "stubborn", timeout_seconds=0.02)))
        assert gone.is_set()
        assert run.error is not None
        assert run.error["kind"] == "timeout"
        assert history.steps["a"].value is None


async def test_a_handler_that_never_stops_holds_up_nobody(monkeypatch, capsys):
    monkeypatch.setattr(leaf, "_PAUSE", 0.001)
    over = asyncio.Event()

    async def never(_: StepContext) -> Any:
        while not over.is_set():
            with contextlib.suppress(asyncio.CancelledError):
                await over.wait()

    async with lab({"never": never}) as here:
        run, _ = await here.run(definition(llm("a", "never", timeout_seconds=0.01)))
        assert run.error is not None
        assert run.error["kind"] == "timeout"
        assert here.engine.stats()["steps_executing"] == 0
        assert "step_does_not_stop" in capsys.readouterr().out
        (task,) = here.engine._shared.forsaken
        over.set()
        await task


async def test_the_time_out_of_a_run_ends_all_of_it():
    gate = Gate()
    async with lab({"wait": gate}) as here:
        run, _ = await here.run(definition(llm("a", "wait"), timeout_seconds=0.03))
        assert run.state is RunState.FAILED
        assert run.error is not None
        assert run.error["kind"] == "timeout"
        assert gate.cancelled == 1


async def test_the_time_in_which_a_run_is_paused_does_not_count():
    gate = Gate("A")
    async with lab({"wait": gate}) as here:
        run = await here.submit(definition(llm("a", "wait"), timeout_seconds=0.3))
        await gate.reached.wait()
        await here.engine.pause(run)
        await asyncio.sleep(0.35)
        await here.engine.resume(run)
        gate.open.set()
        record, _ = await here.end(run)
        assert record.outputs == {"a": "A"}


async def test_the_configured_time_outs_are_for_those_that_say_nothing():
    gate = Gate()
    async with lab({"wait": gate}, step_timeout_ms=20, run_timeout_ms=60_000) as here:
        run, _ = await here.run(definition(llm("a", "wait")))
        assert run.error is not None
        assert (run.error["kind"], run.error["step"]) == ("timeout", "a")
    async with lab({"wait": gate}, step_timeout_ms=0, run_timeout_ms=20) as here:
        run, _ = await here.run(definition(llm("a", "wait")))
        assert run.error is not None
        assert (run.error["kind"], run.error["step"]) == ("timeout", "")


async def test_the_time_out_of_a_step_with_steps_inside():
    gate = Gate()
    async with lab({"wait": gate}) as here:
        run, _ = await here.run(
            definition(
                step("parallel", "p", steps=[llm("a", "wait")], timeout_seconds=0.02, on_failure="continue"),
                llm("b", "{{ steps.p.error.kind }}"),
            )
        )
        assert run.outputs == {"b": "timeout"}
        assert gate.cancelled == 1


async def test_what_is_left_of_the_time_is_known():
    left: list[float | None] = []
    async with lab({"look": lambda context: left.append(context.remaining)}) as here:
        await here.run(
            definition(llm("a", "look", timeout_seconds=5), llm("b", "look", depends_on=["a"]), timeout_seconds=3)
        )
        assert left[0] is not None
        assert 2 < left[0] <= 3


class Strange(Exception):
    pass


def _breaks(_: StepContext) -> Any:
    raise Strange("a bug")


async def _cancels_itself(_: StepContext) -> Any:
    raise asyncio.CancelledError


@pytest.mark.parametrize("play", [_breaks, _cancels_itself])
async def test_a_bug_in_a_handler_fails_the_step_and_is_logged(play, capsys):
    async with lab({"break": play}) as here:
        run, _ = await here.run(definition(llm("a", "break")))
        assert run.error is not None
        assert run.error["kind"] == "internal"
        assert "step_broke" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (float("nan"), "not_json"),
        ([1, {"a": float("inf")}], "not_json"),
        ({1: "a"}, "not_json"),
        (b"bytes", "not_json"),
        ({"a": {1, 2}}, "not_json"),
        ("\ud800", "not_json"),
        (object(), "not_json"),
        ("x" * 2000, "too_large"),
        (["x" * 100] * 20, "too_large"),
    ],
)
async def test_what_is_no_value_fails_the_step(value, kind):
    async with lab({"give": lambda _: Result(value)}, max_value_bytes=1024) as here:
        run, _ = await here.run(definition(llm("a", "give")))
        assert run.state is RunState.FAILED
        assert run.error is not None
        assert run.error["kind"] == kind


async def test_values_nested_too_deep_are_refused():
    deep: list[Any] = []
    for _ in range(2000):
        deep = [deep]
    async with lab({"give": lambda _: Result(deep)}) as here:
        run, _ = await here.run(definition(llm("a", "give")))
        assert run.error is not None
        assert run.error["kind"] == "not_json"


async def test_a_template_that_fails_says_what_it_is_about():
    async with lab() as here:
        run, _ = await here.run(definition(llm("a", {"x": 1}), llm("b", "{{ a.nothing }}"), llm("c", "{{ b }}")))
        assert run.error is not None
        assert run.error["kind"] == "template"
        assert run.error["step"] == "b"
        assert "nothing" in run.error["message"]
        assert "a" in here.done
        assert "c" not in here.began


async def test_steps_know_whether_their_run_is_under_way():
    seen: dict[str, bool] = {}

    def look(context: StepContext) -> None:
        seen[context.path] = context.underway

    async with lab({"look": look}) as here:
        await here.run(definition(llm("a", "look"), llm("b", "look", depends_on=["a"])))
        assert seen == {"a": False, "b": True}


async def test_pieces_of_answers_reach_who_looks_on():
    async with lab({"talk": lambda context: context.emit("piece")}) as here:
        run = await here.submit(definition(llm("a", "talk")))
        await here.end(run)
        assert here.eyes.texts == [(run, "a", 1, "piece")]
