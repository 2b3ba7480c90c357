"""The circuit breaker: when it opens, who probes, and how the wait grows."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy.breaker import Breaker, BreakerRules, BreakerState

RULES = BreakerRules(failures=5, rate=0.4, window=20, open_s=1.0, max_open_s=60.0)


def call(breaker: Breaker, now: float, *, ok: bool) -> bool:
    """One call from begin to end. Whether it was made."""
    if breaker.wait(now) > 0.0:
        return False
    token = breaker.begin(now)
    if ok:
        breaker.answered(token, now)
        breaker.succeeded(token, now)
    else:
        breaker.failed(token, now)
    return True


def opened(rules: BreakerRules = RULES, now: float = 0.0) -> Breaker:
    breaker = Breaker(rules)
    for _ in range(rules.failures):
        call(breaker, now, ok=False)
    assert breaker.state is BreakerState.OPEN
    return breaker


def test_fifty_calls_of_which_the_eighth_to_the_twenty_sixth_fail():
    """It opens with the fifth failure in a row; from then on there are only probes."""
    breaker, made, probes = Breaker(RULES), [], []
    now = 0.0
    for number in range(1, 51):
        while breaker.wait(now) > 0.0:
            assert not call(breaker, now, ok=True)
            now += breaker.wait(now)
            probes.append(now)
        assert call(breaker, now, ok=not 8 <= number <= 26)
        made.append(breaker.state)
    assert made.index(BreakerState.OPEN) + 1 == 12  # 8, 9, 10, 11, 12
    waits = [after - before for before, after in zip([0.0, *probes], probes, strict=False)]
    assert waits == [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, *[60.0] * 9]
    assert made[26:] == [BreakerState.CLOSED] * 24


def test_a_success_between_failures_begins_the_row_anew():
    breaker = Breaker(RULES._replace(rate=0.0))
    for _ in range(30):
        for _ in range(4):
            assert call(breaker, 0.0, ok=False)
        assert call(breaker, 0.0, ok=True)
    assert breaker.state is BreakerState.CLOSED


@pytest.mark.parametrize(("pattern", "calls"), [("10", 20), ("110", 21), ("11110", None), ("1110", None)])
def test_the_rate_counts_only_over_a_full_window(pattern, calls):
    """With failures at 0: in "110" each third call fails, which is less than 40 %; 7 of 20 do."""
    breaker = Breaker(RULES._replace(failures=0, rate=0.35))
    for number in range(200):
        if not call(breaker, 0.0, ok=pattern[number % len(pattern)] == "1"):
            assert number == calls
            return
    assert calls is None


def test_without_a_trigger_it_never_opens():
    breaker = Breaker(RULES._replace(failures=0, rate=0.0))
    assert all(call(breaker, 0.0, ok=False) for _ in range(1000))


def test_calls_from_before_it_opened_say_nothing_any_more():
    breaker = Breaker(RULES)
    early = [breaker.begin(0.0) for _ in range(8)]
    assert [breaker.failed(token, 0.0) for token in early[:5]] == [False] * 4 + [True]
    breaker.answered(early[5], 0.1)
    breaker.succeeded(early[5], 0.1)
    assert breaker.state is BreakerState.OPEN
    probe = breaker.begin(1.0)
    breaker.succeeded(early[6], 1.1)
    assert not breaker.failed(early[7], 1.1)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.answered(probe, 1.2)
    assert breaker.state is BreakerState.CLOSED


def test_only_one_probe_at_a_time_and_its_first_delta_closes_the_circuit():
    breaker = opened()
    assert breaker.wait(0.25) == 0.75
    probe = breaker.begin(1.0)
    assert breaker.wait(1.0) == pytest.approx(0.1)
    assert breaker.wait(4.0) == 3.0
    breaker.answered(probe, 4.0)
    assert breaker.wait(4.0) == 0.0
    assert not breaker.failed(probe, 5.0)  # counts as any other call: four more
    for _ in range(3):
        call(breaker, 5.0, ok=False)
    assert breaker.failed(breaker.begin(5.0), 5.0)


def test_an_abandoned_probe_leaves_the_next_one_to_begin_at_once():
    breaker = opened()
    probe = breaker.begin(1.0)
    breaker.abandoned(probe)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.wait(1.0) == 0.0
    second = breaker.begin(1.0)
    breaker.abandoned(probe)  # told again, or late
    assert breaker.wait(1.0) > 0.0
    breaker.succeeded(second, 1.5)
    assert breaker.state is BreakerState.CLOSED


def test_callers_that_leave_are_neither_failures_nor_successes():
    breaker = Breaker(RULES)
    for number in range(4):
        breaker.failed(breaker.begin(0.0), 0.0)
        breaker.abandoned(breaker.begin(0.0))
        assert breaker.state is BreakerState.CLOSED, number
    assert breaker.failed(breaker.begin(0.0), 0.0)


@pytest.mark.parametrize(("closed_for", "wait"), [(0.0, 4.0), (19.9, 4.0), (20.0, 1.0), (1000.0, 1.0)])
def test_the_wait_begins_anew_once_it_has_stayed_closed_for_ten_times_the_last(closed_for, wait):
    breaker = opened()
    breaker.failed(breaker.begin(1.0), 1.0)
    call(breaker, 3.0, ok=True)  # the second wait was two seconds
    now = 3.0 + closed_for
    for _ in range(5):
        call(breaker, now, ok=False)
    assert breaker.wait(now) == pytest.approx(wait)


def test_the_wait_never_exceeds_the_most():
    breaker = opened(RULES._replace(open_s=50.0))
    breaker.failed(breaker.begin(50.0), 50.0)
    assert breaker.wait(50.0) == 60.0
    assert opened(RULES._replace(open_s=90.0)).wait(0.0) == 60.0


@given(
    st.lists(st.tuples(st.sampled_from(["begin", "answered", "ok", "failed", "left"]), st.floats(0.0, 3.0))),
    st.integers(0, 3),
    st.sampled_from([0.0, 0.5]),
)
def test_a_circuit_that_is_not_closed_has_one_call_at_most(steps, failures, rate):
    breaker = Breaker(BreakerRules(failures, rate, window=4, open_s=1.0, max_open_s=4.0))
    calls: list[int] = []
    probes: set[int] = set()
    now = 0.0
    for step, passed in steps:
        now += passed
        if step == "begin":
            if breaker.wait(now) == 0.0:
                calls.append(breaker.begin(now))
                if breaker.state is not BreakerState.CLOSED:
                    assert not probes & set(calls[:-1]), "two probes"
                    probes = {calls[-1]}
        elif calls:
            token = calls[0] if step == "answered" else calls.pop(0)
            match step:
                case "answered":
                    breaker.answered(token, now)
                case "ok":
                    breaker.succeeded(token, now)
                case "failed":
                    assert breaker.failed(token, now) <= (breaker.state is BreakerState.OPEN)
                case "left":
                    breaker.abandoned(token)
        assert breaker.wait(now) >= 0.0
        if breaker.state is BreakerState.OPEN:
            assert breaker.wait(now) <= 4.0
