"""Steps with steps inside: parallel, map, reduce, loop, workflow."""

import asyncio
from typing import Any

import pytest

from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import StepContext
from pipeline.workflow.states import RunState, StepState
from tests.workflow.definitions import definition, llm, step
from tests.workflow.engine.lab import Gate, fails, flaky, lab

XS = {"xs": {"type": "array"}}


class AtOnce:
    """How many were under way at once, at most."""

    def __init__(self) -> None:
        self.now = 0
        self.most = 0

    async def __call__(self, context: StepContext) -> Any:
        self.now += 1
        self.most = max(self.most, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        return context.path


async def test_a_map_keeps_the_order_and_bounds_what_runs_at_once():
    at_once = AtOnce()
    async with lab({"work": at_once}) as here:
        run, history = await here.run(
            definition(
                step("map", "each", items="{{ inputs.xs }}",
                     steps=[llm("a", "work"), llm("b", "{{ a }}:{{ item }}:{{ index }}")],
                     max_concurrency=3),
                inputs=XS,
            ),
            {"xs": list("vwxyz")},
        )  # fmt: skip
        assert run.outputs == {"each": [f"each[{n}]/a:{x}:{n}" for n, x in enumerate("vwxyz")]}
        assert at_once.most == 3
        assert history.steps["each[4]/b"].state is StepState.COMPLETED


async def test_a_map_over_ten_thousand_items_keeps_few_frames():
    most = 0

    def look(_: StepContext) -> int:
        nonlocal most
        (run,) = here.engine._runs.all()
        (mapped,) = run._frame.doings.values()  # type: ignore[union-attr]
        most = max(most, len(mapped.frames))  # type: ignore[attr-defined]
        return 1

    async with lab({"look": look}) as here:
        run, _ = await here.run(
            definition(
                step("map", "each", items="{{ inputs.xs }}", steps=[llm("a", "look")], result="{{ item * 2 }}",
                     max_concurrency=4),
                inputs=XS,
            ),
            {"xs": list(range(10_000))},
        )  # fmt: skip
        assert run.outputs == {"each": [2 * n for n in range(10_000)]}
        assert most == 4


@pytest.mark.parametrize(
    ("items", "kind"), [("text", "invalid_value"), ({"a": 1}, "invalid_value"), (None, "invalid_value")]
)
async def test_a_map_over_what_is_no_list_fails(items, kind):
    async with lab() as here:
        run, _ = await here.run(
            definition(llm("a", items), step("map", "each", items="{{ a }}", steps=[llm("b", "x")]))
        )
        assert run.state is RunState.FAILED
        assert run.error is not None
        assert run.error["kind"] == kind
        assert run.error["step"] == "each"


async def test_an_item_that_fails_fails_the_map_and_cancels_the_others():
    gate = Gate()

    def second(context: StepContext) -> Any:
        if context.value("prompt") == "odd":
            raise StepFailed("teapot", "no")
        return None

    async with lab({"slow": gate, "odd": second}) as here:
        run, history = await here.run(
            definition(
                step(
                    "map",
                    "each",
                    items=["slow", "odd"],
                    steps=[llm("a", "{{ item }}")],
                    on_failure="fallback",
                    fallback=[],
                ),
                llm("end", "{{ each }}"),
            )
        )
        assert run.state is RunState.COMPLETED
        assert run.outputs == {"end": []}
        assert gate.cancelled == 1
        assert history.steps["each[0]/a"].state is StepState.ABANDONED
        assert history.steps["each"].error["step"] == "each[1]/a"


async def test_an_empty_map_is_done_at_once():
    async with lab() as here:
        run, _ = await here.run(definition(step("map", "each", items=[], steps=[llm("a", "x")])))
        assert run.outputs == {"each": []}


async def test_a_parallel_bounds_its_own_steps():
    at_once = AtOnce()
    async with lab({"work": at_once}) as here:
        run, _ = await here.run(
            definition(step("parallel", "p", steps=[llm(f"s{n}", "work") for n in range(7)], max_concurrency=2))
        )
        assert at_once.most == 2
        assert run.outputs == {"p": {f"s{n}": f"p/s{n}" for n in range(7)}}


async def test_a_reduce_by_expression_and_by_steps():
    async with lab() as here:
        run, history = await here.run(
            definition(
                step("reduce", "sum", items="{{ inputs.xs }}", initial=10, value="{{ accumulator + item }}"),
                step(
                    "reduce",
                    "text",
                    items="{{ inputs.xs }}",
                    initial="",
                    steps=[llm("add", "{{ accumulator }}{{ item }}")],
                ),
                inputs=XS,
            ),
            {"xs": [1, 2, 3]},
        )
        assert run.outputs == {"sum": 16, "text": "123"}
        assert history.steps["text[2]/add"].value == "123"


async def test_a_loop_runs_until_it_is_enough_and_its_names_are_known_outside():
    async with lab() as here:
        run, _ = await here.run(
            definition(
                step(
                    "loop", "improve", variables={"draft": "{{ inputs.start }}"}, until="draft | length >= 4",
                    steps=[llm("refine", "{{ draft }}x", output="draft"),
                           llm("note", "{{ iteration }}", output="turn")],
                ),
                llm("end", "{{ draft }} {{ turn }} {{ steps.improve.metadata.iterations }} {{ steps.improve.draft }}"),
                inputs={"start": {"type": "string"}},
            ),
            {"start": "a"},
        )  # fmt: skip
        assert run.state is RunState.COMPLETED, run.error
        assert run.outputs == {"end": "axxx 2 3 axxx"}


async def test_a_loop_that_reaches_its_limit_may_fail():
    async with lab() as here:
        body = {"steps": [llm("a", "x")], "until": "false", "max_iterations": 3}
        run, _ = await here.run(definition(step("loop", "l", on_limit="fail", **body)))
        assert run.state is RunState.FAILED
        assert run.error is not None
        assert run.error["kind"] == "limit"
        run, history = await here.run(definition(step("loop", "l", **body)))
        assert run.state is RunState.COMPLETED
        assert history.steps["l"].fields["metadata"] == {"iterations": 3, "satisfied": False}


async def test_another_workflow_has_its_own_inputs_and_names():
    other = definition(
        llm("a", "{{ inputs.name }}!"), name="other", inputs={"name": {"type": "string"}}, outputs={"said": "{{ a }}"}
    )
    main = definition(
        llm("a", "Ann"),
        step("workflow", "sub", workflow="other", inputs={"name": "{{ a }}"}),
        llm("z", "{{ sub.said }}"),
    )
    async with lab() as here:
        run, history = await here.run(main, others={"other": other})
        assert run.outputs == {"z": "Ann!"}
        assert history.steps["sub/a"].value == "Ann!"


async def test_another_workflow_checks_its_inputs():
    other = definition(llm("a", "x"), name="other", inputs={"n": {"type": "integer"}})
    async with lab() as here:
        run, _ = await here.run(
            definition(llm("a", "text"), step("workflow", "sub", workflow="other", inputs={"n": "{{ a }}"})),
            others={"other": other},
        )
        assert run.error is not None
        assert run.error["kind"] == "invalid_inputs"


async def test_what_another_workflow_could_not_do_makes_the_run_partial():
    other = definition(llm("bad", "fail"), llm("ok", "fine"), name="other", on_failure="continue")
    async with lab({"fail": fails()}) as here:
        run, _ = await here.run(definition(step("workflow", "sub", workflow="other")), others={"other": other})
        assert run.state is RunState.PARTIAL
        assert run.outputs == {"sub": {"bad": None, "ok": "fine"}}


async def test_a_step_with_steps_inside_is_tried_again_without_doing_again_what_was_completed():
    async with lab({"flaky": flaky(1)}) as here:
        run, history = await here.run(
            definition(
                step(
                    "map", "each", items=["a", "flaky", "b"], max_concurrency=1,
                    steps=[step("parallel", "p",
                                steps=[llm("one", "one"), llm("two", "{{ item }}", depends_on=["one"])])],
                    retry={"initial_delay_ms": 1},
                )
            )
        )  # fmt: skip
        assert run.state is RunState.COMPLETED, run.error
        assert run.outputs["each"][1] == {"one": "one", "two": "at last"}
        assert here.done.count("each[0]/p/one") == here.done.count("each[1]/p/one") == 1
        assert history.steps["each"].attempt == 2


async def test_names_inside_win_over_those_around():
    async with lab() as here:
        run, _ = await here.run(
            definition(
                llm("a", "outer", output="word"),
                {"id": "each", "type": "map", "items": [1], "as": "word", "steps": [llm("b", "{{ word }}{{ a }}")]},
            )
        )
        assert run.outputs == {"each": ["1outer"]}
