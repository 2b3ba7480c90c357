"""What never runs, against every way that a small workflow can go."""

from itertools import product
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from pipeline.workflow.planning import drafted, plan
from tests.workflow.definitions import branch, definition, llm

Small = list[dict[str, Any]]
CASES = 2  # and default


@st.composite
def small(draw: st.DrawFn) -> Small:
    """Steps that need earlier ones. `gates`: which earlier branch takes it up in which cases."""
    made: Small = []
    for index in range(draw(st.integers(1, 5))):
        earlier = st.sampled_from(range(index)) if index else st.nothing()
        branches = [number for number, one in enumerate(made) if one["branch"]]
        gates = st.dictionaries(st.sampled_from(branches), st.sets(st.sampled_from(range(3)), min_size=1), max_size=2)
        made.append({
            "branch": draw(st.booleans()),
            "never": draw(st.integers(0, 9)) == 0,
            "needs": draw(st.sets(earlier, max_size=2)) if index else set(),
            "gates": draw(gates) if branches else {},
        })  # fmt: skip
    return made


def written(steps: Small) -> Any:
    found = []
    for index, one in enumerate(steps):
        common: dict[str, Any] = {"depends_on": [f"s{need}" for need in one["needs"]]}
        if one["never"]:
            common["condition"] = "1 > 2"
        if one["branch"]:
            ways: list[list[str]] = [[], [], []]
            for other, gated in enumerate(steps):
                for way in gated["gates"].get(index, ()):
                    ways[way].append(f"s{other}")
            cases = [(f"inputs.ways[{index}] == {way}", ways[way]) for way in range(CASES)]
            found.append({**branch(f"s{index}", *cases, default=ways[CASES]), **common})
        else:
            found.append(llm(f"s{index}", **common))
    return definition(*found, inputs={"ways": {"type": "array"}})


def runs(steps: Small, ways: tuple[int, ...]) -> set[str]:
    """Those that run when each branch goes its way."""
    done: set[int] = set()
    for index, one in enumerate(steps):
        free = one["needs"] - set(one["gates"])
        live = not free or bool(free & done)
        chosen = all(gate in done and ways[gate] in cases for gate, cases in one["gates"].items())
        if live and chosen and not one["never"]:
            done.add(index)
    return {f"s{index}" for index in done}


def told(steps: Small) -> set[str]:
    problems = drafted(written(steps), {}, ()).problems
    return {f"s{problem.path[1]}" for problem in problems if problem.message.startswith("never runs")}


@given(small())
def test_what_is_said_never_to_run_never_does(steps: Small) -> None:
    said = told(steps)
    for ways in product(range(CASES + 1), repeat=sum(one["branch"] for one in steps)):
        every = iter(ways)
        assert not said & runs(steps, tuple(next(every) if one["branch"] else 0 for one in steps))


@given(small())
def test_nothing_is_wrong_where_every_step_can_run(steps: Small) -> None:
    seen: set[str] = set()
    for ways in product(range(CASES + 1), repeat=sum(one["branch"] for one in steps)):
        every = iter(ways)
        seen |= runs(steps, tuple(next(every) if one["branch"] else 0 for one in steps))
    if len(seen) == len(steps):
        plan(written(steps))
    else:
        assert told(steps) or any(len(one["needs"]) > 1 for one in steps)  # what needs one of two is left alone


def test_a_step_that_needs_either_of_two_ways_can_run_in_both() -> None:
    steps = [
        branch("b", ("inputs.q == 1", "x"), ("inputs.q == 2", "y"), default="z"),
        llm("x"),
        llm("y"),
        llm("z"),
        llm("either", "{{ x }}{{ y }}"),
        branch("c", ("inputs.q == 3", "late"), default=[]),
        llm("late", "{{ either }}"),
    ]
    plan(definition(*steps, inputs={"q": {}}))
