"""The errors of HTTP itself, and how every error is told to a client.

InvalidRequest
├── MalformedHttp         the head is not HTTP (400)
├── HeadTooLarge          head over the limit (431)
├── UnknownPath           nothing is served there (404)
├── WrongMethod           the path is served, but not for this method (405)
├── UnsupportedMedia      the body is compressed, or a form (415)
├── UnknownExpectation    an `Expect` other than `100-continue` (417)
├── InvalidJson           the body is not JSON in UTF-8 (400)
├── MissingParameter      a required field is not there (400)
├── UnknownParameter      a field that the native dialect does not have (400)
└── InvalidType           a field of another type than expected (400)
HeadgateError
└── MetricsUnavailable    the supervisor could not be asked (503)
"""

import math
from collections.abc import Sequence
from http import HTTPStatus

import msgspec

from pipeline.core.errors import HeadgateError, InvalidRequest, Overloaded, Unauthorized


class MalformedHttp(InvalidRequest):
    code = "malformed_http"


class HeadTooLarge(InvalidRequest):
    status = 431
    code = "request_head_too_large"


class UnknownPath(InvalidRequest):
    status = 404
    code = "unknown_url"


class WrongMethod(InvalidRequest):
    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: Sequence[str]) -> None:
        super().__init__(message)
        self.allowed = allowed


class UnsupportedMedia(InvalidRequest):
    status = 415
    code = "unsupported_media_type"


class UnknownExpectation(InvalidRequest):
    status = 417
    code = "expectation_failed"


class InvalidJson(InvalidRequest):
    code = "invalid_json"


class MissingParameter(InvalidRequest):
    code = "missing_required_parameter"


class UnknownParameter(InvalidRequest):
    code = "unknown_parameter"


class InvalidType(InvalidRequest):
    code = "invalid_type"


class MetricsUnavailable(HeadgateError):
    status = 503
    code = "metrics_unavailable"


class ErrorObject(msgspec.Struct, frozen=True):
    """What went wrong. `param` names the request's field at fault, `code` is for programs, `message` for people."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(msgspec.Struct, frozen=True):
    error: ErrorObject


def error_json(error: HeadgateError) -> bytes:
    """The OpenAI-style error object."""
    body = ErrorBody(ErrorObject(error.message, error.type, error.param, error.code))
    try:
        return msgspec.json.encode(body)
    except UnicodeEncodeError:  # bytes of a head that are no UTF-8 became lone surrogates
        message = error.message.encode("utf-8", "replace").decode()
        return msgspec.json.encode(ErrorBody(ErrorObject(message, error.type, None, error.code)))


def error_fields(error: HeadgateError) -> str:
    """Header lines: when to come back, if ever; for a shed request where and why; without a valid key, how one is sent;
    for a wrong method, which are right.

    `retry-after-ms` and `x-should-retry` are what the official clients read.
    """
    fields = ""
    if error.retry_after is not None:
        fields += f"Retry-After: {math.ceil(error.retry_after)}\r\n"
        fields += f"retry-after-ms: {math.ceil(1000 * error.retry_after)}\r\n"
    if error.retry is not None:
        fields += f"x-should-retry: {'true' if error.retry else 'false'}\r\n"
    if isinstance(error, Overloaded):
        fields += f"X-Headgate-Shed-Stage: {error.place}\r\nX-Headgate-Shed-Reason: {error.reason}\r\n"
    elif isinstance(error, Unauthorized):
        fields += 'WWW-Authenticate: Bearer realm="headgate"\r\n'
    elif isinstance(error, WrongMethod):
        fields += f"Allow: {', '.join(error.allowed)}\r\n"
    return fields


def refusal_bytes(error: HeadgateError) -> bytes:
    """A whole answer, for connections on which no request is being handled; it says that they close."""
    body = error_json(error)
    head = (
        f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\nServer: headgate\r\nConnection: close\r\n{error_fields(error)}\r\n"
    )
    return head.encode() + body
