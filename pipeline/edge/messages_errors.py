"""Errors in Anthropic's shape.

Source: Anthropic API reference, "Errors".
"""

from typing import Literal

import msgspec

from pipeline.core.errors import HeadgateError, Overloaded

ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
    "timeout_error",
]

_TYPES: dict[int, ErrorType] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}


class MessageErrorObject(msgspec.Struct, frozen=True):
    type: ErrorType
    message: str


class MessageError(msgspec.Struct, kw_only=True, frozen=True):
    """What went wrong, in the shape that Anthropic's clients expect."""

    type: Literal["error"] = "error"
    error: MessageErrorObject
    request_id: str | None = None


def message_error(error: HeadgateError, request_id: str | None) -> bytes:
    """The error object; in a stream, the data of an `error` event."""
    message = error.message
    try:
        return msgspec.json.encode(MessageError(error=MessageErrorObject(_type(error), message), request_id=request_id))
    except UnicodeEncodeError:  # bytes of a head that are no UTF-8 became lone surrogates
        message = message.encode("utf-8", "replace").decode()
        return msgspec.json.encode(MessageError(error=MessageErrorObject(_type(error), message), request_id=request_id))


def _type(error: HeadgateError) -> ErrorType:
    if isinstance(error, Overloaded):
        return "overloaded_error"
    return _TYPES.get(error.status) or ("api_error" if error.status >= 500 else "invalid_request_error")
