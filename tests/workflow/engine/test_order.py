"""In which order steps run, which are skipped, and what comes out."""

import asyncio

from pipeline.workflow.states import RunState, StepState
from tests.workflow.definitions import branch, definition, llm, step
from tests.workflow.engine.lab import Gate, fails, lab


async def test_a_step_runs_after_those_that_it_refers_to_whatever_the_order():
    async with lab() as here:
        run, history = await here.run(
            definition(
                llm("c", "{{ steps.b.text }}!"), llm("b", "{{ a }} and {{ inputs.x }}"), llm("a", "first"),
                inputs={"x": {"type": "string"}},
            ),
            {"x": "more"},
        )  # fmt: skip
        assert run.state is RunState.COMPLETED
        assert run.outputs == {"c": "first and more!"}
        assert here.done == ["a", "b", "c"]
        assert history.steps["b"].fields["model"] == "m"


async def test_independent_steps_run_at_once():
    gates = {name: Gate(name) for name in "abc"}
    async with lab(gates) as here:
        run = await here.submit(
            definition(llm("a", "a"), llm("b", "b"), llm("c", "c"), llm("d", "{{ a }}{{ b }}{{ c }}"))
        )
        await asyncio.gather(*(gate.reached.wait() for gate in gates.values()))
        for gate in gates.values():
            gate.open.set()
        record, _ = await here.end(run)
        assert record.outputs == {"d": "abc"}


async def test_a_join_after_a_branch_runs_when_what_was_chosen_is_done():
    async with lab() as here:
        run, history = await here.run(
            definition(
                branch("way", ("inputs.x > 1", "big"), default="small"),
                llm("big", "BIG"),
                llm("small", "small"),
                llm("after_small", "{{ small }}"),
                llm("join", "[{{ big }}{{ small }}]"),
                inputs={"x": {"type": "integer"}},
            ),
            {"x": 2},
        )
        assert run.state is RunState.COMPLETED
        assert run.outputs == {"join": "[BIG]"}
        assert history.steps["small"].state is StepState.SKIPPED
        assert history.steps["after_small"].state is StepState.SKIPPED
        assert history.steps["way"].value == 0


async def test_a_false_condition_skips_and_the_skip_goes_on():
    async with lab() as here:
        run, history = await here.run(
            definition(
                llm("a", "A", condition="inputs.go"), llm("b", "{{ a }}"), llm("c", "{{ b }}"), llm("d", "D"),
                llm("e", "{{ c }}{{ d }}"), inputs={"go": {"type": "boolean"}},
            ),
            {"go": False},
        )  # fmt: skip
        assert [history.steps[name].state.value for name in "abcde"] == ["skipped"] * 3 + ["completed"] * 2
        assert run.outputs == {"e": "D"}
        assert run.state is RunState.COMPLETED


async def test_a_failure_ends_the_run_and_what_is_under_way():
    gate = Gate()
    async with lab({"wait": gate, "fail": fails("teapot")}) as here:
        run, history = await here.run(definition(llm("slow", "wait"), llm("bad", "fail"), llm("next", "{{ bad }}")))
        assert run.state is RunState.FAILED
        assert run.error is not None
        assert run.error["kind"] == "teapot"
        assert run.error["step"] == "bad"
        assert gate.cancelled == 1
        assert history.steps["slow"].state is StepState.ABANDONED
        assert "next" not in history.steps


async def test_where_the_workflow_goes_on_only_what_needs_the_failed_step_is_skipped():
    async with lab({"fail": fails()}) as here:
        run, history = await here.run(
            definition(
                llm("bad", "fail"), llm("b", "{{ bad }}"), llm("c", "{{ b }}{{ ok }}"), llm("ok", "fine"),
                on_failure="continue", outputs={"c": "{{ c }}", "ok": "{{ ok }}"},
            )
        )  # fmt: skip
        assert run.state is RunState.PARTIAL
        assert run.outputs == {"c": None, "ok": "fine"}
        assert history.steps["c"].state is StepState.SKIPPED
        assert history.steps["c"].because == "dependency failed"


async def test_a_workflow_of_which_nothing_came_to_anything_has_failed():
    async with lab({"fail": fails()}) as here:
        run, _ = await here.run(definition(llm("bad", "fail"), llm("b", "{{ bad }}"), on_failure="continue"))
        assert run.state is RunState.FAILED


async def test_a_step_may_fail_where_it_says_so():
    async with lab({"fail": fails("teapot")}) as here:
        run, history = await here.run(
            definition(llm("bad", "fail", on_failure="continue"), llm("b", "[{{ bad }}] {{ steps.bad.error.kind }}"))
        )
        assert run.state is RunState.PARTIAL
        assert run.outputs == {"b": "[] teapot"}
        assert history.steps["bad"].tolerated


async def test_a_fallback_counts_as_completed():
    async with lab({"fail": fails()}) as here:
        run, history = await here.run(
            definition(
                llm("bad", "fail", on_failure="fallback", fallback="{{ inputs.x }}!"), llm("b", "{{ steps.bad.text }}"),
                inputs={"x": {"type": "string"}},
            ),
            {"x": "instead"},
        )  # fmt: skip
        assert run.state is RunState.COMPLETED
        assert run.outputs == {"b": "instead!"}
        assert history.steps["bad"].fallback


async def test_an_output_that_cannot_be_made_makes_the_run_partial():
    async with lab() as here:
        run, _ = await here.run(definition(llm("a", {"x": 1}), outputs={"a": "{{ a.nothing }}", "b": "{{ a.x }}"}))
        assert run.state is RunState.PARTIAL
        assert run.outputs == {"a": None, "b": 1}
        assert run.error is not None
        assert run.error["kind"] == "outputs"
        assert "outputs.a: " in run.error["message"]
        assert "nothing" in run.error["message"]


async def test_thousands_of_steps_in_a_row_and_side_by_side():
    async with lab() as here:
        row = [llm("s0", 0), *(llm(f"s{n}", f"{{{{ s{n - 1} + 1 }}}}") for n in range(1, 1000))]
        run, _ = await here.run(definition(*row))
        assert run.outputs == {"s999": 999}
        run, _ = await here.run(
            definition(
                *(llm(f"w{n}", n) for n in range(1000)), llm("all", "x", depends_on=[f"w{n}" for n in range(1000)])
            )
        )
        assert run.outputs == {"all": "x"}


async def test_a_run_without_a_place_for_a_step_of_its_own_type():
    async with lab() as here:
        run, _ = await here.run(
            definition(
                step("parallel", "p", steps=[llm("a", 1, output="one"), llm("b", 2)]),
                llm("c", "{{ one }}{{ steps.p.b }}{{ p.a }}"),
            )
        )
        assert run.outputs == {"c": "121"}


async def test_a_branch_that_fails_may_have_any_fallback():
    async with lab() as here:
        for value, chosen in (([], {}), ({"a": 1}, {}), (0, {"big": "B"}), ("default", {"small": "s"})):
            way = {
                **branch("way", ("inputs.x.y.z", "big"), default="small"), "on_failure": "fallback", "fallback": value,
            }  # fmt: skip
            run, _ = await here.run(definition(way, llm("big", "B"), llm("small", "s"), inputs={"x": {}}), {"x": 1})
            assert run.state is RunState.COMPLETED, run.error
            assert run.outputs == chosen
