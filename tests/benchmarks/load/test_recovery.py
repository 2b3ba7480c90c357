"""When all is well again after a disturbance: not at a moment of luck, and not when it never was."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.recovery import HOLD, STEP, WINDOW, Completions, disturbances, recoveries
from benchmarks.load.scenario import Change, Phase

SURGE = Phase(name="surge", seconds=30, arrivals="surge", rate=20, to_rate=40, surge_at=10, surge_seconds=5)
DROP = Phase(name="drop", seconds=30, rate=20, changes=[Change(at=10, slots=2), Change(at=20, slots=10)])


def steady(rate: float, since: float, until: float, latency: float = 0.1) -> list[tuple[float, float]]:
    return [(since + index / rate, latency) for index in range(round((until - since) * rate))]


def completions(*parts: list[tuple[float, float]]) -> Completions:
    every = [one for part in parts for one in part]
    return Completions([end for end, _ in every], [latency for _, latency in every])


EVENLY = [index / 20 for index in range(600)]


def about(seconds: float):
    """A time is known to a step, and a window is good enough when a tenth of it is still missing."""
    return pytest.approx(seconds, abs=STEP + WINDOW / 10 + 0.001)


def test_what_disturbs():
    assert [(one.at, one.until, one.what, one.returns) for one in disturbances(SURGE)] == [(15, 30, "surge over", True)]
    assert [(one.at, one.until, one.what, one.returns) for one in disturbances(DROP)] == [
        (10, 20, "slots 2", False),
        (20, 30, "slots 10", False),
    ]
    assert disturbances(Phase(name="calm", seconds=30, rate=20)) == []


def test_the_median_is_back_when_it_stays_back():
    oracle = completions(steady(20, 0, 30))
    slow = completions(steady(20, 0, 10), steady(20, 10, 17, 0.4), steady(20, 17, 30))
    (found,) = recoveries(SURGE, EVENLY, slow, oracle)
    assert found.p50_wanted == pytest.approx(0.13)
    assert found.p50 == pytest.approx(1.5, abs=0.11)  # then half of a window is quick
    assert found.oracle_p50 == 0.0
    assert found.goodput == 0.0
    assert found.within == 15


def test_a_moment_of_luck_is_no_recovery():
    oracle = completions(steady(20, 0, 30))
    lucky = completions(
        steady(20, 0, 10), steady(20, 10, 17, 0.4), steady(20, 17, 19), steady(20, 19, 22, 0.4), steady(20, 22, 30)
    )
    (found,) = recoveries(SURGE, EVENLY, lucky, oracle)
    assert found.p50 == pytest.approx(6.5, abs=0.11)


def test_what_never_comes_back_has_no_time():
    oracle = completions(steady(20, 0, 30))
    (found,) = recoveries(SURGE, EVENLY, completions(steady(20, 0, 10), steady(20, 10, 30, 0.4)), oracle)
    assert found.p50 is None
    assert found.oracle_p50 == 0.0
    (found,) = recoveries(SURGE, EVENLY, completions(steady(20, 0, 10)), oracle)
    assert (found.p50, found.goodput) == (None, None)
    late = completions(steady(20, 0, 10), steady(20, 10, 27.5, 0.4), steady(20, 27.5, 30))
    (found,) = recoveries(SURGE, EVENLY, late, oracle)
    assert found.p50 is None, "the last two and a half seconds are not long enough to tell"


def test_without_a_before_there_is_nothing_to_come_back_to():
    (found,) = recoveries(SURGE, EVENLY, completions(steady(20, 10, 30)), completions(steady(20, 0, 30)))
    assert (found.p50_wanted, found.p50, found.oracle_p50) == (None, None, None)
    assert found.goodput == 0.0


def test_goodput_is_measured_by_the_oracles():
    oracle = completions(steady(20, 0, 10), steady(10, 10, 20), steady(20, 20, 30))
    target = completions(steady(20, 0, 10), steady(10, 13, 20), steady(20, 22, 30))
    down, up = recoveries(DROP, EVENLY, target, oracle)
    assert (down.what, up.what) == ("slots 2", "slots 10")
    assert down.goodput == about(3.0)
    assert up.goodput == about(2.0)
    assert down.p50_wanted is None


def test_nine_tenths_are_enough_and_less_are_not():
    oracle = completions(steady(20, 0, 30))
    enough, short = (completions(steady(20, 0, 10), steady(rate, 10, 30)) for rate in (18.01, 16.9))
    assert [one.goodput for one in recoveries(DROP, EVENLY, enough, oracle)] == [0.0, 0.0]
    assert [one.goodput for one in recoveries(DROP, EVENLY, short, oracle)] == [None, None]


def test_what_did_not_arrive_is_not_wanted():
    """The oracle empties its queue when the slots are back; a target without a queue has none to empty."""
    arrivals = [index / 20 for index in range(400)] + [20 + index / 10 for index in range(100)]
    oracle = completions(steady(20, 0, 10), steady(4, 10, 20), steady(20, 20, 25), steady(10, 25, 30))
    fitting, short = (completions(steady(20, 0, 10), steady(4, 10, 20), steady(rate, 20, 30)) for rate in (10, 8))
    assert [one.goodput for one in recoveries(DROP, arrivals, fitting, oracle)] == [0.0, 0.0]
    assert [one.goodput for one in recoveries(DROP, arrivals, short, oracle)] == [0.0, None]


@given(
    st.lists(st.tuples(st.floats(0, 32), st.floats(0, 3)), max_size=200),
    st.lists(st.tuples(st.floats(0, 32), st.floats(0, 3)), max_size=200),
    st.lists(st.floats(0, 30), max_size=200),
    st.sampled_from([SURGE, DROP]),
)
def test_times_lie_within_what_was_looked_at(target, oracle, arrivals, phase):
    for found in recoveries(phase, sorted(arrivals), completions(target), completions(oracle)):
        for value in (found.goodput, found.p50, found.oracle_p50):
            assert value is None or 0 <= value <= found.within - HOLD + STEP
    own = completions(oracle)
    assert all(found.goodput == 0.0 for found in recoveries(phase, sorted(arrivals), own, own))
