import json

import pytest

from workers.errors import WorkerErrorKind
from workers.refusals import in_band_error, message_in, retry_after, status_error

NOW = 1_700_000_000.0  # Tue, 14 Nov 2023 22:13:20 GMT


@pytest.mark.parametrize(
    ("status", "kind", "retryable"),
    [
        (400, WorkerErrorKind.REFUSED, False),
        (404, WorkerErrorKind.REFUSED, False),
        (409, WorkerErrorKind.REFUSED, False),
        (413, WorkerErrorKind.REFUSED, False),
        (422, WorkerErrorKind.REFUSED, False),
        (401, WorkerErrorKind.UNAUTHORIZED, False),
        (403, WorkerErrorKind.UNAUTHORIZED, False),
        (429, WorkerErrorKind.RATE_LIMITED, True),
        (500, WorkerErrorKind.STATUS, True),
        (503, WorkerErrorKind.STATUS, True),
        (599, WorkerErrorKind.STATUS, True),
        (301, WorkerErrorKind.STATUS, False),
        (307, WorkerErrorKind.STATUS, False),
        (402, WorkerErrorKind.STATUS, False),
        (408, WorkerErrorKind.STATUS, True),
        (418, WorkerErrorKind.STATUS, False),
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
    ("error", "kind", "retryable"),
    [
        ({"message": "m", "code": 400, "type": "BadRequestError"}, WorkerErrorKind.REFUSED, False),
        ({"message": "m", "code": "429"}, WorkerErrorKind.RATE_LIMITED, True),
        ({"message": "m", "code": 503}, WorkerErrorKind.STATUS, True),
        ({"message": "m", "code": 403}, WorkerErrorKind.UNAUTHORIZED, False),
        ({"message": "m", "type": "invalid_request_error", "code": None}, WorkerErrorKind.REFUSED, False),
        ({"message": "m", "code": "context_length_exceeded"}, WorkerErrorKind.REFUSED, False),
        ({"message": "m", "code": "rate_limit_exceeded"}, WorkerErrorKind.RATE_LIMITED, True),
        ({"message": "m", "type": "server_error", "code": 1}, WorkerErrorKind.STATUS, True),
        ({"message": "m", "code": 10**30}, WorkerErrorKind.STATUS, True),
        ("m", WorkerErrorKind.STATUS, True),
        (["m"], WorkerErrorKind.STATUS, True),
    ],
)
def test_errors_within_a_stream(error, kind, retryable):
    found = in_band_error(error)
    assert (found.kind, found.retryable) == (kind, retryable)
    if kind is not WorkerErrorKind.UNAUTHORIZED:
        assert found.message == "the backend sent an error: m"
