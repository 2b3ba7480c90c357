"""What may be tried again, and after which pause."""

import random

import pytest

from pipeline.policy.retry import RetryBudget, pause


def test_retries_stay_a_share_of_the_requests():
    budget = RetryBudget(0.1)
    granted = 0
    for _ in range(10_000):
        budget.request()
        granted += budget.take()  # every request fails
    assert granted == pytest.approx(1025, abs=1)  # a tenth, and the reserve


def test_what_a_quiet_time_saves_is_bounded():
    budget = RetryBudget(0.5, reserve=3.0, most=10.0)
    assert budget.balance == 3.0
    for _ in range(1000):
        budget.request()
    assert sum(budget.take() for _ in range(100)) == 10


def test_without_a_share_there_is_no_retry():
    budget = RetryBudget(0.0)
    budget.request()
    assert not budget.take()
    budget.renew(0.5)
    assert budget.balance == 25.0  # the reserve, as if it had begun so
    assert budget.take()
    budget.renew(0.1)
    assert budget.balance == 24.0
    budget.renew(0.0)
    assert not budget.take()


def test_the_pause_is_drawn_from_zero_to_a_bound_that_doubles():
    draw = random.Random(5).random
    for attempt, most in enumerate([0.05, 0.1, 0.2, 0.4, 0.8, 1.6, 2.0, 2.0]):
        drawn = [pause(attempt, 0.05, 2.0, draw()) for _ in range(2000)]
        assert 0.0 <= min(drawn) < 0.01 * most
        assert 0.99 * most < max(drawn) <= most
        assert sum(drawn) / len(drawn) == pytest.approx(most / 2, rel=0.05)
    assert pause(10_000, 0.05, 2.0, 0.5) == 1.0
