import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy.degrade import NOTHING, Reduction, Step, applied, reduced

FEWER = Step(0.3, passages=4)
SHORTER = Step(0.5, max_tokens=256)
FEWEST = Step(0.8, passages=1)
STEPS = (FEWER, SHORTER, FEWEST)


@pytest.mark.parametrize(
    ("pressure", "expected"),
    [
        (0.0, NOTHING),
        (0.299, NOTHING),
        (0.3, Reduction(4)),
        (0.5, Reduction(4, 256)),
        (0.8, Reduction(1, 256)),
        (40.0, Reduction(1, 256)),
        (math.inf, Reduction(1, 256)),  # nothing may be waited
        (math.nan, NOTHING),
    ],
)
def test_steps_apply_from_their_pressure_on(pressure, expected):
    assert reduced(STEPS, pressure) == expected


def test_nothing_is_one_object():
    assert reduced(STEPS, 0.1) is NOTHING
    assert reduced((), 1.0) is NOTHING
    assert applied(NOTHING, 6, None) is NOTHING


def test_a_step_never_acts_before_the_one_in_front_of_it():
    shuffled = (SHORTER, FEWER)  # 0.5, then 0.3
    assert reduced(shuffled, 0.4) is NOTHING
    assert reduced(shuffled, 0.5) == Reduction(4, 256)


def test_a_later_step_gives_nothing_back():
    assert reduced((Step(0.2, passages=1), Step(0.4, passages=5)), 0.9) == Reduction(1)


@pytest.mark.parametrize(
    ("reduction", "labels"),
    [
        (NOTHING, ()),
        (Reduction(2), ("passages=2",)),
        (Reduction(None, 256), ("max_tokens=256",)),
        (Reduction(0, 1), ("passages=0", "max_tokens=1")),
    ],
)
def test_labels(reduction, labels):
    assert reduction.labels == labels


@pytest.mark.parametrize(
    ("passages", "max_tokens", "expected"),
    [
        (6, None, Reduction(2, 256)),
        (6, 257, Reduction(2, 256)),
        (6, 256, Reduction(2)),  # its own limit is as low
        (2, 300, Reduction(None, 256)),  # the route retrieves no more
        (0, None, Reduction(None, 256)),  # it retrieves nothing
        (0, 10, NOTHING),
    ],
)
def test_only_what_changes_something_counts(passages, max_tokens, expected):
    assert applied(Reduction(2, 256), passages, max_tokens) == expected


def test_no_passages_at_all_are_fewer_than_some_and_no_fewer_than_none():
    assert applied(Reduction(0), 3, None) == Reduction(0)
    assert applied(Reduction(0), 0, None) is NOTHING


steps = st.lists(
    st.builds(
        lambda pressure, what, size: Step(pressure, **{what: size}),
        st.floats(0.0, 1.0),
        st.sampled_from(["passages", "max_tokens"]),
        st.integers(0, 100),
    ),
    max_size=6,
)
pressures = st.floats(0.0, 3.0)


def left(limit: int | None) -> float:
    return math.inf if limit is None else limit


@given(steps, pressures, pressures)
def test_more_pressure_never_gives_more(steps, one, other):
    low, high = sorted((one, other))
    before, after = reduced(steps, low), reduced(steps, high)
    assert left(after.passages) <= left(before.passages)
    assert left(after.max_tokens) <= left(before.max_tokens)


@given(steps, pressures)
def test_what_acts_is_a_beginning_of_the_list(steps, pressure):
    """The reduction is that of some first steps, all of which the pressure reaches, and the next it does not."""
    acting = next((at for at, step in enumerate(steps) if step.pressure > pressure), len(steps))
    assert reduced(steps, pressure) == reduced([Step(0.0, s.passages, s.max_tokens) for s in steps[:acting]], 0.0)
    assert (reduced(steps, pressure) == NOTHING) is (acting == 0)


@given(steps, pressures, st.integers(0, 100), st.none() | st.integers(1, 200))
def test_what_is_applied_lowers_each_thing_that_it_names(steps, pressure, passages, max_tokens):
    found = applied(reduced(steps, pressure), passages, max_tokens)
    assert found.passages is None or found.passages < passages
    assert found.max_tokens is None or found.max_tokens < left(max_tokens)
    assert len(found.labels) == (found.passages is not None) + (found.max_tokens is not None)
    assert applied(found, passages, max_tokens) == found
