from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy.budget import fit

costs = st.lists(st.integers(0, 50), max_size=12)


def test_passages_come_before_older_turns():
    assert fit(100, 40, [30, 20], [20, 10]) == (2, 0, 10)


def test_a_worse_passage_never_takes_the_place_of_a_better_one():
    assert fit(100, 40, [70, 1], [5]) == (0, 1, 55)


def test_what_must_stay_may_be_too_much():
    assert fit(10, 11, [], []).spare < 0


@given(st.integers(0, 200), st.integers(0, 200), costs, costs)
def test_never_over_budget_and_never_less_than_possible(budget: int, fixed: int, passages: list[int], turns: list[int]):
    kept = fit(budget, fixed, passages, turns)
    used = fixed + sum(passages[: kept.passages]) + sum(turns[: kept.turns])
    assert kept.spare == budget - used
    if fixed <= budget:
        assert used <= budget
        if kept.turns < len(turns):
            assert turns[kept.turns] > kept.spare
