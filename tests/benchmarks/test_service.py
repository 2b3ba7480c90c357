"""The service-time model: what the settings promise is what the numbers give."""

import math
import statistics
import subprocess
import sys

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.service import (
    Course,
    Service,
    capacity,
    course,
    duration,
    factor,
    fails,
    first_token,
    mean_duration,
    stalls,
    tokens,
)
from tests.process.daemon import ROOT

NUMBERS = range(20_000)
SPREAD = [
    Service(distribution="uniform", spread=0.577),
    Service(distribution="uniform", spread=0.1),
    Service(distribution="exponential", spread=3.0),
    Service(distribution="lognormal", spread=0.5),
    Service(distribution="lognormal", spread=1.0),
]

courses = st.builds(
    Course,
    first=st.floats(0, 10),
    gap=st.sampled_from([0.0, 0.001, 0.1, 1 / 3]),
    tokens=st.integers(1, 50),
    stall=st.sampled_from([0.0, 0.5]),
)


@pytest.mark.parametrize("service", SPREAD, ids=lambda service: f"{service.distribution} {service.spread}")
def test_factors_have_the_mean_and_the_spread_that_is_asked(service: Service):
    factors = [factor(service, number) for number in NUMBERS]
    spread = 1.0 if service.distribution == "exponential" else service.spread
    assert statistics.fmean(factors) == pytest.approx(1.0, abs=0.03)
    assert statistics.pstdev(factors) == pytest.approx(spread, rel=0.1)
    assert min(factors) >= 0


@pytest.mark.parametrize(
    "service",
    [Service(), Service(distribution="lognormal", spread=0.0), Service(distribution="uniform", spread=0.0)],
)
def test_without_spread_all_requests_are_alike(service: Service):
    assert {factor(service, number) for number in range(100)} == {1.0}


@pytest.mark.slow
def test_another_process_finds_the_same_numbers():
    service = Service(distribution="lognormal", failure_rate=0.3, stall_rate=0.3, seed=7)
    code = (
        "from benchmarks.service import *\n"
        "service = Service(distribution='lognormal', failure_rate=0.3, stall_rate=0.3, seed=7)\n"
        "print([(duration(service, n, 9, None), fails(service, n)) for n in range(50)])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True)
    assert found.stdout.strip() == str([(duration(service, n, 9, None), fails(service, n)) for n in range(50)])


def test_the_numbers_stay_what_they_were():
    """So that a run of last year can be repeated, on any version of Python."""
    service = Service(distribution="lognormal", spread=0.5, failure_rate=0.5, stall_rate=0.5)
    assert [round(factor(service, number), 6) for number in range(4)] == [0.594009, 1.823716, 0.886965, 0.731281]
    assert [number for number in range(8) if fails(service, number)] == [0, 1, 5, 7]
    assert [number for number in range(8) if stalls(service, number)] == [0, 1, 5, 6, 7]


def test_times_failures_and_stalls_are_independent_of_each_other():
    service = Service(distribution="uniform", spread=0.5, failure_rate=0.3, stall_rate=0.2)
    failing = [number for number in NUMBERS if fails(service, number)]
    assert len(failing) / len(NUMBERS) == pytest.approx(0.3, abs=0.02)
    assert sum(stalls(service, number) for number in NUMBERS) / len(NUMBERS) == pytest.approx(0.2, abs=0.02)
    assert sum(stalls(service, number) for number in failing) / len(failing) == pytest.approx(0.2, abs=0.03)
    assert statistics.fmean(factor(service, number) for number in failing) == pytest.approx(1.0, abs=0.03)


def test_another_seed_gives_other_numbers():
    one, other = (Service(distribution="uniform", seed=seed) for seed in (1, 1 << 70))
    assert [factor(one, number) for number in range(9)] != [factor(other, number) for number in range(9)]


def test_the_extremes_of_rates_hold_for_every_request():
    assert not any(fails(Service(failure_rate=0.0), number) for number in NUMBERS)
    assert all(fails(Service(failure_rate=1.0), number) for number in NUMBERS)


def test_a_duration_is_made_of_its_parts():
    service = Service(first_token_ms=100, prompt_ms_per_1k=200, tokens_per_second=50, stall_rate=1.0, stall_seconds=2)
    assert first_token(service, 1, 500) == pytest.approx(0.2)
    assert duration(service, 1, 500, 11) == pytest.approx(0.2 + 10 / 50 + 2)
    assert duration(service, 1, 500, None) == pytest.approx(0.2 + 15 / 50 + 2)
    assert tokens(service, None) == 16
    assert tokens(service, 100) == 100


def test_the_factor_holds_for_all_times_but_the_stall():
    service = Service(prompt_ms_per_1k=50, tokens_per_second=20, distribution="lognormal", stall_rate=1.0)
    plain = msgspec.structs.replace(service, distribution="constant")
    found = duration(service, 3, 100, 9) - service.stall_seconds
    assert found == pytest.approx(factor(service, 3) * (duration(plain, 3, 100, 9) - service.stall_seconds))


@pytest.mark.parametrize("service", [*SPREAD, Service(tokens_per_second=40, stall_rate=0.1, stall_seconds=0.3)])
def test_mean_and_capacity_are_those_of_many_requests(service: Service):
    mean = statistics.fmean(duration(service, number, 100, 20) for number in NUMBERS)
    assert mean_duration(service, 100, 20) == pytest.approx(mean, rel=0.03)
    assert capacity(service, 100, 20) == pytest.approx(service.slots / mean, rel=0.03)


def test_the_default_serves_eighty_a_second():
    assert capacity(Service(), 20, None) == pytest.approx(80.0)


@pytest.mark.parametrize("service", [Service(slots=0), Service(first_token_ms=0)])
def test_a_capacity_that_is_no_figure_is_none(service: Service):
    assert capacity(service, 20, 16.5) is None


@given(courses)
def test_tokens_are_made_when_they_are_due(one: Course):
    dues = [one.due(position) for position in range(one.tokens)]
    assert dues == sorted(dues)
    assert dues[0] == one.first
    assert one.duration >= dues[-1]
    assert one.made(one.duration + 1e-6) == one.tokens
    assert one.made(math.nextafter(one.first, -1)) == 0
    for position, due in enumerate(dues):
        assert one.made(due + 1e-6) >= position + 1
        if due > one.first + 1e-6:
            assert one.made(due - 1e-6) <= position


def test_a_stall_comes_after_half_of_the_tokens():
    service = Service(first_token_ms=10, tokens=5, stall_rate=1.0, stall_seconds=1)
    one = course(service, 1, 1, None)
    assert [one.due(position) for position in range(5)] == pytest.approx([0.01, 0.01, 0.01, 1.01, 1.01])
    assert [one.made(at) for at in (0.0, 0.02, 1.0, 1.02)] == [0, 3, 3, 5]


def test_a_single_token_comes_before_its_stall():
    one = Course(first=0.1, gap=0.0, tokens=1, stall=1.0)
    assert one.due(0) == 0.1
    assert one.duration == 1.1
