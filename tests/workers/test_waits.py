import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.waits import asked_wait, duration, retry_after, told_wait

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "7"}, 7.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after": "0"}, 0.0),
        ({"retry-after": "-3"}, 0.0),
        ({"retry-after": "nan"}, None),
        ({"retry-after": "inf"}, None),
        ({"retry-after": "1e300"}, 86_400.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": ""}, None),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:50 GMT"}, 30.0),
        ({"retry-after": "Tue, 14 Nov 2023 22:13:00 GMT"}, 0.0),
        ({"retry-after": "Tue, 99 Nov 999999999999 22:13:00 GMT"}, None),
        ({"retry-after-ms": "250"}, 0.25),
        ({"retry-after-ms": "250", "retry-after": "7"}, 0.25),
        ({"retry-after-ms": "x", "retry-after": "7"}, 7.0),
    ],
)
def test_the_wish_to_wait_is_understood(headers, seconds):
    assert retry_after(headers, NOW) == seconds


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1s", 1.0),
        ("6m0s", 360.0),
        ("1m30s", 90.0),
        ("20ms", 0.02),
        ("2m59.56s", 179.56),
        ("1h0m1s", 3601.0),
        ("250us", 0.00025),
        ("1000h", 86_400.0),
        ("7.66", 7.66),
        ("0", 0.0),
        ("", None),
        ("1m x", None),
        ("soon", None),
        ("-1s", None),
        ("1700000000", None),  # a time of day
        ("nan", None),
        ("9" * 400 + "s", None),
    ],
)
def test_durations_as_go_prints_them(text, seconds):
    assert duration(text) == (None if seconds is None else pytest.approx(seconds))


@given(st.text(alphabet="0123456789.hmsuµn -", max_size=80))
def test_whatever_is_given_is_a_duration_or_none(text):
    seconds = duration(text)
    assert seconds is None or 0 <= seconds <= 86_400


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"x-ratelimit-reset-requests": "1s"}, 1.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        (
            {
                "x-ratelimit-reset-requests": "1s",
                "x-ratelimit-remaining-requests": "0",
                "x-ratelimit-reset-tokens": "6m0s",
                "x-ratelimit-remaining-tokens": "149984",
            },
            1.0,
        ),
        ({"X-RateLimit-Reset-Requests": "20ms", "x-ratelimit-reset-tokens": "soon"}, 0.02),
        ({"x-ratelimit-limit-requests": "60"}, None),
    ],
)
def test_the_limit_that_is_used_up_tells_the_wait(headers, seconds):
    assert asked_wait(headers) == seconds


@pytest.mark.parametrize(
    ("error", "message", "seconds"),
    [
        ({}, "Please try again in 6m0s. Visit the page for more.", 360.0),
        ({}, "Please try again in 20ms.", 0.02),
        ({}, "Please try again in 1.5s.", 1.5),
        ({}, "Please retry after 12 seconds.", 12.0),
        ({}, "Please retry after 1 second.", 1.0),
        ({}, "try again later", None),
        ({"retry_after": 3}, "try again in 20ms", 3.0),
        ({"error": {"retry_after_seconds": 3.5}}, "", 3.5),
        ({"retry_after": True}, "", None),
        ({"retry_after": "x"}, "", None),
        ({"retry_after": 10**400}, "", None),
        ({"retry_after": -1}, "", 0.0),
        ({"details": [{"@type": "x"}, {"retryDelay": "34s"}]}, "", 34.0),
        ({"details": [1, None, {"retryDelay": 3}]}, "", None),
        ("text", "", None),
        ([1], "", None),
    ],
)
def test_an_error_object_tells_the_wait(error, message, seconds):
    assert told_wait(error, message) == seconds
