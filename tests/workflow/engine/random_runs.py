"""Random workflows, and what must come of them: a simple interpreter to compare with."""

from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from pipeline.workflow.definition import Definition
from pipeline.workflow.errors import DefinitionRefused
from pipeline.workflow.planning import plan
from tests.workflow.definitions import branch, definition, llm, step

FAILS = "fail"
POLICIES = (None, "fail", "continue", "fallback")

Drawn = dict[str, Any]


@st.composite
def steps(draw: st.DrawFn, most: int = 7) -> list[Drawn]:
    """Each depends on earlier ones. `kind`: work, or a branch that gates some that come later; `wrap`: what the step is
    put into."""
    made: list[Drawn] = []
    for index in range(draw(st.integers(1, most))):
        earlier = list(range(index))
        needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
        made.append({
            "needs": needs,
            "fails": draw(st.integers(0, 4)) == 0,
            "condition": draw(st.sampled_from([None, None, None, "true", "false"])),
            "policy": draw(st.sampled_from(POLICIES)),
            "branch": draw(st.integers(0, 4)) == 0,
            "way": draw(st.integers(0, 2)),
            "gate": draw(st.one_of(st.none(), st.tuples(st.integers(0, most), st.integers(0, 2)))),
            "wrap": draw(st.sampled_from([None, None, "map", "parallel", "loop", "reduce"])),
        })  # fmt: skip
    for index, one in enumerate(made):
        gate = one["gate"]
        if gate is not None and not (gate[0] < index and made[gate[0]]["branch"]):
            one["gate"] = None
        if one["branch"]:
            one["wrap"], one["fails"] = None, False
    return made


def written(drawn: list[Drawn], on_failure: str) -> Definition:
    found = []
    for index, one in enumerate(drawn):
        common: Drawn = {"depends_on": [f"s{need}" for need in one["needs"]]}
        if one["condition"] is not None:
            # Conditions that never hold are refused where that can be seen.
            common["condition"] = f"inputs.yes == {one['condition']}"
        if one["policy"] is not None:
            common["on_failure"] = one["policy"]
            if one["policy"] == "fallback":
                common["fallback"] = f"fallback {index}"
        found.append(_step(index, one, drawn, common))
    # The order in which they are written means nothing.
    made = definition(
        *reversed(found), on_failure=on_failure, inputs={"yes": {"type": "boolean"}, "ways": {"type": "array"}}
    )
    try:
        plan(made)
    except DefinitionRefused:
        reject()  # a step that never runs
    return made


def _step(index: int, one: Drawn, drawn: list[Drawn], common: Drawn) -> Drawn:
    name = f"s{index}"
    if one["branch"]:
        ways: list[list[str]] = [[], [], []]
        for other, gated in enumerate(drawn):
            if gated["gate"] is not None and gated["gate"][0] == index:
                ways[gated["gate"][1]].append(f"s{other}")
        cases = [(f"inputs.ways[{index}] == {way}", ways[way]) for way in range(2)]
        return {**branch(name, *cases, default=ways[2]), **common}
    prompt = FAILS if one["fails"] else f"value {index}"
    inside = [llm(f"{name}_a", "before"), llm(f"{name}_b", prompt, depends_on=[f"{name}_a"])]
    match one["wrap"]:
        case "map":
            return step("map", name, items=[1, 2, 3], steps=inside, max_concurrency=2, **common)
        case "parallel":
            return step("parallel", name, steps=inside, **common)
        case "loop":
            return step("loop", name, steps=inside, max_iterations=2, **common)
        case "reduce":
            return step("reduce", name, items=[1, 2], steps=inside, **common)
    return llm(name, prompt, **common)


def inputs(drawn: list[Drawn]) -> Drawn:
    return {"yes": True, "ways": [one["way"] for one in drawn]}


def expected(drawn: list[Drawn], on_failure: str) -> tuple[dict[str, str], str]:
    """The state of each step, and that of the run. Where a failure ends the run only the latter counts."""
    states: list[str] = []
    lost: list[bool] = []  # what needs it cannot run
    blemished = ended = False
    for one in drawn:
        state, gone = _state(one, drawn, states, lost)
        if state == "failed":
            blemished = True
            gone = one["policy"] != "continue"
            ended = ended or (gone and on_failure == "fail")
        states.append(state)
        lost.append(gone)
    named = {f"s{index}": state for index, state in enumerate(states)}
    if ended or (
        any(gone and state == "failed" for gone, state in zip(lost, states, strict=True)) and "completed" not in states
    ):
        return named, "failed"
    return named, "partial" if blemished else "completed"


def _state(one: Drawn, drawn: list[Drawn], states: list[str], lost: list[bool]) -> tuple[str, bool]:
    gate = one["gate"]
    needs = set(one["needs"]) | ({gate[0]} if gate is not None else set())
    if any(lost[need] for need in needs):
        return "skipped", True
    if gate is not None and (states[gate[0]] != "completed" or drawn[gate[0]]["way"] != gate[1]):
        return "skipped", False
    others = set(one["needs"]) - ({gate[0]} if gate is not None else set())
    if others and all(states[need] == "skipped" for need in others):
        return "skipped", False
    if one["condition"] == "false":
        return "skipped", False
    if one["fails"] and one["policy"] != "fallback":
        return "failed", False
    return "completed", False
