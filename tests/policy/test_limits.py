import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import RateLimited, TooLarge
from pipeline.policy.limits import BURST_S, KeyQuota, OwnPlaces, TokenBucket, duration, per_minute


def quota(requests: int | None = None, tokens: int | None = None, concurrency: int | None = None) -> KeyQuota:
    return KeyQuota(
        None if requests is None else TokenBucket(*per_minute(requests), 0.0),
        None if tokens is None else TokenBucket(*per_minute(tokens), 0.0),
        None if concurrency is None else OwnPlaces(concurrency),
    )


def refused(limits: KeyQuota, tokens: int, now: float) -> RateLimited:
    with pytest.raises(RateLimited) as raised:
        limits.admit(tokens, now)
    return raised.value


def lines(limits: KeyQuota, now: float) -> dict[str, str]:
    fields = limits.fields(now)
    assert not fields or fields.endswith("\r\n")
    return dict(line.removeprefix("x-ratelimit-").split(": ") for line in fields.split("\r\n") if line)


def test_a_bucket_starts_full_and_fills_all_the_time():
    bucket = TokenBucket(2.0, 10.0, 100.0)
    assert bucket.level(100.0) == 10.0
    bucket.take(10.0, 100.0)
    assert bucket.wait(1.0, 100.0) == 0.5
    assert bucket.level(100.25) == 0.5
    assert bucket.wait(1.0, 100.5) == 0.0
    assert bucket.level(1e9) == 10.0


def test_what_is_owed_is_paid_before_anything_is_taken():
    bucket = TokenBucket(1.0, 10.0, 0.0)
    bucket.take(25.0, 0.0)
    assert bucket.level(0.0) == -15.0
    assert bucket.wait(1.0, 0.0) == 16.0


def test_more_than_the_burst_is_to_be_had_from_a_full_bucket():
    bucket = TokenBucket(1.0, 10.0, 0.0)
    assert bucket.wait(30.0, 0.0) == 0.0
    bucket.take(1.0, 0.0)
    assert bucket.wait(30.0, 0.0) == 1.0


def test_what_is_given_back_does_not_run_over():
    bucket = TokenBucket(1.0, 10.0, 0.0)
    bucket.take(4.0, 0.0)
    bucket.give(100.0, 0.0)
    assert bucket.level(0.0) == 10.0


def test_a_clock_that_jumps_back_changes_nothing():
    bucket = TokenBucket(1.0, 10.0, 1000.0)
    bucket.take(10.0, 1000.0)
    assert bucket.level(0.0) == 0.0
    assert bucket.level(1000.0) == 0.0
    assert bucket.level(1001.0) == 1.0


times = st.lists(st.tuples(st.floats(-5.0, 30.0), st.floats(0.1, 40.0)), max_size=60)


@given(times, st.floats(0.01, 100.0), st.floats(1.0, 50.0))
def test_nobody_gets_more_than_the_rate_and_one_burst(steps, rate, burst):
    """Whatever the clock does: what is taken stays below what its latest time allows."""
    bucket, now, latest, taken, largest = TokenBucket(rate, burst, 0.0), 0.0, 0.0, 0.0, 0.0
    for step, amount in steps:
        now += step
        latest = max(now, latest)
        if bucket.wait(amount, now) == 0.0:
            bucket.take(amount, now)
            taken += amount
            largest = max(largest, amount)
        assert taken <= latest * rate + max(burst, largest) + 1e-6


@given(st.lists(st.floats(0.1, 20.0), max_size=20), st.floats(0.1, 100.0), st.floats(0.001, 100.0))
def test_who_comes_back_when_told_to_is_let_in(taken, amount, rate):
    bucket = TokenBucket(rate, 10.0, 7.0)
    for one in taken:
        bucket.take(one, 7.0)
    assert bucket.wait(amount, 7.0 + bucket.wait(amount, 7.0)) == 0.0


def test_requests_a_minute():
    limits = quota(requests=60)
    for _ in range(int(BURST_S)):
        limits.admit(0, 0.0)
    error = refused(limits, 0, 0.0)
    assert (error.status, error.code, error.type, error.reason) == (
        429,
        "rate_limit_exceeded",
        "requests",
        "request_limit",
    )
    assert error.message == "The key's limit of 60 requests a minute is reached; try again in 1 second"
    assert error.retry_after == 1.0
    limits.admit(0, 1.0)


def test_one_request_a_minute_is_one():
    limits = quota(requests=1)
    limits.admit(0, 0.0)
    error = refused(limits, 0, 1.0)
    assert error.retry_after == 59.0
    assert error.message == "The key's limit of 1 request a minute is reached; try again in 59 seconds"


@given(st.integers(1, 1000), st.lists(st.floats(0.0, 20.0), max_size=200))
def test_within_any_minute_there_are_a_minutes_requests_and_one_burst(limit, steps):
    limits, now, admitted = quota(requests=limit), 0.0, []
    for step in steps:
        now += step / limit
        try:
            limits.admit(0, now)
        except RateLimited:
            continue
        admitted.append(now)
    for first in admitted:
        within = [one for one in admitted if first <= one <= first + 60.0]
        assert len(within) <= limit + max(1, math.ceil(limit / 6))


def test_tokens_a_minute_are_estimated_then_settled():
    limits = quota(tokens=6000)
    limits.admit(1000, 0.0)
    error = refused(limits, 100, 0.0)
    assert (error.type, error.reason, error.retry_after) == ("tokens", "token_limit", 1.0)
    assert error.message == "The key's limit of 6,000 tokens a minute is reached; try again in 1 second"
    limits.settle(1000, 400, 0.0)
    limits.admit(600, 0.0)
    assert refused(limits, 1, 0.0).retry_after == 0.01


def test_tokens_beyond_the_estimate_delay_the_next_requests():
    limits = quota(tokens=6000)
    limits.admit(10, 0.0)
    limits.settle(10, 2000, 0.0)
    assert refused(limits, 100, 0.0).retry_after == pytest.approx(11.0)
    limits.admit(100, 11.0)


def test_a_request_that_reached_no_backend_gets_everything_back():
    limits = quota(requests=1, tokens=6000, concurrency=1)
    before = limits.fields(0.0)
    limits.admit(1000, 0.0)
    assert limits.fields(0.0) != before
    limits.settle(1000, None, 0.0)
    assert limits.fields(0.0) == before
    limits.admit(1000, 0.0)


def test_a_request_that_no_minute_holds_is_too_large_and_takes_nothing():
    limits = quota(requests=60, tokens=6000)
    before = limits.fields(0.0)
    with pytest.raises(TooLarge) as raised:
        limits.admit(6001, 0.0)
    assert "6,001 tokens" in raised.value.message
    assert "6,000 a minute" in raised.value.message
    assert limits.fields(0.0) == before
    limits.admit(6000, 0.0)


def test_requests_at_once():
    limits = quota(concurrency=2)
    limits.admit(0, 0.0)
    limits.admit(0, 0.0)
    error = refused(limits, 0, 0.0)
    assert (error.reason, error.retry_after, error.type) == ("concurrency_limit", 1.0, "requests")
    assert "2 requests at once" in error.message
    limits.settle(0, None, 5.0)
    limits.admit(0, 5.0)
    refused(limits, 0, 5.0)


def test_a_refusal_takes_nothing_of_the_other_limits():
    limits = quota(requests=6, tokens=6000, concurrency=1)
    limits.admit(100, 0.0)
    left = limits.fields(0.0)
    for _ in range(5):
        refused(limits, 100, 0.0)
    assert limits.fields(0.0) == left


def test_of_several_limits_the_one_that_takes_longest_is_named():
    limits = quota(requests=60, tokens=60, concurrency=1)
    limits.admit(10, 0.0)
    assert refused(limits, 0, 0.0).reason == "concurrency_limit"
    assert (refused(limits, 10, 0.0).reason, refused(limits, 10, 0.0).retry_after) == ("token_limit", 10.0)


def test_only_a_limit_on_tokens_wants_them_counted():
    assert quota(tokens=100).counts_tokens
    assert not quota(requests=1, concurrency=1).counts_tokens


@given(
    st.lists(
        st.tuples(st.sampled_from(["admit", "used", "unused"]), st.integers(0, 700), st.floats(0.0, 10.0)), max_size=80
    )
)
def test_places_and_tokens_add_up_whatever_happens(steps):
    """Never more at once than allowed, never more in the bucket than it holds, and a full one after an idle hour."""
    limits, open_, now = quota(requests=600, tokens=600, concurrency=3), [], 0.0
    for what, tokens, passed in steps:
        now += passed
        if what == "admit":
            try:
                limits.admit(tokens, now)
            except (RateLimited, TooLarge):
                continue
            open_.append(tokens)
        elif open_:
            limits.settle(open_.pop(0), tokens if what == "used" else None, now)
        assert len(open_) <= 3
        shown = lines(limits, now)
        assert 0 <= int(shown["remaining-requests"]) <= 100
        assert 0 <= int(shown["remaining-tokens"]) <= 100
    assert lines(limits, now + 1e6)["remaining-tokens"] == "100"
    for _ in range(3 - len(open_)):
        limits.admit(1, now + 1e6)
    assert refused(limits, 1, now + 1e6).reason == "concurrency_limit"


def test_the_header_lines_are_openais():
    limits = quota(requests=60, tokens=60_000)
    limits.admit(15_050, 0.0)
    assert limits.fields(0.0).split("\r\n") == [
        "x-ratelimit-limit-requests: 60",
        "x-ratelimit-remaining-requests: 9",
        "x-ratelimit-reset-requests: 1s",
        "x-ratelimit-limit-tokens: 60000",
        "x-ratelimit-remaining-tokens: 0",
        "x-ratelimit-reset-tokens: 15.05s",
        "",
    ]
    assert lines(limits, 15.05)["remaining-tokens"] == "10000"
    assert lines(limits, 15.05)["reset-tokens"] == "0s"
    assert lines(quota(concurrency=3), 0.0) == {}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0s"),
        (0.12, "120ms"),
        (0.0001, "1ms"),
        (0.9999, "1s"),
        (1.0, "1s"),
        (1.5, "1.5s"),
        (59.9996, "1m0s"),
        (60.0, "1m0s"),
        (86.4, "1m26.4s"),
        (360.0, "6m0s"),
        (3600.0, "1h0m0s"),
        (7384.25, "2h3m4.25s"),
    ],
)
def test_durations_are_written_as_go_does(seconds, text):
    assert duration(seconds) == text
