import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import WorkerErrorKind
from workers.refusals import in_band_error, message_in, status_error

NAMES = st.sampled_from(
    [
        "error",
        "code",
        "type",
        "message",
        "status",
        "innererror",
        "details",
        "retry_after",
        "retryDelay",
        "detail",
        "loc",
    ]
)
NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, WorkerErrorKind.BAD_REQUEST, False),
        (404, WorkerErrorKind.BAD_REQUEST, False),
        (409, WorkerErrorKind.BAD_REQUEST, False),
        (413, WorkerErrorKind.BAD_REQUEST, False),
        (422, WorkerErrorKind.BAD_REQUEST, False),
        (501, WorkerErrorKind.BAD_REQUEST, False),
        (401, WorkerErrorKind.AUTH, False),
        (403, WorkerErrorKind.AUTH, False),
        (429, WorkerErrorKind.RATE_LIMITED, True),
        (500, WorkerErrorKind.UNAVAILABLE, True),
        (502, WorkerErrorKind.UNAVAILABLE, True),
        (503, WorkerErrorKind.OVERLOADED, True),
        (529, WorkerErrorKind.OVERLOADED, True),
        (504, WorkerErrorKind.TIMEOUT, True),
        (599, WorkerErrorKind.UNAVAILABLE, True),
        (301, WorkerErrorKind.UNAVAILABLE, False),
        (307, WorkerErrorKind.UNAVAILABLE, False),
        (402, WorkerErrorKind.RATE_LIMITED, False),
        (408, WorkerErrorKind.TIMEOUT, True),
        (424, WorkerErrorKind.UNAVAILABLE, True),
        (418, WorkerErrorKind.UNAVAILABLE, False),
    ],
)
def test_what_a_status_means(status, kind, retryable):
    error = status_error(status, {}, b"", now=NOW)
    assert (error.kind, error.retryable, error.status) == (kind, retryable, status)
    assert str(status) in error.message


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"error": {"message": "no such model", "type": "invalid_request_error"}}, "no such model"),
        ({"error": "no such model"}, "no such model"),
        ({"error": None, "message": "no such model"}, "no such model"),
        ({"object": "error", "message": "no such model", "code": 404}, "no such model"),
        ({"detail": "no such model"}, "no such model"),
        ({"detail": [{"loc": ["body", "messages", 0], "msg": "field required"}]}, "body.messages.0: field required"),
        ({"error": {"error": {"error": {"error": {"error": "deep"}}}}}, ""),
        ({"error": {"code": 3}}, ""),
        ([1, 2], ""),
        (b"plain words", "plain words"),
        (b"<html><body>Bad Gateway</body></html>", ""),
        (b'{"error": {"mess', '{"error": {"mess'),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[" * 100_000, "[" * 100_000),
        (b"", ""),
    ],
)
def test_the_backends_own_words_are_found(body, message):
    assert message_in(body if isinstance(body, bytes) else json.dumps(body).encode()) == message


def test_messages_are_cut_to_one_line_of_500_characters():
    error = status_error(400, {}, b"two\n\n lines " + b"x" * 1000, now=NOW)
    told = error.message.removeprefix("the backend answered 400: ")
    assert told.startswith("two lines xxx")
    assert len(told) == 500
    assert told.endswith("…")


@pytest.mark.parametrize("status", [401, 403])
def test_words_about_credentials_are_not_repeated(status):
    body = b'{"error": {"message": "Incorrect API key provided: sk-abc***xyz"}}'
    assert "sk-abc" not in status_error(status, {}, body, now=NOW).message


def test_secrets_are_not_repeated_anywhere():
    body = b'{"error": {"message": "header Bearer sk-secret-1 not understood"}}'
    error = status_error(400, {}, body, now=NOW, secrets=("sk-secret-1",))
    assert error.message == "the backend answered 400: header Bearer [secret] not understood"
    in_band = in_band_error({"message": "x sk-secret-1", "code": 500}, secrets=("sk-secret-1",))
    assert "sk-secret" not in in_band.message


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        ({"message": "m", "code": 400, "type": "BadRequestError"}, WorkerErrorKind.BAD_REQUEST, False),
        ({"message": "m", "code": "429"}, WorkerErrorKind.RATE_LIMITED, True),
        ({"message": "m", "code": 503}, WorkerErrorKind.OVERLOADED, True),
        ({"message": "m", "code": 403}, WorkerErrorKind.AUTH, False),
        ({"message": "m", "type": "invalid_request_error", "code": None}, WorkerErrorKind.BAD_REQUEST, False),
        ({"message": "m", "code": "context_length_exceeded"}, WorkerErrorKind.CONTEXT_TOO_LONG, False),
        ({"message": "m", "code": "content_filter", "status": 400}, WorkerErrorKind.CONTENT_FILTERED, False),
        ({"message": "m", "type": "overloaded_error"}, WorkerErrorKind.OVERLOADED, True),
        ({"message": "m", "type": "timeout_error"}, WorkerErrorKind.TIMEOUT, True),
        ({"message": "m", "type": "authentication_error"}, WorkerErrorKind.AUTH, False),
        ({"message": "m", "type": "invalid_request_error", "code": "invalid_api_key"}, WorkerErrorKind.AUTH, False),
        ({"message": "m", "error_type": "validation"}, WorkerErrorKind.BAD_REQUEST, False),
        ({"message": "m", "error_type": "overloaded"}, WorkerErrorKind.OVERLOADED, True),
        (
            {"message": "m", "type": "insufficient_quota", "code": "insufficient_quota"},
            WorkerErrorKind.RATE_LIMITED,
            False,
        ),
        ([{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], WorkerErrorKind.BAD_REQUEST, False),
        ({"error": {"message": "m", "code": 429, "type": "x"}}, WorkerErrorKind.RATE_LIMITED, True),
        ({"message": "m", "code": "rate_limit_exceeded"}, WorkerErrorKind.RATE_LIMITED, True),
        ({"message": "m", "type": "server_error", "code": 1}, WorkerErrorKind.UNAVAILABLE, True),
        ({"message": "m", "code": 10**30}, WorkerErrorKind.UNAVAILABLE, True),
        ("m", WorkerErrorKind.UNAVAILABLE, True),
        (["m"], WorkerErrorKind.UNAVAILABLE, True),
    ],
)
def test_errors_within_a_stream(error, kind, retryable):
    found = in_band_error(error)
    assert (found.kind, found.retryable) == (kind, retryable)
    if kind is not WorkerErrorKind.AUTH:
        assert found.message == "the backend sent an error: m"


AZURE = {
    "error": {
        "message": "The response was filtered due to the prompt triggering Azure OpenAI's content management policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
    }
}
TOO_LONG = [  # as their servers say it
    {"message": "m", "type": "invalid_request_error", "param": "messages", "code": "context_length_exceeded"},
    {"message": "This model's maximum context length is 4096 tokens. However, you requested 5000 tokens.", "code": 400},
    {"message": "You passed 15 input tokens. However, the model's context length is only 10 tokens", "code": 400},
    {"message": "The decoder prompt (length 30) is longer than the maximum model length of 20.", "code": 400},
    {
        "code": 400,
        "message": "request (9 tokens) exceeds the available context size (8 tokens), try increasing it",
        "type": "exceed_context_size_error",
        "n_ctx": 8,
    },
    "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 10. Given: 9 `inputs` tokens",
    "Input validation error: `inputs` must have less than 1024 tokens. Given: 1168",
    {"message": "The input (12 tokens) is longer than the model's context length (10 tokens)."},
    {"message": "prompt is too long: 200001 tokens > 200000 maximum", "type": "invalid_request_error"},
    {"message": "too many tokens: total number of tokens in the prompt cannot exceed 4081"},
]


@pytest.mark.parametrize("error", TOO_LONG)
@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_prompt_beyond_the_window_in_many_words(error, status):
    found = status_error(status, {}, json.dumps({"error": error}).encode(), now=NOW)
    assert (found.kind, found.retryable) == (WorkerErrorKind.CONTEXT_TOO_LONG, False)
    assert in_band_error(error).kind is WorkerErrorKind.CONTEXT_TOO_LONG


@pytest.mark.parametrize(
    "error",
    [
        AZURE,
        {"error": {"code": "content_policy_violation", "message": "no", "type": "invalid_request_error"}},
        {"error": {"innererror": {"code": "ResponsibleAIPolicyViolation"}, "message": "no"}},
        {"error": {"message": "Your request was rejected as a result of our safety system."}},
    ],
)
@pytest.mark.parametrize("status", [400, 403])
def test_content_that_a_provider_does_not_answer(error, status):
    found = status_error(status, {}, json.dumps(error).encode(), now=NOW)
    assert (found.kind, found.retryable) == (WorkerErrorKind.CONTENT_FILTERED, False)
    assert in_band_error(error["error"]).kind is WorkerErrorKind.CONTENT_FILTERED
    assert in_band_error(error).kind is WorkerErrorKind.CONTENT_FILTERED


@pytest.mark.parametrize("status", [401, 404, 429, 502, 503])
def test_where_the_status_says_it_all_words_do_not_count(status):
    """The prompt may be quoted in an error."""
    said = json.dumps({"error": {"message": "maximum context length", "code": "content_filter"}}).encode()
    assert status_error(status, {}, said, now=NOW).kind is status_error(status, {}, b"", now=NOW).kind


def test_a_quota_that_is_used_up_is_not_asked_again():
    body = json.dumps({"error": {"message": "m", "type": "insufficient_quota", "code": "insufficient_quota"}}).encode()
    error = status_error(429, {}, body, now=NOW)
    assert (error.kind, error.retryable) == (WorkerErrorKind.RATE_LIMITED, False)


def test_a_dialect_may_know_better():
    error = status_error(500, {}, b"", now=NOW, kind=WorkerErrorKind.BAD_REQUEST)
    assert (error.kind, error.retryable, error.status) == (WorkerErrorKind.BAD_REQUEST, False, 500)
    error = in_band_error({"message": "m", "code": 400}, kind=WorkerErrorKind.OVERLOADED)
    assert (error.kind, error.retryable) == (WorkerErrorKind.OVERLOADED, True)


@pytest.mark.parametrize(
    ("status", "headers", "body", "seconds"),
    [
        (429, {"retry-after": "7", "x-ratelimit-reset-requests": "1s"}, {}, 7.0),
        (429, {"x-ratelimit-reset-requests": "1s", "x-ratelimit-reset-tokens": "6m0s"}, {}, 360.0),
        (429, {"x-ratelimit-reset-requests": "1s"}, {"error": {"message": "Please try again in 20ms."}}, 0.02),
        (503, {"x-ratelimit-reset-requests": "1s"}, {}, None),  # sent with every answer: says nothing of an overload
        (503, {}, {"error": {"message": "busy, retry after 3 seconds"}}, 3.0),
        (500, {}, {"error": {"message": "busy, retry after 3 seconds"}}, None),
        (429, {}, {"error": {"message": "m", "retry_after": 2.5}}, 2.5),
    ],
)
def test_the_wait_is_looked_for_where_it_may_be(status, headers, body, seconds):
    assert status_error(status, headers, json.dumps(body).encode(), now=NOW).retry_after == seconds


def test_an_error_within_a_stream_may_tell_the_wait():
    assert in_band_error({"code": 429, "message": "Please try again in 1.5s"}).retry_after == 1.5
    assert in_band_error({"code": 500, "message": "Please try again in 1.5s"}).retry_after is None


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(NAMES, inner, max_size=4),
    max_leaves=12,
)


@given(anything, st.sampled_from([400, 403, 429, 500, 503]))
def test_no_error_object_is_too_strange(error, status):
    for found in (in_band_error(error), status_error(status, {}, json.dumps(error).encode(), now=NOW)):
        assert isinstance(found.kind, WorkerErrorKind)
        assert found.retry_after is None or 0 <= found.retry_after <= 86_400
        assert len(found.message) < 600
