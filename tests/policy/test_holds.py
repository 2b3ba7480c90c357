"""What refuses at once must not get the traffic: it is left alone for a while, as far as others take its calls."""

from collections import Counter

import pytest

from pipeline.policy.breaker import BreakerRules, BreakerState
from pipeline.policy.pool import Attempt, Pool, Result
from tests.policy.pool_simulation import NAMES, RULES


def pool(number: int = 3, **rules: object) -> Pool:
    return Pool(NAMES[:number], RULES._replace(**{"slow_start": 0.0, "affinity": False, **rules}))


def call(found: Pool, now: float, avoid: tuple[int, ...] = ()) -> Attempt:
    attempt = found.choose(None, now, avoid)
    assert attempt is not None
    return attempt


def at(found: Pool, index: int, now: float) -> Attempt:
    attempt = call(found, now, tuple({replica.index for replica in found.replicas} - {index}))
    assert attempt.index == index
    return attempt


def answer(found: Pool, attempt: Attempt, now: float) -> None:
    found.answered(attempt, now)
    found.ended(attempt, now, Result.OK)


def spells(found: Pool, result: Result, number: int, now: float = 100.0) -> list[float]:
    """How long the first replica is left alone after each of so many calls that end so, each made when it may be."""
    seconds = []
    for _ in range(number):
        answer(found, at(found, 1, now), now)
        found.ended(at(found, 0, now), now, result)
        seconds.append(max(found.replicas[0].held_until - now, 0.0))
        now += seconds[-1]
    return seconds


def test_each_push_back_in_a_row_doubles_the_hold_until_an_answer():
    found = pool()
    assert spells(found, Result.PUSHED_BACK, 8) == [0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    answer(found, at(found, 0, 200.0), 200.0)
    assert spells(found, Result.PUSHED_BACK, 2, 300.0) == [0.25, 0.5]


def test_calls_that_were_under_way_already_double_nothing():
    found = pool()
    calls = [at(found, 0, 1.0) for _ in range(10)]
    for attempt in calls:
        found.ended(attempt, 1.1, Result.PUSHED_BACK)
    assert found.replicas[0].held_until == pytest.approx(1.35)


def test_what_it_asks_for_itself_counts_unless_that_is_nothing():
    found = pool()
    found.ended(at(found, 0, 0.0), 0.0, Result.PUSHED_BACK, hold=30.0)
    assert found.replicas[0].held_until == 30.0
    found.ended(at(found, 1, 0.0), 0.0, Result.PUSHED_BACK, hold=0.0)
    assert found.replicas[1].held_until == 0.25


def test_a_replica_that_refuses_at_once_gets_hardly_any_of_the_calls():
    """Two that take 200 ms, one that pushes back at once: 16 callers for 20 s, each asked again at another."""
    for result in (Result.PUSHED_BACK, Result.REFUSED):
        found, calls, running, now = pool(), Counter[int](), list[tuple[float, Attempt]](), 0.0
        while now < 20.0:
            while running and running[0][0] <= now:
                answer(found, running.pop(0)[1], now)
            while len(running) < 16:
                attempt = call(found, now)
                calls[attempt.index] += 1
                if attempt.index == 0:
                    found.ended(attempt, now, result)
                    attempt = call(found, now, (0,))
                    calls[attempt.index] += 1
                running.append((now + 0.2, attempt))
            now += 0.05
        assert calls[0] < 30
        assert min(calls[1], calls[2]) > 300


def test_refusals_count_against_a_replica_only_while_others_answer():
    assert spells(pool(), Result.REFUSED, 5) == [0.0, 0.0, 0.25, 0.5, 1.0]
    alone, all_of_them = pool(1), pool(2)
    for _ in range(20):
        alone.ended(call(alone, 1.0), 1.0, Result.REFUSED)
        for index in (0, 1):
            all_of_them.ended(at(all_of_them, index, 1.0), 1.0, Result.REFUSED)
    held = [replica.held_until for replica in (*alone.replicas, *all_of_them.replicas)]
    assert max(held) < 0.0


def test_a_replica_that_answers_some_is_not_left_alone_for_what_it_refuses():
    found = pool()
    for now in range(1, 40):
        answer(found, at(found, 1, now), now)
        if now % 3:
            found.ended(at(found, 0, now), now, Result.REFUSED)
        else:
            answer(found, at(found, 0, now), now)
    assert found.replicas[0].held_until < 0.0


def test_who_is_left_alone_serves_when_nobody_else_can():
    found = pool(2, concurrency=1)
    found.ended(at(found, 0, 0.0), 0.0, Result.PUSHED_BACK, hold=30.0)
    assert [call(found, 1.0).index, call(found, 1.0).index] == [1, 0]


def test_a_push_back_says_nothing_of_a_closed_circuit_and_opens_a_probed_one_again():
    found = pool(1, breaker=BreakerRules(failures=3, rate=0.0))
    breaker = found.replicas[0].breaker
    for result in (Result.FAULT, Result.FAULT, Result.PUSHED_BACK, Result.FAULT):
        assert breaker.state is BreakerState.CLOSED
        found.ended(call(found, 0.0), 0.0, result)
    assert breaker.state is BreakerState.OPEN  # it was no success between them
    found.ended(call(found, 1.0), 1.0, Result.PUSHED_BACK)
    assert breaker.state is BreakerState.OPEN
    assert found.wait(1.0) == 2.0
    assert found.replicas[0].failures == 3


# Callers who leave.


def leave(found: Pool, now: float, index: int = 0) -> None:
    found.ended(at(found, index, now), now, Result.LEFT)


def state(found: Pool) -> BreakerState:
    return found.replicas[0].breaker.state


def test_callers_who_leave_one_after_the_other_after_long_open_the_circuit():
    found = pool()
    circuits: list[str] = []
    found.on_circuit = lambda replica: circuits.append(replica.name)
    for now in range(4):
        leave(found, now)
    assert state(found) is BreakerState.CLOSED
    leave(found, 4.0)
    assert state(found) is BreakerState.OPEN
    assert circuits == [NAMES[0]]
    leave(found, 5.0)  # the probe: nothing has changed
    assert state(found) is BreakerState.OPEN
    answer(found, at(found, 0, 7.0), 7.0)
    assert state(found) is BreakerState.CLOSED


def test_one_answer_in_between_is_enough_to_be_well():
    found = pool()
    for now in range(0, 60, 5):
        for moment in range(4):
            leave(found, now + moment)
        answer(found, at(found, 0, now + 4), now + 4)
    assert state(found) is BreakerState.CLOSED
    assert found.replicas[0].failures == 0


def test_one_who_leaves_with_all_its_calls_is_one():
    found = pool()
    for _ in range(20):
        leave(found, 3.0)
    assert state(found) is BreakerState.CLOSED


def test_where_failures_in_a_row_open_nothing_these_do_not_either():
    found = pool(breaker=BreakerRules(failures=0))
    for now in range(50):
        leave(found, now)
    assert state(found) is BreakerState.CLOSED


def test_the_longest_wait_for_a_first_delta_is_remembered_for_a_while():
    found = pool()
    assert found.longest(0.0) == 0.0
    slow = call(found, 0.0)
    found.answered(slow, 8.0)
    answer(found, call(found, 9.0), 9.5)
    assert [found.longest(now) for now in (8.0, 28.0, 48.0)] == pytest.approx([8.0, 4.0, 2.0])
    found.ended(slow, 9.0, Result.OK)


# Silence.


def test_a_replica_is_down_with_the_second_look_in_a_row_that_fails_without_an_answer_meanwhile():
    found = pool(2)
    down: list[int] = []
    found.on_down = lambda replica: down.append(replica.index)
    under_way = at(found, 0, 0.5)
    found.looked(0, ok=False, now=1.0)
    answer(found, under_way, 1.5)
    found.looked(0, ok=False, now=2.0)  # it has answered since
    found.looked(0, ok=False, now=3.0)
    assert down == []
    found.looked(0, ok=False, now=4.0)
    assert down == [0]
    found.looked(0, ok=False, now=5.0)  # what was asked meanwhile
    assert down == [0, 0]
    found.looked(0, ok=True, now=6.0)
    found.looked(0, ok=False, now=7.0)
    assert down == [0, 0]
