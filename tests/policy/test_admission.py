from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.outcomes import Reason
from pipeline.policy.admission import (
    RETRY_AFTER_MAX,
    RETRY_AFTER_MIN,
    allowance,
    bulkhead,
    estimated_wait,
    jittered,
    retry_after,
    standing_target,
    wait_budget,
)


def test_the_wait_is_the_time_to_drain_what_waits():
    assert retry_after(400, 80.0) == 5.0


def test_bounds():
    assert retry_after(1, 1000.0) == RETRY_AFTER_MIN
    assert retry_after(100_000, 1.0) == RETRY_AFTER_MAX


def test_nothing_is_known_without_a_rate():
    assert retry_after(10, 0.0) == RETRY_AFTER_MAX
    assert retry_after(0, 0.0) == RETRY_AFTER_MIN


def test_a_free_place_means_no_wait():
    assert estimated_wait(0, limit=8, inflight=7, hold=0.1, share=8) == 0.0
    assert estimated_wait(3, limit=8, inflight=4, hold=0.1, share=8) == 0.0


def test_the_wait_is_what_is_ahead_at_the_pace_of_the_worker():
    assert estimated_wait(0, limit=8, inflight=8, hold=0.1, share=8) == pytest.approx(0.0125)
    assert estimated_wait(7, limit=8, inflight=8, hold=0.1, share=8) == pytest.approx(0.1)
    assert estimated_wait(7, limit=8, inflight=8, hold=0.5, share=8) == pytest.approx(0.5)
    assert estimated_wait(7, limit=8, inflight=11, hold=0.1, share=8) == pytest.approx(0.1)  # the limit has fallen


def test_while_nothing_is_known_nobody_waits():
    assert estimated_wait(1000, limit=8, inflight=8, hold=0.0, share=8) == 0.0


def test_the_usual_budget_grows_with_the_answers():
    assert wait_budget(None, 8, 0.1) == 0.4
    assert wait_budget(None, 64, 3.0) == 3.0
    assert wait_budget(None, 64, 40.0) == 10.0
    assert wait_budget(None, 1, 10.0) > 10.0  # else nobody would wait when the only place becomes free
    assert wait_budget(None, 1, 1000.0) == 60.0
    assert wait_budget(0.05, 1, 1000.0) == 0.05  # whoever says how long, is obeyed


def test_a_standing_queue_gets_less_but_never_runs_dry():
    assert standing_target(0.5, 8, 0.1) == pytest.approx(0.1)
    assert standing_target(10.0, 1, 8.0) > 8.0
    assert standing_target(0.1, 1, 8.0) == 0.1


def test_the_deadline_counts_where_it_leaves_less_than_the_budget():
    assert allowance(0.5, 60.0, 1.0) == (0.5, Reason.WAIT_BUDGET)
    assert allowance(0.5, 1.2, 1.0) == (pytest.approx(0.2), Reason.TOO_LATE)
    assert allowance(0.5, 0.5, 1.0).seconds < 0
    assert allowance(0.5, inf, 1.0) == (0.5, Reason.WAIT_BUDGET)


@given(st.floats(0.0, 1e6), st.floats(0.0, 1.0))
def test_jitter_stays_within_bounds_and_spreads(seconds, chance):
    assert RETRY_AFTER_MIN <= jittered(seconds, chance) <= RETRY_AFTER_MAX
    assert jittered(seconds, 0.9) > jittered(seconds, 0.1) or seconds >= 40.0


@given(st.integers(0, 5000), st.integers(1, 500), st.integers(0, 600), st.floats(0.0, 100.0))
def test_the_estimate_grows_with_what_is_ahead_and_is_never_negative(ahead, limit, inflight, hold):
    wait = estimated_wait(ahead, limit, inflight, hold, limit)
    assert 0.0 <= wait <= estimated_wait(ahead + 1, limit, inflight, hold, limit)


def test_half_of_the_places_are_kept_for_each_in_equal_parts():
    assert bulkhead(256, own=0, others=[]) == 256
    assert bulkhead(256, own=0, others=[0]) == 192  # 64 are the other's
    assert bulkhead(256, own=192, others=[0]) == 0
    assert bulkhead(256, own=0, others=[192]) == 64
    assert bulkhead(256, own=64, others=[192]) == 0
    assert bulkhead(1, own=0, others=[0]) == 1


@given(st.integers(1, 500), st.lists(st.integers(0, 200), min_size=2, max_size=8))
def test_whoever_holds_less_than_its_part_may_take_more(capacity, holders):
    if sum(holders) <= capacity:
        kept = capacity // (2 * len(holders))
        for index, own in enumerate(holders):
            more = bulkhead(capacity, own, holders[:index] + holders[index + 1 :])
            assert more >= kept - own
            assert more <= capacity - own
