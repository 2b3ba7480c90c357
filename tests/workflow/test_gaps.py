"""What is told of a definition of which parts cannot be read: everything else, and nothing that comes of those only."""

import pytest

from pipeline.workflow.checking import check
from pipeline.workflow.source import read, read_tree
from tests.workflow.test_checking import Configured

GOOD = "  - {id: good, type: llm, route: echo, prompt: hi}\n"


def told(*steps: str, outputs: str = "", root: str = "") -> list[str]:
    """Where something is wrong, and the messages, but not what is usual in each of them."""
    text = f"name: x\n{root}steps:\n{GOOD}" + "".join(f"  - {{{step}}}\n" for step in steps) + outputs
    faults = check(read(text, kinds=frozenset()), catalog=Configured())
    assert all(fault.line for fault in faults)
    return [fault.where for fault in faults]


@pytest.mark.parametrize(
    "bad",
    [
        "id: bad, type: lmm, route: echo, prompt: x",
        "id: bad, type: frobnicate, prompt: x",
        "id: bad, type: llm, rout: echo, prompt: x",
        "id: bad, type: llm, route: echo, prompt: x, colour: red",
        "id: bad, type: transform, operation: fly, input: [1]",
        "id: bad, type: vector_search, collection: docs",
        "id: bad, type: parallel, steps: []",
        "id: bad, type: branch, cases: [{then: good}]",
        "id: bad, type: wait",
        "id: bad, type: llm, route: echo, prompt: x, timeout_seconds: long",
    ],
)
def test_a_step_that_is_wrong_hides_nothing(bad: str) -> None:
    others = ['id: refers, type: llm, route: nowhere, prompt: "{{ bad.x }} {{ steps.bad.y }} {{ nobody }}"']
    found = told(bad, *others)
    assert len([where for where in found if "bad" in where]) == 1, found
    assert [where for where in found if "bad" not in where] in (
        ["steps.refers.route", "steps.refers.prompt"],
        ["steps.refers.prompt", "steps.refers.prompt", "steps.refers.route"],
        ["steps.refers.route", "steps.refers.prompt", "steps.refers.prompt"],
    )


@pytest.mark.parametrize(
    ("step", "refers"),
    [
        ("type: wait, seconds: 1", "{{ anything }}"),  # who knows what it was to be called
        ('id: "two words", type: wait, seconds: 1', "{{ steps['two words'].value }}"),
        ("id: a, type: wait, seconds: 1, result: said", "{{ said }}"),
        ("id: a, type: wait, seconds: 1, output: [said, 5]", "{{ said }}"),
        ("id: a, type: frobnicate, steps: [{id: inner, type: wait, seconds: 1}]", "{{ inner }}"),
        ("id: a, type: frobnicate, output: said", "{{ said }}"),
    ],
)
def test_names_that_could_not_be_read_are_not_missed(step: str, refers: str) -> None:
    found = told(step, f'id: z, type: llm, route: echo, prompt: "{refers}"')
    assert len(found) == 1
    assert not found[0].startswith("steps.z"), found


def test_inputs_that_could_not_be_read_are_not_missed() -> None:
    prompt = 'id: z, type: llm, route: nowhere, prompt: "{{ inputs.a }} {{ inputs.b }}"'
    assert told(prompt, root="inputs: 5\n") == ["inputs", "steps.z.route"]
    assert told(prompt, root="inputs: {a: strin, b: {type: string}}\n") == ["inputs.a", "steps.z.route"]
    assert told(prompt, root="inputs: {a: strin}\n") == ["inputs.a", "steps.z.route", "steps.z.prompt"]


def test_a_name_that_is_missing_hides_nothing() -> None:
    faults = check(read("steps:\n  - {id: a, type: llm, route: nowhere, prompt: x}\n"), catalog=Configured())
    assert [fault.where for fault in faults] == ["name", "steps.a.route"]


def test_branches_lead_to_what_could_not_be_read() -> None:
    assert told("id: b, type: branch, cases: [{when: 'good', then: [bad, gone]}]", "id: bad, type: fly") == [
        "steps.b.cases[0].then[1]",
        "steps.bad.type",
    ]


def test_an_unknown_type_has_a_hint_with_and_without_a_text() -> None:
    step = {"id": "a", "type": "lmm"}
    (fault,) = check(read_tree({"name": "x", "steps": [step]}, frozenset()))[:1]
    assert fault.hint == "did you mean llm?"
    (fault,) = check(read_tree({"name": "x", "steps": [step]}))
    assert (fault.where, fault.hint) == ("steps.a.type", "did you mean llm?")
