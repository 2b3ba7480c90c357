"""The oracle keeps the rules, wastes nothing, and where all requests are alike nobody can do better."""

import time
from collections.abc import Sequence
from functools import cache
from random import Random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.oracle import Arrival, Planned, plan, possible
from benchmarks.service import Service, duration, fails

Changes = list[tuple[float, Service]]


def arrivals_at(times: Sequence[float], patience: float | None = None) -> list[Arrival]:
    return [Arrival(at, number, 20, None, patience) for number, at in enumerate(times)]


def poisson(rate: float, seconds: float, patience: float | None = 2.0) -> list[Arrival]:
    random, at, times = Random(1), 0.0, []
    while (at := at + random.expovariate(rate)) < seconds:
        times.append(at)
    return arrivals_at(times, patience)


# Any arrivals, any settings.

patiences = st.one_of(st.none(), st.floats(0, 3))
spread = st.builds(
    Service,
    slots=st.integers(0, 4),
    first_token_ms=st.sampled_from([0.0, 50.0, 400.0]),
    tokens_per_second=st.sampled_from([0.0, 100.0]),
    distribution=st.sampled_from(["constant", "uniform", "exponential", "lognormal"]),
    failure_rate=st.sampled_from([0.0, 0.3]),
    stall_rate=st.sampled_from([0.0, 0.3]),
    seed=st.integers(0, 3),
)


@st.composite
def loads(draw: st.DrawFn) -> list[Arrival]:
    times = sorted(draw(st.lists(st.floats(0, 3), max_size=40)))
    return [
        Arrival(at, number, draw(st.integers(1, 100)), draw(st.one_of(st.none(), st.integers(1, 40))), draw(patiences))
        for number, at in enumerate(times)
    ]


@st.composite
def changing(draw: st.DrawFn) -> Changes:
    return sorted(draw(st.lists(st.tuples(st.floats(0, 4), spread), max_size=3)), key=lambda change: change[0])


def in_force(service: Service, changes: Changes, at: float) -> Service:
    return [service, *(later for since, later in changes if since <= at)][-1]


def served(planned: list[Planned]) -> list[tuple[Arrival, float, float]]:
    return [(arrival, start, end) for arrival, start, end in planned if start is not None and end is not None]


@given(loads(), spread, changing(), st.floats(0, 2))
def test_the_rules_are_kept(load: list[Arrival], service: Service, changes: Changes, budget: float):
    planned = list(plan(load, service, wait_budget=budget, changes=changes))
    assert [arrival for arrival, _, _ in planned] == load
    done = served(planned)
    starts = [start for _, start, _ in done]
    assert starts == sorted(starts)
    for arrival, start, end in done:
        force = in_force(service, changes, start)
        assert arrival.at <= start <= arrival.at + budget + 1e-9
        assert end == start + duration(force, arrival.number, arrival.words, arrival.max_tokens)
        assert arrival.patience is None or end <= arrival.at + arrival.patience + 1e-9
        running = sum(other_start <= start < other_end for _, other_start, other_end in done)
        assert running <= force.slots or end == start
    found = possible(load, service, wait_budget=budget, changes=changes)
    assert found.completed + found.refused == len(load)
    assert found.ends == sorted(end for _, _, end in done)
    assert found.latency.count == found.completed


@given(loads(), spread, changing(), st.floats(0, 2))
def test_no_slot_is_idle_while_somebody_waits(load: list[Arrival], service: Service, changes: Changes, budget: float):
    done = served(list(plan(load, service, wait_budget=budget, changes=changes)))
    moments = {at for arrival, start, end in done for at in (arrival.at, start, end)}
    moments |= {at for at, _ in changes}
    for at in moments:
        if any(arrival.at <= at < start for arrival, start, _ in done):
            running = sum(start <= at < end for _, start, end in done)
            assert running >= in_force(service, changes, at).slots


@given(loads(), spread, changing(), st.floats(0, 2))
def test_who_is_refused_could_not_have_been_served_in_turn(
    load: list[Arrival], service: Service, changes: Changes, budget: float
):
    """Served with a budget and a patience without limits, in the same line, it would have broken one of its own."""
    planned = list(plan(load, service, wait_budget=budget, changes=changes))
    for index, (arrival, start, _) in enumerate(planned):
        if start is None:
            before = [one.arrival for one in planned[:index] if one.start is not None]
            patient = [*before, arrival._replace(patience=None)]
            (*_, alone) = plan(patient, service, wait_budget=float("inf"), changes=changes)
            late = alone.start is None or alone.start - arrival.at > budget
            assert late or alone.end is None or arrival.patience is None or alone.end - arrival.at > arrival.patience


# All requests alike: nobody completes more.


def most(times: Sequence[int], slots: Sequence[int], service_time: int, budget: int, patience: int) -> int:
    """The largest number that any schedule completes, tried out: at each full second, start any of those that wait.

    `slots[t]` is how many there are in second t. With whole numbers, starting between seconds gains nothing.
    """
    latest = [at + min(budget, patience - service_time) for at in times]

    @cache
    def best(now: int, open_requests: frozenset[int], ends: tuple[int, ...]) -> int:
        if now >= len(slots) or not open_requests:
            return 0
        ends = tuple(end for end in ends if end > now)
        ready = sorted(one for one in open_requests if times[one] <= now <= latest[one])
        room = max(slots[now] - len(ends), 0)
        found = 0
        for chosen in _subsets(ready, room):
            rest = open_requests.difference(chosen)
            after = ends + (now + service_time,) * len(chosen)
            found = max(found, len(chosen) + best(now + 1, rest, after))
        return found

    return best(0, frozenset(range(len(times))), ())


def _subsets(ready: list[int], room: int) -> list[tuple[int, ...]]:
    found: list[tuple[int, ...]] = [()]
    for one in ready:
        found += [(*subset, one) for subset in found if len(subset) < room]
    return found


@given(
    times=st.lists(st.integers(0, 8), min_size=1, max_size=7).map(sorted),
    slots=st.lists(st.integers(0, 3), min_size=1, max_size=4),
    service_time=st.integers(1, 4),
    budget=st.integers(0, 6),
    patience=st.integers(1, 8),
)
def test_nobody_completes_more_where_all_requests_are_alike(
    times: list[int], slots: list[int], service_time: int, budget: int, patience: int
):
    per_second = [slots[min(second // 3, len(slots) - 1)] for second in range(20)]
    base = Service(first_token_ms=service_time * 1000)
    changes = [(3.0 * index, msgspec.structs.replace(base, slots=count)) for index, count in enumerate(slots)]
    found = possible(arrivals_at(times, patience), changes[0][1], wait_budget=budget, changes=changes[1:])
    assert found.completed == most(times, per_second, service_time, budget, patience)


def test_the_bound_is_not_strict_where_times_differ():
    """A long request before two short ones: shortest first would complete two of the three, the oracle one."""
    service = Service(slots=1, first_token_ms=0, tokens_per_second=10)
    load = [Arrival(0.0, 0, 1, 21, 2.5), Arrival(0.0, 1, 1, 2, 0.2), Arrival(0.0, 2, 1, 2, 0.2)]
    assert possible(load, service, wait_budget=1.0).completed == 1


# What is known of queues.


@pytest.mark.parametrize("load", [1, 2, 10])
def test_a_full_backend_completes_its_capacity(load: int):
    """8 slots of 100 ms: 80 a second, whatever is offered (M/D/8 with a bounded wait)."""
    found = possible(poisson(80.0 * load, 60.0), Service(), wait_budget=0.5)
    assert found.completed / 60 == pytest.approx(80.0, rel=0.04)
    assert (found.latency.percentile(0.5) or 0) == pytest.approx(0.6, abs=0.02) or load == 1
    assert found.latency.most <= 0.6 + 1e-9


def test_at_half_the_load_hardly_anybody_waits():
    found = possible(poisson(40.0, 60.0), Service(), wait_budget=0.5)
    assert found.refused == 0
    assert (found.latency.percentile(0.9) or 0) < 0.11


def test_a_request_that_will_fail_takes_nobodys_time():
    service = Service(failure_rate=0.5)
    sound = [number for number in range(40) if not fails(service, number)]
    planned = list(plan(arrivals_at([0.0] * 40), service, wait_budget=0.0))
    assert [arrival.number for arrival, start, _ in planned if start is not None] == sound[:8]


# Slots that come and go.


def test_a_start_is_planned_with_the_slots_that_will_come():
    service, more = Service(slots=1, first_token_ms=1000), Service(slots=3, first_token_ms=1000)
    planned = plan(arrivals_at([0.0, 0.1, 0.1, 0.2]), service, wait_budget=0.5, changes=[(0.5, more)])
    assert [start for _, start, _ in planned] == [0.0, 0.5, 0.5, None]


def test_fewer_slots_end_nothing():
    service, fewer = Service(slots=3, first_token_ms=1000), Service(slots=1, first_token_ms=1000)
    planned = plan(arrivals_at([0.0, 0.2, 0.4, 0.6, 0.6]), service, wait_budget=9.0, changes=[(0.5, fewer)])
    assert [start for _, start, _ in planned] == pytest.approx([0.0, 0.2, 0.4, 1.4, 2.4])


def test_without_slots_nothing_starts_until_there_are_some():
    none, one = Service(slots=0), Service(slots=1)
    planned = plan(arrivals_at([0.0, 4.9]), none, wait_budget=0.5, changes=[(5.0, one)])
    assert [start for _, start, _ in planned] == [None, 5.0]
    assert possible(arrivals_at([0.0, 1.0]), none, wait_budget=9.0).refused == 2


def test_a_request_runs_as_the_settings_are_when_it_starts():
    slow, fast = Service(slots=1, first_token_ms=1000), Service(slots=1, first_token_ms=100)
    planned = plan(arrivals_at([0.0, 0.1]), slow, wait_budget=9.0, changes=[(0.5, fast)])
    assert [end for _, _, end in planned] == pytest.approx([1.0, 1.1])


def test_what_is_not_in_order_is_refused():
    with pytest.raises(ValueError, match=r"1\.0 s comes after 2\.0 s"):
        possible(arrivals_at([2.0, 1.0]), Service(), wait_budget=1.0)
    with pytest.raises(ValueError, match="changes are not in order"):
        possible([], Service(), wait_budget=1.0, changes=[(2.0, Service()), (1.0, Service())])


@pytest.mark.slow
def test_a_hundred_thousand_arrivals_take_about_a_second():
    service = Service(slots=1000, distribution="lognormal", stall_rate=0.01)
    load = poisson(10_000.0, 10.0)
    began = time.process_time()
    found = possible(load, service, wait_budget=0.5)
    assert found.completed + found.refused == len(load) > 99_000
    assert time.process_time() - began < 3.0  # 0.5 on an idle machine
