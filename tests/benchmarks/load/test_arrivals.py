"""Arrival processes: in order, inside their phase, at their rate, and the same for the same seed."""

import math
from itertools import islice, pairwise
from random import Random
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.load.arrivals import mean_rate, offsets, rates, schedule
from benchmarks.load.scenario import Phase
from benchmarks.load.trace import Entry

seeds = st.integers(0, 2**63 - 1)
rate_values = st.floats(0.5, 500)
few = settings(max_examples=60)


def times(seed: int = 1, capacity: float | None = None, **keys) -> list[float]:
    return list(offsets(Phase(name="p", **keys), capacity, Random(seed)))


def close(counted: int, expected: float) -> bool:
    """Within six standard deviations of a Poisson count: one in 500 million goes beyond."""
    return abs(counted - expected) <= 6 * math.sqrt(expected) + 1


@st.composite
def phases(draw):
    arrivals = draw(st.sampled_from(["poisson", "constant", "burst", "ramp", "surge"]))
    keys = {"name": "p", "seconds": draw(st.floats(0.5, 60)), "arrivals": arrivals, "rate": draw(rate_values)}
    if arrivals == "burst":
        keys["burst"] = draw(st.integers(2, 50))
    if arrivals in {"ramp", "surge"}:
        keys["to_rate"] = draw(rate_values)
    if arrivals == "surge":
        keys["surge_at"] = draw(st.floats(0, 1)) * keys["seconds"]
        keys["surge_seconds"] = draw(st.floats(0.01, 1)) * keys["seconds"]
    return Phase(**keys)


@given(phase=phases(), seed=seeds)
@few
def test_in_order_inside_the_phase_and_the_same_again(phase, seed):
    first = list(offsets(phase, None, Random(seed)))
    assert first == list(offsets(phase, None, Random(seed)))
    assert all(0 <= at < phase.seconds for at in first)
    assert all(one <= other for one, other in pairwise(first))


@given(phase=phases(), seed=seeds)
@few
def test_as_many_as_the_mean_rate_says(phase, seed):
    counted = sum(1 for _ in offsets(phase, None, Random(seed)))
    mean = mean_rate(phase, None)
    if phase.arrivals in {"constant", "burst"}:
        assert mean * phase.seconds - 1 <= counted <= mean * phase.seconds + (phase.burst or 1)
    else:
        assert close(counted, mean * phase.seconds)


@pytest.mark.parametrize("arrivals", ["poisson", "ramp", "surge"])
def test_another_seed_gives_other_times(arrivals):
    keys = {} if arrivals == "poisson" else {"to_rate": 20}
    surge = {"surge_at": 2, "surge_seconds": 3} if arrivals == "surge" else {}
    one, other = (times(seed, seconds=10, arrivals=arrivals, rate=10, **keys, **surge) for seed in (1, 2))
    assert one[:5] != other[:5]


@given(phase=phases(), load=st.floats(0.1, 5), capacity=st.floats(1, 100), seed=seeds)
@few
def test_a_load_is_a_rate_at_its_capacity(phase, load, capacity, seed):
    keys = {field: getattr(phase, field) for field in phase.__struct_fields__}
    keys.update(rate=None, load=load)
    if phase.to_rate is not None:
        keys.update(to_rate=None, to_load=2 * load)
    by_load = Phase(**keys)
    keys.update(load=None, rate=load * capacity)
    if phase.to_rate is not None:
        keys.update(to_load=None, to_rate=2 * load * capacity)
    assert list(offsets(by_load, capacity, Random(seed))) == list(offsets(Phase(**keys), None, Random(seed)))
    assert rates(by_load, capacity) == rates(Phase(**keys), None)


def test_a_load_without_a_capacity_says_so():
    with pytest.raises(ValueError, match=r"a load of 2 needs a capacity"):
        times(seconds=1, load=2)


def test_poisson_gaps_are_exponential():
    """Mean 1 / rate, and as large a standard deviation: even gaps would have none."""
    gaps = [other - one for one, other in pairwise(times(seconds=2000, rate=10))]
    mean = fmean(gaps)
    deviation = math.sqrt(fmean((gap - mean) ** 2 for gap in gaps))
    assert mean == pytest.approx(0.1, rel=0.05)
    assert deviation == pytest.approx(0.1, rel=0.05)
    assert sum(gap > 0.1 for gap in gaps) / len(gaps) == pytest.approx(math.exp(-1), abs=0.02)


def test_constant_is_even():
    assert times(seconds=1, arrivals="constant", rate=4) == [0, 0.25, 0.5, 0.75]
    assert len(times(seconds=1000, arrivals="constant", rate=333)) == 333_000


def test_a_burst_comes_at_once():
    assert times(seconds=1.1, arrivals="burst", rate=6, burst=3) == [0, 0, 0, 0.5, 0.5, 0.5, 1, 1, 1]


@pytest.mark.parametrize(("rate", "to_rate"), [(10, 90), (90, 10), (50, 50), (0.001, 100), (100, 0.001)])
def test_a_ramp_changes_evenly(rate, to_rate):
    """Each quarter of it has as many as the line from one rate to the other says."""
    counts = [0] * 4
    for at in times(seconds=400, arrivals="ramp", rate=rate, to_rate=to_rate):
        counts[int(at / 100)] += 1
    for quarter, counted in enumerate(counts):
        middle = rate + (to_rate - rate) * (quarter + 0.5) / 4
        assert close(counted, middle * 100)


def test_a_surge_rises_and_falls():
    surge = times(seconds=300, arrivals="surge", rate=20, to_rate=60, surge_at=100, surge_seconds=50)
    for begin, end, rate in [(0, 100, 20), (100, 150, 60), (150, 300, 20)]:
        assert close(sum(begin <= at < end for at in surge), rate * (end - begin))


def test_times_are_worked_out_when_they_are_asked_for():
    """A day of a million a second would otherwise take hours and all memory."""
    for keys in (
        {"arrivals": "poisson"},
        {"arrivals": "constant"},
        {"arrivals": "burst", "burst": 2},
        {"arrivals": "ramp", "to_rate": 1e6},
        {"arrivals": "surge", "to_rate": 1e6, "surge_at": 1, "surge_seconds": 1},
    ):
        phase = Phase(name="p", seconds=86_400, rate=1e6, **keys)
        assert len(list(islice(offsets(phase, None, Random(1)), 3))) == 3


def test_a_trace_keeps_its_times_and_what_it_says():
    trace = [Entry(at=0), Entry(at=1, words=5), Entry(at=3), Entry(at=10)]
    phase = Phase(name="p", seconds=2, arrivals="trace", file="f", speed=2)
    assert list(offsets(phase, None, Random(1), trace)) == [0, 0.5, 1.5]
    assert list(schedule(phase, None, Random(1), trace)) == [(0, trace[0]), (0.5, trace[1]), (1.5, trace[2])]
    assert mean_rate(phase, None) is None


def test_arrivals_that_no_trace_describes():
    phase = Phase(name="p", seconds=1, arrivals="constant", rate=2)
    assert list(schedule(phase, None, Random(1))) == [(0, None), (0.5, None)]


def test_a_closed_loop_has_no_arrivals_of_its_own():
    phase = Phase(name="p", seconds=1, arrivals="closed", clients=2)
    assert list(offsets(phase, None, Random(1))) == []
    assert mean_rate(phase, None) is None
