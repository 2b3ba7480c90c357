"""Which replica gets a call: sessions stay, loads are even, what fails is left alone and comes back slowly."""

import sys
from collections import Counter
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy.breaker import BreakerRules, BreakerState
from pipeline.policy.choice import replica_seed, scores
from pipeline.policy.pool import Attempt, Pool, Result
from pipeline.policy.retry import RetryBudget
from tests.policy.pool_simulation import NAMES, RULES, Sessions

LONE = BreakerRules(failures=1, rate=0.0)


def pool(number: int = 4, **rules: object) -> Pool:
    return Pool(NAMES[:number], RULES._replace(**rules))


def booked(found: Attempt | None) -> Attempt:
    assert found is not None
    return found


def served(pool: Pool, session: str | None, now: float, *, seconds: float = 0.0, avoid: tuple[int, ...] = ()) -> int:
    """A call that goes well; by whom."""
    attempt = booked(pool.choose(session, now, avoid))
    pool.answered(attempt, now)
    pool.ended(attempt, now + seconds, Result.OK)
    return attempt.index


def fail(pool: Pool, index: int, now: float, times: int = 1) -> None:
    """Calls of the replica that fail, and so open its circuit where that takes so many."""
    others = {replica.index for replica in pool.replicas} - {index}
    for _ in range(times):
        attempt = booked(pool.choose(None, now, others))
        assert attempt.index == index
        pool.ended(attempt, now, Result.FAULT)


def favourite(pool: Pool, session: str) -> int:
    own = scores(session, [replica_seed(replica.name) for replica in pool.replicas])
    return own.index(max(own))


def homes(pool: Pool, now: float, number: int = 400) -> list[int]:
    return [served(pool, f"conversation-{session}", now) for session in range(number)]


# Sessions.


def test_a_thousand_sessions_at_eighty_percent_stay_home_and_load_all_alike():
    """8 replicas of 64 places; the figures of the task: 95 %, and 1.25 times the mean."""
    found = pool(8)
    sessions = Sessions(found, 1000, busy=410)
    sessions.run(10.0)
    own = {session: favourite(found, f"conversation-{session}") for session in sessions.homes}
    at_home = sum(calls[own[session]] for session, calls in sessions.homes.items())
    assert at_home / sessions.begun.total() >= 0.95  # 0.99
    means = [sum(load) / len(sessions.loads) for load in zip(*sessions.loads, strict=True)]
    assert max(means) <= 1.25 * sum(means) / len(means)  # 1.08
    assert max(map(max, sessions.loads)) <= 64
    assert sum(map(sum, sessions.loads)) / len(sessions.loads) == pytest.approx(410, rel=0.1)
    assert sessions.full == 0


def test_a_dead_replica_moves_its_own_sessions_only_and_they_come_home():
    found = pool(8, breaker=LONE, slow_start=0.0)
    before = homes(found, 0.0)
    fail(found, 3, 0.0)
    during = homes(found, 0.5)
    assert 3 not in during
    assert {old for old, new in zip(before, during, strict=True) if old != new} == {3}
    assert homes(found, 1.0) == before  # the first of its sessions was the probe


def test_sessions_come_home_by_and_by():
    found = pool(2, breaker=LONE)
    before = homes(found, 0.0)
    fail(found, 1, 0.0)
    assert served(found, None, 1.0, avoid=(0,)) == 1
    own = before.count(1)
    shares = []
    back: set[int] = set()
    for now in (1.0, 3.5, 6.0, 8.5, 11.0):
        at = {session for session, index in enumerate(homes(found, now)) if index == 1}
        assert back <= at <= {session for session, index in enumerate(before) if index == 1}
        back = at
        shares.append(len(at) / own)
    assert shares == pytest.approx([0.1, 0.325, 0.55, 0.775, 1.0], abs=0.07)


def test_a_hot_session_spills_to_its_second_choice_when_its_first_has_much_more_to_do_than_the_others():
    found = pool(4)
    taken = [booked(found.choose("hot", 0.0)).index for _ in range(12)]
    own = scores("hot", [replica_seed(name) for name in NAMES[:4]])
    order = sorted(range(4), key=lambda index: -own[index])
    assert taken[:2] == [order[0], order[0]]
    assert Counter(taken).most_common()[0][0] == order[0]
    loads = [replica.inflight for replica in found.replicas]
    assert max(loads) <= ceil(1.25 * 12 / 4 + 1)
    assert [loads[index] for index in order] == sorted(loads, reverse=True)


def test_without_affinity_a_session_says_nothing():
    found = pool(4, affinity=False)
    assert len({served(found, "same", 0.0) for _ in range(4)}) == 4


# The least wait.


def test_calls_without_a_session_take_turns_and_fill_all_alike():
    found = pool(4)
    assert [booked(found.choose(None, 0.0)).index for _ in range(8)] == [0, 1, 2, 3] * 2


def test_a_slow_replica_gets_less_and_another_chance_later():
    found = pool(2)
    for _ in range(40):
        served(found, None, 0.0, seconds=8.0, avoid=(0,))
        served(found, None, 0.0, seconds=1.0, avoid=(1,))
    taken = [booked(found.choose(None, 8.0)) for _ in range(8)]
    assert found.replicas[0].inflight > 2 * found.replicas[1].inflight > 0
    for attempt in taken:
        found.ended(attempt, 8.0, Result.ABANDONED)
    assert [served(found, None, 8.0) for _ in range(10)] == [0] * 10
    assert {served(found, None, 600.0 + number, seconds=1.0) for number in range(40)} == {0, 1}


def test_bounds_are_kept_and_a_full_pool_gives_nothing():
    found = pool(3, concurrency=2)
    taken = [booked(found.choose("one session", 0.0)) for _ in range(6)]
    assert Counter(attempt.index for attempt in taken) == {0: 2, 1: 2, 2: 2}
    assert found.choose("one session", 0.0) is None
    assert found.wait(0.0) == 0.0  # may be called, once one ends
    found.ended(taken[0], 0.0, Result.ABANDONED)
    assert booked(found.choose(None, 0.0)).index == taken[0].index


@pytest.mark.parametrize("number", [1, 3])
def test_a_replica_is_bounded_by_what_it_says_of_itself(number):
    found = pool(number, concurrency=None)
    assert found.capacity(0.0) == sys.maxsize
    changes: list[int] = []
    found.on_change = lambda: changes.append(found.capacity(0.0))
    for index in range(number):
        found.looked(index, ok=True, now=0.0, slots=4)
        found.looked(index, ok=True, now=0.0, slots=4)
    assert found.capacity(0.0) == 4 * number
    assert changes[-1] == 4 * number
    assert len(changes) == number
    assert [found.choose(None, 0.0) is not None for _ in range(4 * number + 1)] == [True] * 4 * number + [False]
    found.renew([replica.name for replica in found.replicas], RULES._replace(concurrency=2))
    assert found.capacity(0.0) == 2 * number


# What was tried, and what wants to be left alone.


def test_what_was_tried_comes_again_only_when_no_other_can_take_it():
    found = pool(3, concurrency=1)
    session = "conversation-7"
    tried = [served(found, session, 0.0)]
    tried.append(served(found, session, 0.0, avoid=tuple(tried)))
    tried.append(served(found, session, 0.0, avoid=tuple(tried)))
    assert sorted(tried) == [0, 1, 2]
    assert tried[0] == favourite(found, session)
    assert served(found, session, 0.0, avoid=(0, 1, 2)) == tried[0]
    booked(found.choose(session, 0.0, tried[:2]))
    assert booked(found.choose(session, 0.0, tried[:2])).index == tried[0]


def test_who_asked_for_a_pause_gets_one_while_another_can_take_it():
    found = pool(2)
    attempt = booked(found.choose("a", 0.0))
    found.ended(attempt, 0.0, Result.REFUSED, hold=30.0)
    other = 1 - attempt.index
    assert [served(found, "a", now) for now in (0.0, 29.9, 30.0)] == [other, other, attempt.index]
    found.ended(booked(found.choose("a", 40.0)), 40.0, Result.FAULT, hold=30.0)
    found.replicas[other].held_until = 50.0
    assert served(found, "a", 41.0) == attempt.index
    assert pool(1).choose("a", 0.0) is not None


def test_refusals_are_no_failures():
    found = pool(1)
    for _ in range(100):
        found.ended(booked(found.choose(None, 0.0)), 0.0, Result.REFUSED, hold=1.0)
    assert found.replicas[0].breaker.state is BreakerState.CLOSED
    assert (found.replicas[0].calls, found.replicas[0].failures) == (100, 0)


# Circuits.


def test_while_all_circuits_are_open_nothing_is_called_and_the_wait_is_the_shortest():
    found = pool(2, breaker=LONE)
    fail(found, 0, 0.0)
    fail(found, 1, 0.25)
    assert found.choose(None, 0.5) is None
    assert found.wait(0.5) == 0.5
    assert found.capacity(0.5) == 0
    probe = booked(found.choose(None, 1.0))
    assert probe.index == 0
    assert found.choose(None, 1.0) is None
    assert found.wait(1.0) == pytest.approx(0.1)
    found.answered(probe, 1.1)
    assert found.wait(1.1) == 0.0
    assert found.capacity(1.1) == 64
    assert found.capacity(1.25) == 65  # the other one's probe


def test_one_replica_alone_opens_and_closes_like_any():
    found = pool(1)
    changes: list[float] = []
    circuits: list[BreakerState] = []
    found.on_change = lambda: changes.append(found.capacity(2.0))
    found.on_circuit = lambda replica: circuits.append(replica.breaker.state)
    fail(found, 0, 0.0, times=5)
    assert found.choose(None, 0.9) is None
    assert found.wait(0.4) == pytest.approx(0.6)
    probe = booked(found.choose(None, 1.0))
    found.ended(probe, 1.0, Result.ABANDONED)
    probe = booked(found.choose(None, 1.0))
    found.ended(probe, 1.5, Result.OK)
    assert circuits == [BreakerState.OPEN, BreakerState.CLOSED]
    assert changes == [1, 0, 1, 0, 64]  # open and due by then; probed; left; probed again; closed
    assert (found.replicas[0].calls, found.replicas[0].failures) == (7, 5)


def test_a_backend_that_fails_every_other_call_is_left_alone_and_nearly_all_are_served():
    """Two replicas, one retry elsewhere, from a budget of a tenth of the requests."""
    found = pool(2, slow_start=0.0)
    calls = Counter[int]()
    budget = RetryBudget(0.1)
    lost = retries = opened = 0

    def on_circuit(replica: object) -> None:
        nonlocal opened
        opened += 1

    found.on_circuit = on_circuit
    for number in range(10_000):
        now = number / 100
        budget.request()
        tried: list[int] = []
        while True:
            attempt = booked(found.choose(f"conversation-{number % 500}", now, tried))
            calls[attempt.index] += 1
            if attempt.index == 0 and calls[0] % 2:
                found.ended(attempt, now, Result.FAULT)
                tried.append(0)
                if len(tried) == 1 and budget.take():
                    retries += 1
                    continue
                lost += 1
            else:
                found.ended(attempt, now, Result.OK)
            break
    assert lost == 0
    assert opened >= 1
    assert retries < 0.02 * 10_000  # without a breaker it would be a quarter
    assert calls[0] < 400


def test_a_replica_that_dies_under_load_loses_nothing():
    found = pool(8)
    sessions = Sessions(found, 1000, busy=300, fails=lambda index, now: index == 2 and 2.0 <= now < 6.0)
    sessions.run(12.0)
    assert sessions.lost == sessions.full == 0
    assert 5 <= sessions.failed[2] <= 12  # five that opened it, and the probes
    assert found.replicas[2].breaker.state is BreakerState.CLOSED


# Active checks.


def test_a_failed_look_takes_a_replica_out_and_a_good_one_brings_it_back_slowly():
    found = pool(2)
    found.looked(0, ok=False, now=0.0)
    assert set(homes(found, 0.0)) == {1}
    assert found.capacity(0.0) == 64
    found.looked(0, ok=True, now=5.0)
    share = homes(found, 5.0).count(0) / 400
    assert 0.02 < share < 0.1
    assert homes(found, 15.0).count(0) > 150


def test_a_look_says_less_than_a_call_that_was_answered_since():
    found = pool(2)
    served(found, None, 0.0, avoid=(1,))
    found.looked(0, ok=False, now=1.0)
    assert found.replicas[0].healthy
    found.looked(0, ok=False, now=2.0)
    assert not found.replicas[0].healthy


@pytest.mark.parametrize("number", [1, 3])
def test_looks_alone_never_take_out_all(number):
    found = pool(number)
    for index in range(number):
        found.looked(index, ok=False, now=0.0)
    assert len(set(homes(found, 0.0))) == number
    assert found.capacity(0.0) == 64 * number


def test_when_those_that_looked_well_may_not_be_called_the_others_are():
    found = pool(2, breaker=LONE)
    fail(found, 0, 0.0)
    found.looked(1, ok=False, now=0.0)
    assert served(found, None, 0.0) == 1


# Reloads.


def test_another_configuration_keeps_what_is_known_of_those_that_stay():
    found = pool(3, breaker=LONE)
    fail(found, 2, 0.0)
    running = booked(found.choose(None, 0.0, (1, 2)))
    changed: list[bool] = []
    found.on_change = lambda: changed.append(True)
    found.renew([NAMES[5], NAMES[2]], RULES._replace(concurrency=3))
    assert changed
    assert [replica.name for replica in found.replicas] == [NAMES[5], NAMES[2]]
    assert [replica.index for replica in found.replicas] == [0, 1]
    assert found.replicas[1].breaker.state is BreakerState.OPEN
    assert found.replicas[1].breaker.rules == RULES.breaker
    assert set(homes(found, 0.5)) == {0}
    found.ended(running, 0.5, Result.OK)  # on one that is gone
    assert [replica.inflight for replica in found.replicas] == [0, 0]
    with pytest.raises(ValueError, match="replica"):
        found.renew([], RULES)


@given(
    st.integers(1, 4),
    st.lists(
        st.tuples(
            st.sampled_from(["choose", "choose", "answered", "OK", "FAULT", "REFUSED", "ABANDONED", "look", "renew"]),
            st.integers(0, 7),
            st.floats(0.0, 2.0),
        ),
        max_size=80,
    ),
)
def test_whatever_happens_the_books_are_right(number, steps):
    """No replica has less than nothing or more than its bound, what is not closed has one call of its own, and all is
    as it was in the end."""
    rules = RULES._replace(concurrency=2, breaker=BreakerRules(2, 0.5, 4, 1.0, 4.0))
    found = Pool(NAMES[:number], rules)
    calls: list[Attempt] = []
    probes: set[Attempt] = set()
    now = 0.0
    for step, which, passed in steps:
        now += passed
        if step == "choose":
            wait = found.wait(now)
            attempt = found.choose(None if which > 5 else f"s{which}", now, {which % number})
            if attempt is not None:
                assert wait == 0.0
                assert attempt not in calls
                calls.append(attempt)
                if attempt.replica.breaker.state is not BreakerState.CLOSED:
                    assert all(probe.replica is not attempt.replica for probe in probes & set(calls[:-1]))
                    probes.add(attempt)
        elif step == "look":
            found.looked(which % len(found.replicas), ok=which > 3, now=now)
        elif step == "renew":
            found.renew(NAMES[which % 3 : which % 3 + number], rules)
        elif calls:
            attempt = calls[which % len(calls)]
            if step == "answered":
                found.answered(attempt, now)
                probes.discard(attempt)
            else:
                calls.remove(attempt)
                for _ in range(2):  # told twice: counted once
                    found.ended(attempt, now, Result[step], hold=1.0 if which == 7 else None)
        for replica in found.replicas:
            assert replica.inflight == sum(call.replica is replica for call in calls)
            assert 0 <= replica.inflight <= 2
            assert 0.1 <= replica.weight(now, rules.slow_start) <= 1.0
        assert 0 <= found.capacity(now) <= 2 * number
    for attempt in calls:
        found.ended(attempt, now, Result.OK)
    assert all(replica.inflight == 0 for replica in found.replicas)
