import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.outcomes import Priority
from pipeline.policy.leases_division import Demand, divide, fill

amounts = st.floats(0, 100).map(lambda value: round(value, 2))
weights = st.floats(0.1, 10).map(lambda value: round(value, 2))
demands = st.builds(Demand, st.lists(amounts, min_size=4, max_size=4), st.lists(weights, min_size=4, max_size=4))


def normal(calls: float, weight: float = 1.0) -> Demand:
    return Demand([0, 0, calls, 0], [0, 0, weight, 0])


def test_by_the_weight_of_the_sessions():
    assert divide(8, [normal(50, 1), normal(50, 19)]).parts == pytest.approx([0.4, 7.6])


def test_what_one_does_not_need_is_the_other_s():
    assert divide(8, [normal(1), normal(50, 9)]).parts == pytest.approx([0.8, 7.2])
    assert divide(8, [normal(2), normal(50, 1)]).parts == pytest.approx([2, 6])


def test_what_nobody_needs_is_spread_evenly():
    assert divide(8, [normal(0), normal(2)]).parts == pytest.approx([3, 5])
    assert divide(9, [normal(0), normal(0), normal(0)]).parts == pytest.approx([3, 3, 3])


def test_a_higher_class_comes_first_wherever_it_is():
    high = Demand([0, 6, 0, 0], [0, 1, 0, 0])
    assert divide(8, [high, normal(50, 100)]).parts == pytest.approx([6, 2])


def test_a_newcomer_can_count_on_its_share_also_where_nothing_is_granted_yet():
    division = divide(8, [normal(0, 0), normal(50, 1)])
    assert division.parts == pytest.approx([0, 8])
    assert division.shares[0][Priority.NORMAL] == pytest.approx(4)
    assert division.shares[0][Priority.CRITICAL] == pytest.approx(8)


def test_whom_a_higher_class_leaves_nothing_still_has_a_pace():
    high = Demand([0, 50, 0, 0], [0, 1, 0, 0])
    assert divide(8, [high, normal(5)]).shares[1][Priority.NORMAL] == pytest.approx(1)


@given(st.integers(1, 100), st.lists(demands, min_size=1, max_size=6))
def test_all_of_it_is_divided_and_nobody_starves(total, each):
    division = divide(total, each)
    assert sum(division.parts) == pytest.approx(total)
    assert min(division.parts) >= 0.0
    assert min(share for shares in division.shares for share in shares) > 0.0
    top = next((p for p in Priority if any(demand.calls[p] for demand in each)), None)
    if top is not None:  # the highest class that asks for anything
        for demand, part in zip(each, division.parts, strict=True):
            fair = total * demand.weights[top] / sum(d.weights[top] for d in each)
            assert part >= min(demand.calls[top], fair) - 1e-9


@given(amounts, st.lists(st.tuples(amounts, weights), min_size=1, max_size=8))
def test_nobody_gets_more_than_it_wants_while_another_of_its_weight_lacks_something(amount, asked):
    wanted, weight = [want for want, _ in asked], [each for _, each in asked]
    given_out = fill(amount, wanted, weight)
    assert sum(given_out) == pytest.approx(min(amount, sum(wanted)))
    levels = [got / w for got, want, w in zip(given_out, wanted, weight, strict=True) if got < want - 1e-9]
    for got, want, w in zip(given_out, wanted, weight, strict=True):
        assert got <= want + 1e-9
        if levels:
            assert got / w <= min(levels) + 1e-6
