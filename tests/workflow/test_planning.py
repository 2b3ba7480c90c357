"""Plans: dependencies, gates, order, bodies, called workflows."""

import random
import time
from collections.abc import Iterator
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.workflow.definition import MAX_DEPTH, MAX_STEPS, Definition
from pipeline.workflow.errors import DefinitionRefused
from pipeline.workflow.plan import Gate, Graph, Named, Plan
from pipeline.workflow.planning import plan
from tests.workflow.definitions import branch, definition, llm, step


def needs(made: Plan | Graph) -> dict[str, set[str]]:
    graph = made.graph if isinstance(made, Plan) else made
    return {node.step.id: {graph.nodes[need].step.id for need in node.needs} for node in graph.nodes}


def refused(broken: Definition, *others: dict[str, Definition]) -> list[str]:
    with pytest.raises(DefinitionRefused) as raised:
        plan(broken, *others)
    return [f"{fault.where}: {fault.message}" for fault in raised.value.faults]


def graphs(graph: Graph) -> Iterator[Graph]:
    yield graph
    for node in graph.nodes:
        if node.body is not None:
            yield from graphs(node.body)
        if node.other is not None:
            yield from graphs(node.other.graph)


def assert_sound(graph: Graph) -> None:
    """Needs and feeds mirror each other, nothing waits for itself, and all can be reached from the first."""
    for node in graph.nodes:
        assert all(node.index in graph.nodes[need].feeds for need in node.needs)
        assert all(node.index in graph.nodes[feed].needs for feed in node.feeds)
        assert list(node.needs) == sorted(set(node.needs))
        assert all(gate.branch in node.needs for gate in node.gates)
    left = {node.index: len(node.needs) for node in graph.nodes}
    ready = list(graph.first)
    for index in ready:
        for feed in graph.nodes[index].feeds:
            left[feed] -= 1
            if not left[feed]:
                ready.append(feed)
    assert sorted(ready) == list(range(len(graph.nodes)))


def test_dependencies_come_from_references_and_from_depends_on() -> None:
    made = plan(
        definition(
            llm("last", "{{ draft }} {{ outputs.notes }}", depends_on=["first"]),
            llm("write", "{{ steps.first.text }}", output="draft"),
            llm("first", "{{ inputs.topic }}"),
            llm("notes", "{{ topic }}"),
            inputs={"topic": {"type": "string"}},
        )
    )
    assert needs(made) == {"last": {"write", "notes", "first"}, "write": {"first"}, "first": set(), "notes": set()}
    assert made.graph.first == (2, 3)
    assert_sound(made.graph)


def test_what_need_not_be_there_is_a_dependency_where_it_is() -> None:
    made = plan(definition(llm("b", "{{ steps.a.text | default('') }}{{ nowhere | default('') }}"), llm("a")))
    assert needs(made) == {"b": {"a"}, "a": set()}


def test_conditions_fallbacks_messages_and_cases_are_read() -> None:
    made = plan(
        definition(
            llm("a"),
            llm("b"),
            llm("c"),
            llm("d", condition="steps.a.text == 'x'", on_failure="fallback", fallback={"z": "{{ b }}"}),
            step("llm", "e", route="echo", messages=[{"role": "user", "content": "{{ c }}"}]),
            branch("f", ("steps.e.text == 'x'", "d")),
        )
    )
    assert needs(made)["d"] == {"a", "b", "f"}
    assert needs(made)["e"] == {"c"}
    assert needs(made)["f"] == {"e"}
    assert set(made.graph.nodes[3].values) == {"condition", "fallback"}
    assert set(made.graph.nodes[4].values) == {"messages.0.content"}
    assert set(made.graph.nodes[5].values) == {"cases.0.when"}


def test_branches_gate_what_they_name() -> None:
    made = plan(
        definition(
            branch("which", ("inputs.n > 1", ["a", "b"]), ("inputs.n > 0", "b"), default=["c"]),
            llm("a"),
            llm("b"),
            llm("c"),
            llm("join", "{{ a }}{{ b }}{{ c }}"),
            inputs={"n": {"type": "integer"}},
        )
    )
    _, a, b, c, join = made.graph.nodes
    assert (a.gates, b.gates, c.gates) == (
        (Gate(0, frozenset({0})),),
        (Gate(0, frozenset({0, 1})),),
        (Gate(0, frozenset({"default"})),),
    )
    assert a.needs == b.needs == c.needs == (0,)
    assert join.needs == (1, 2, 3)
    assert not join.gates
    assert_sound(made.graph)


def test_bodies_are_plans_and_what_they_need_outside_their_step_needs() -> None:
    made = plan(
        definition(
            llm("after", "{{ second }} {{ steps.both.one }} {{ steps.each.value }}"),
            step(
                "parallel",
                "both",
                steps=[llm("two", "{{ one }} {{ seed }}", output="second"), llm("one")],
            ),
            step("map", "each", items="{{ [1, 2] }}", steps=[llm("x", "{{ item }} {{ index }} {{ steps.seed.text }}")]),
            llm("seed"),
        )
    )
    assert needs(made) == {"after": {"both", "each"}, "both": {"seed"}, "each": {"seed"}, "seed": set()}
    inner = made.graph.nodes[1].body
    assert inner is not None
    assert needs(inner) == {"two": {"one"}, "one": set()}
    assert made.graph.names["second"] == Named(1, inner="second")
    assert "one" not in made.graph.names
    assert made.steps == 7
    for graph in graphs(made.graph):
        assert_sound(graph)


def test_a_loop_sees_its_variables_first_and_shows_its_names_outside() -> None:
    made = plan(
        definition(
            llm("start"),
            step(
                "loop",
                "improve",
                variables={"draft": "{{ start }}"},
                until="score == 'good' and steps.other.text",
                steps=[
                    llm("write", "{{ draft }} {{ iteration }}", output="draft"),
                    llm("judge", "{{ steps.write.text }}", output="score"),
                ],
            ),
            llm("other"),
            llm("use", "{{ draft }} {{ score }} {{ steps.improve.draft }}"),
        )
    )
    assert needs(made) == {"start": set(), "improve": {"start", "other"}, "other": set(), "use": {"improve"}}
    body = made.graph.nodes[1].body
    assert body is not None
    assert needs(body) == {"write": set(), "judge": {"write"}}
    assert set(made.graph.nodes[1].values) == {"variables.draft", "until"}


def test_a_reduce_without_steps_sees_its_variables() -> None:
    made = plan(
        definition(
            step(
                "reduce",
                "sum",
                items="{{ [1, 2] }}",
                initial=0,
                accumulator="total",
                value="{{ total + item + index }}",
            )
        )
    )
    assert made.graph.nodes[0].body is None


def test_outputs_are_compiled_and_constants_stay() -> None:
    made = plan(definition(llm("a"), outputs={"x": "{{ a }}", "y": [1, "two"]}))
    assert made.outputs["y"] == [1, "two"]
    assert list(made.outputs["x"].references) == [("a",)]
    named = plan(definition(llm("my-step"), llm("b", output="c"), outputs=["my-step", "c"]))
    assert [list(value.references) for value in named.outputs.values()] == [
        [("outputs", "my-step")],
        [("outputs", "c")],
    ]


def test_called_workflows_are_planned_once_and_counted_each_time() -> None:
    sub = definition(llm("a"), llm("b", "{{ a }}"), name="sub")
    made = plan(definition(*(step("workflow", f"call{i}", workflow="sub@1") for i in range(3))), {"sub@1": sub})
    assert made.steps == 9
    assert made.graph.nodes[0].other is made.graph.nodes[2].other
    assert made.graph.nodes[0].other is not None
    assert needs(made.graph.nodes[0].other) == {"a": set(), "b": {"a"}}


def test_workflows_that_call_themselves_are_refused() -> None:
    call = {name: definition(step("workflow", "s", workflow=to), name=name) for name, to in (("a", "b"), ("b", "a"))}
    assert refused(definition(step("workflow", "s", workflow="main"))) == [
        "steps.s.workflow: workflow main calls itself: main → main"
    ]
    assert refused(definition(step("workflow", "s", workflow="a")), call) == [
        "steps.s.workflow: workflow a calls itself: a → b → a"
    ]


def test_problems_of_called_workflows_are_told_at_the_call() -> None:
    sub = definition(llm("a", "{{ nowhere }}"), name="sub")
    main = definition(step("workflow", "s", workflow="sub"), step("workflow", "t", workflow="missing"))
    assert refused(main, {"sub": sub}) == [
        "steps.s.workflow: workflow sub: steps.a.prompt: nowhere: not known here",
        "steps.t.workflow: there is no workflow 'missing'",
    ]


def test_calls_that_multiply_are_counted() -> None:
    others = {
        f"w{i}": definition(*(step("workflow", f"s{j}", workflow=f"w{i + 1}") for j in range(4)), name=f"w{i}")
        for i in range(20)
    }
    others["w20"] = definition(llm("a"), name="w20")
    faults = refused(definition(step("workflow", "s", workflow="w0")), others)
    assert faults == [
        "steps.s.workflow: workflow w13: steps: 38228 steps: at most 10000 are allowed, called workflows counted"
    ]


def test_depth_is_limited() -> None:
    def nested(depth: int) -> Definition:
        inner = llm("leaf")
        for level in range(depth - 1):
            inner = step("parallel", f"p{level}", steps=[inner])
        return definition(inner)

    plan(nested(MAX_DEPTH))
    assert any("deep" in fault for fault in refused(nested(MAX_DEPTH + 1)))


def test_the_number_of_steps_is_limited_nested_ones_counted() -> None:
    inner = [llm(f"i{number}") for number in range(MAX_STEPS)]
    assert refused(definition(step("parallel", "p", steps=inner))) == [
        "steps: 10001 steps: at most 10000 are allowed, called workflows counted"
    ]
    assert plan(definition(*inner)).steps == MAX_STEPS


@st.composite
def dags(draw: st.DrawFn) -> tuple[int, set[tuple[int, int]], random.Random]:
    """How many steps, which needs which (the higher the lower), and a source of chance."""
    count = draw(st.integers(1, 24))
    pairs = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1))
    edges = {(high, low) for high, low in draw(st.sets(pairs, max_size=40)) if high > low}
    return count, edges, draw(st.randoms(use_true_random=False))


def steps_of(count: int, edges: set[tuple[int, int]], chance: random.Random) -> list[dict[str, object]]:
    """Each edge by one of the ways to say it."""
    steps = []
    for number in range(count):
        said = [chance.choice(WAYS).format(low) for high, low in sorted(edges) if high == number]
        depends_on = [one for one in said if "{{" not in one]
        prompt = " ".join(one for one in said if "{{" in one) or "hello"
        steps.append(llm(f"s{number}", prompt, depends_on=depends_on, output=f"o{number}"))
    return steps


WAYS = (
    "s{}",
    "{{{{ s{} }}}}",
    "{{{{ o{} }}}}",
    "{{{{ steps.s{}.text }}}}",
    "{{{{ outputs.o{} | upper }}}}",
    "{{% if steps['s{0}'].text == 'x' %}}{{{{ 1 }}}}{{% endif %}}",
)


@given(dags())
def test_the_order_of_steps_means_nothing(dag: tuple[int, set[tuple[int, int]], random.Random]) -> None:
    count, edges, chance = dag
    steps = steps_of(count, edges, chance)
    expected = {f"s{number}": {f"s{low}" for high, low in edges if high == number} for number in range(count)}
    assert needs(plan(definition(*steps))) == expected
    chance.shuffle(steps)
    shuffled = plan(definition(*steps))
    assert needs(shuffled) == expected
    assert_sound(shuffled.graph)


@given(dags(), st.data())
def test_an_edge_back_makes_a_cycle_that_is_told(
    dag: tuple[int, set[tuple[int, int]], random.Random], data: st.DataObject
) -> None:
    count, edges, chance = dag
    if count < 2:
        return
    start = data.draw(st.integers(0, count - 2))
    end = data.draw(st.integers(start + 1, count - 1))
    way = sorted({start, end, *data.draw(st.sets(st.integers(start, end), max_size=4))})
    steps = steps_of(count, edges | set(zip(way[1:], way, strict=False)), chance)
    steps[start]["depends_on"] = [*steps[start]["depends_on"], f"s{end}"]  # type: ignore[misc]
    chance.shuffle(steps)
    (fault,) = [one for one in refused(definition(*steps)) if "wait for each other" in one]
    names = fault.split(": ")[-1].removesuffix(" (each needs the next)").split(" → ")
    assert names[0] == names[-1]
    assert len(set(names)) == len(names) - 1
    known = {step["id"]: step for step in steps}
    for needing, needed in pairwise(names):
        said = f"{known[needing]['prompt']} {' '.join(known[needing]['depends_on'])} "  # type: ignore[arg-type]
        assert any(mark + needed[1:] in said for mark in ("s", "o"))


def seconds_for(made: Definition) -> float:
    before = time.perf_counter()
    plan(made)
    return time.perf_counter() - before


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("shape", ["chain", "join", "branches"])
def test_ten_thousand_steps_take_time_in_proportion(shape: str) -> None:
    def made(count: int) -> Definition:
        if shape == "chain":
            return definition(
                *(llm(f"s{i}", f"Go on: {{{{ steps.s{i - 1}.text }}}}" if i else "Begin") for i in range(count))
            )
        if shape == "join":
            return definition(
                *(llm(f"s{i}") for i in range(count - 1)),
                llm("join", " ".join(f"{{{{ s{i} }}}}" for i in range(count - 1))),
            )
        pairs = count // 2
        return definition(
            *(
                branch(f"b{i}", (f"steps.s{i - 1}.text == 'x'" if i else "inputs.x == 1", f"s{i}"))
                for i in range(pairs)
            ),
            *(llm(f"s{i}") for i in range(pairs)),
            inputs={"x": {}},
        )

    thousand, ten_thousand = made(1000), made(MAX_STEPS)
    few = min(seconds_for(thousand) for _ in range(3))
    assert seconds_for(ten_thousand) < max(30 * few, 4.0)
    assert few < 0.5
