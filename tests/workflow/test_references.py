"""What names lead to, and what is said of those that lead nowhere."""

import time

import pytest

from pipeline.workflow.errors import DefinitionRefused, Fault
from pipeline.workflow.faults import faults_of as placed
from pipeline.workflow.planning import drafted, plan
from pipeline.workflow.problems import MAX_PROBLEMS
from pipeline.workflow.source import read
from tests.workflow.definitions import branch, definition, llm, step

TOPIC = {"topic": {"type": "string"}}


def faults_of(*steps: dict, **root: object) -> list[Fault]:
    try:
        plan(definition(*steps, **root))
    except DefinitionRefused as refused:
        return list(refused.faults)
    return []


def fault_of(*steps: dict, **root: object) -> tuple[str, str, str]:
    (fault,) = faults_of(*steps, **root)
    return fault.where, fault.message, fault.hint


@pytest.mark.parametrize(
    ("said", "message", "hint"),
    [
        ("{{ steps.drft.text }}", "steps.drft.text: there is no step 'drft'", "did you mean steps.draft?"),
        (
            "{{ steps.draft.txt }}",
            "steps.draft.txt: a step of type llm has no field 'txt'",
            "did you mean steps.draft.text?",
        ),
        (
            "{{ steps.text.value }}",
            "steps.text.value: there is no step 'text'",
            "text is an output name: the step is steps.draft",
        ),
        ("{{ inputs.topik }}", "inputs.topik: the input 'topik' is not declared", "did you mean inputs.topic?"),
        ("{{ input.topik }}", "input.topik: the input 'topik' is not declared", "did you mean input.topic?"),
        ("{{ inputs.z }}", "inputs.z: the input 'z' is not declared", "declared are topic"),
        ("{{ topik }}", "topik: not known here", "did you mean topic?"),
        ("{{ zzzzzz }}", "zzzzzz: not known here", ""),
        (
            "{{ outputs.drafd }}",
            "outputs.drafd: no step has the id or the output name 'drafd'",
            "did you mean outputs.draft?",
        ),
        ("{{ draft.text }}", "draft.text: draft is the step's text, which has no fields", "write steps.draft.text"),
        (
            "{{ steps.last.text }}",
            "steps.last.text: this is the step itself, which has not ended when it is needed",
            "",
        ),
        ("{{ end }}", "end: this is the step itself, which has not ended when it is needed", ""),
        (
            "{{ steps | length }}",
            "steps: which step this means is not known before the run",
            "write steps.<id>, or name the steps under depends_on",
        ),
        (
            "{{ steps[topic].text }}",
            "steps: which step this means is not known before the run",
            "write steps.<id>, or name the steps under depends_on",
        ),
        (
            "{{ item }}",
            "item: not known here",
            "it is inside of each, which is known outside as a whole: steps.each.value",
        ),
        (
            "{{ inner }}",
            "inner: not known here",
            "it is inside of each, which is known outside as a whole: steps.each.value",
        ),
        (
            "{{ steps.one.text }}",
            "steps.one.text: there is no step 'one'",
            "it is inside of both: write steps.both.one",
        ),
        (
            "{{ steps.both.on }}",
            "steps.both.on: a step of type parallel has no field 'on'",
            "did you mean steps.both.one?",
        ),
        (
            "{{ steps.scored.score }}",
            "steps.scored.score: a step of type llm has no field 'score'",
            "it is part of the value: write steps.scored.value.score",
        ),
    ],
)
def test_names_that_lead_nowhere(said: str, message: str, hint: str) -> None:
    schema = {"type": "object", "properties": {"score": {"type": "number"}}}
    if said == "{{ item }}":
        hint = ""
    found = fault_of(
        llm("draft", output=["text", "model_name"]),
        llm("scored", output_schema=schema),
        step("map", "each", items="{{ [1] }}", steps=[llm("inner")]),
        step("parallel", "both", steps=[llm("one", output="first")]),
        llm("last", said, output="end"),
        inputs=TOPIC,
    )
    assert found == ("steps.last.prompt", message, hint)


@pytest.mark.parametrize(
    "said",
    [
        "{{ inputs.topic }}{{ input.topic }}{{ topic }}",
        "{{ steps.draft.text }}{{ steps.draft.model }}{{ steps.draft.usage.total_tokens }}{{ steps.draft.metadata }}",
        "{{ steps.draft.value }}{{ steps.draft.output }}{{ steps.draft.state }}{{ steps.draft.error }}",
        "{{ steps.draft.answer }}{{ answer }}{{ named_model }}{{ draft }}{{ draft.upper() }}",
        "{{ outputs.draft }}{{ outputs.answer }}{{ outputs['my-step'] }}{{ steps['my-step'].text }}",
        "{{ steps.both.first }}{{ steps.both.one }}{{ first }}{{ both.one }}",
        "{{ steps.again.kept }}{{ kept }}{{ steps.again.variable }}{{ variable }}{{ steps.again.metadata.iterations }}",
        "{{ nowhere | default('x') }}{{ steps.nowhere.text | default('x') }}{% if inputs.more is defined %}{% endif %}",
        "{% for one in [1, 2] %}{{ one }}{{ loop.index }}{% endfor %}{% set a = 1 %}{{ a }}",
    ],
)
def test_names_that_lead_somewhere(said: str) -> None:
    assert not faults_of(
        llm("draft", output=["answer", "named_model"]),
        llm("my-step"),
        step("parallel", "both", steps=[llm("one", output="first")]),
        step("loop", "again", variables={"variable": 1}, steps=[llm("two", output="kept")]),
        llm("last", said),
        inputs=TOPIC,
    )


def test_what_is_seen_inside_of_bodies() -> None:
    assert not faults_of(
        llm("outer", output="shown"),
        step(
            "map",
            "each",
            items="{{ [[1]] }}",
            **{"as": "row"},
            result="{{ steps.inner.text }}{{ row }}{{ shown }}",
            steps=[
                llm("inner", "{{ row }}{{ index }}{{ shown }}{{ steps.outer.text }}"),
                step(
                    "reduce",
                    "deep",
                    items="{{ row }}",
                    steps=[llm("deepest", "{{ item }}{{ accumulator }}{{ row }}{{ inner }}{{ outer }}")],
                ),
            ],
        ),
    )


def test_items_are_not_known_where_the_list_is_made() -> None:
    where, message, _ = fault_of(step("map", "each", items="{{ item }}", steps=[llm("a")]))
    assert (where, message) == ("steps.each.items", "item: not known here")


def test_a_transform_has_variables_of_its_own() -> None:
    each = step("transform", "t", operation="filter", input="{{ [1] }}", where="item > index")
    assert not faults_of(each)
    assert fault_of({**each, "input": "{{ item }}"})[1] == "item: not known here"


def test_what_encloses_a_step_has_not_ended() -> None:
    where, message, _ = fault_of(step("map", "each", items="{{ [1] }}", steps=[llm("a", "{{ steps.each.value }}")]))
    assert where == "steps.each.steps.a.prompt"
    assert "the step 'each' around this one" in message


def test_a_step_that_wants_its_own_output_in_a_loop_is_told_of_variables() -> None:
    found = fault_of(step("loop", "l", steps=[llm("a", "{{ steps.a.text }}")]))
    assert found[2] == "what it came to in the iteration before is reached by one of the loop's variables"


def test_an_input_of_the_same_name_is_told_of() -> None:
    assert fault_of(llm("a", "{{ topic }}", output="topic"), inputs=TOPIC)[2] == "the input is reached by inputs.topic"


def test_steps_as_a_whole_may_be_read_where_their_order_is_declared() -> None:
    assert not faults_of(
        llm("a"),
        llm("b", "{{ steps[inputs.topic].text }}", depends_on=["a"]),
        inputs=TOPIC,
        outputs={"all": "{{ steps }}"},
    )


@pytest.mark.parametrize(
    ("block", "line"), [("|\n        one\n        two {{ inputs.x }}", 8), ('"one\\ntwo {{ inputs.x }}"', 6)]
)
def test_the_line_within_a_text_is_told(block: str, line: int) -> None:
    source = read(f"name: main\nsteps:\n  - id: a\n    type: llm\n    route: echo\n    prompt: {block}\n", "yaml")
    assert source.definition is not None
    (fault,) = placed(drafted(source.definition, {}, ()).problems, source.definition, source)
    assert fault.line == line


@pytest.mark.parametrize(
    ("name", "near"),
    [("aa", "there is no step 'aa'"), ("inner", "there is no step 'inner'"), ("shown", "there is no step 'shown'")],
)
def test_depends_on_names_steps_in_reach(name: str, near: str) -> None:
    found = fault_of(
        llm("a", output="shown"),
        step("map", "each", items="{{ [1] }}", steps=[llm("inner")]),
        llm("b", depends_on=[name]),
    )
    assert found[:2] == ("steps.b.depends_on[0]", near)


def test_depends_on_oneself() -> None:
    assert "the step itself" in fault_of(llm("a", depends_on=["a"]))[1]


def test_branches_lead_to_steps_beside_them() -> None:
    found = faults_of(
        branch("b", ("inputs.topic", ["aa", "inner", "b"]), default="c"),
        llm("a"),
        step("parallel", "p", steps=[llm("inner")]),
        inputs=TOPIC,
    )
    assert [(fault.where, fault.message) for fault in found] == [
        ("steps.b.cases[0].then[0]", "there is no step 'aa' beside this branch"),
        ("steps.b.cases[0].then[1]", "there is no step 'inner' beside this branch"),
        ("steps.b.cases[0].then[2]", "a branch cannot lead to itself"),
        ("steps.b.default", "there is no step 'c' beside this branch"),
    ]


def test_ids_and_names_that_are_taken() -> None:
    found = faults_of(
        llm("a", output="x"),
        llm("a"),
        llm("b", output=["x", "y"]),
        step("parallel", "p", steps=[llm("c", output="y"), llm("c"), llm("b")]),
        llm("d", output="inputs"),
        step("map", "m", items="{{ [1] }}", **{"as": "steps"}, steps=[llm("c")]),
    )
    assert [(fault.where, fault.message) for fault in found] == [
        ("steps[1].id", "the id 'a' is taken: step 1 of this list has it"),
        ("steps.b.output[0]", "the output name 'x' is taken: step 'a' has it"),
        ("steps.p.steps[1].id", "the id 'c' is taken: step 1 of this list has it"),
        ("steps.p.steps[2].id", "the id 'b' is taken by a step around this one"),
        ("steps.p.steps", "the output name 'y' is taken: step 'b' has it"),
        ("steps.d.output", "'inputs' means something else in expressions, and cannot be a name"),
        ("steps.m", "'steps' means something else in expressions, and cannot be a name"),
    ]


def test_inputs_as_a_schema() -> None:
    schema = {"type": "object", "properties": {"topic": {"type": "string"}}}
    assert fault_of(llm("a", "{{ inputs.x }}"), inputs=schema)[1] == "inputs.x: the input 'x' is not declared"
    assert not faults_of(llm("a", "{{ inputs.x }}"), inputs={**schema, "additionalProperties": True})
    assert not faults_of(llm("a", "{{ inputs.topic }} {{ topic }}"), inputs=schema)


def test_parts_of_values_are_told_of() -> None:
    call = step("action", "call", action="http_request", url="http://localhost")
    assert fault_of(call, llm("a", "{{ steps.call.status }}"))[2] == (
        "it is part of the value: write steps.call.value.status"
    )


def test_however_many_names_are_wrong_it_stays_quick_and_short() -> None:
    steps = [llm(f"step_number_{number}", f"{{{{ stepp_number_{number} }}}}") for number in range(10_000)]
    before = time.perf_counter()
    found = faults_of(*steps)
    assert time.perf_counter() - before < 10
    assert len(found) == MAX_PROBLEMS + 1
    assert found[0].hint
    assert found[-1].message == f"and {10_000 - MAX_PROBLEMS} more problems"


def test_messages_stay_short() -> None:
    assert len(fault_of(llm("a", "{{ " + "x" * 10_000 + " }}"))[1]) <= 500
