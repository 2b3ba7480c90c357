"""What a server of Anthropic's Messages says when it does not answer, as `WorkerError`.

Source: Anthropic API reference, "Errors" (types, their statuses, the shape of an error) and "Streaming Messages" (error
events).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from workers.errors import WorkerError, WorkerErrorKind
from workers.refusals import in_band_error, status_error

# Types that leave nothing to ask. What an invalid_request_error is about, its words tell.
_KINDS = {
    "authentication_error": WorkerErrorKind.AUTH,
    "permission_error": WorkerErrorKind.AUTH,
    "rate_limit_error": WorkerErrorKind.RATE_LIMITED,
    "overloaded_error": WorkerErrorKind.OVERLOADED,
    "timeout_error": WorkerErrorKind.TIMEOUT,
    "api_error": WorkerErrorKind.UNAVAILABLE,
}


class _Error(msgspec.Struct):
    type: str = ""


class _Body(msgspec.Struct):
    error: _Error | None = None


_decode = msgspec.json.Decoder(_Body).decode


def refusal(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Sequence[str] = ()
) -> WorkerError:
    """The error for an answer whose status is not 2xx; see `workers.refusals.status_error` for the arguments. The
    error's type goes before the status."""
    try:
        error = _decode(body).error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        error = None
    kind = None if error is None else _KINDS.get(error.type)
    return status_error(status, headers, body, now=now, secrets=secrets, kind=kind)


def in_band(error: Any, *, secrets: Sequence[str] = ()) -> WorkerError:
    """The error for a decoded error object in a stream, or where a whole answer should be."""
    said = error.get("type") if isinstance(error, dict) else None
    kind = _KINDS.get(said) if isinstance(said, str) else None
    return in_band_error(error, secrets=secrets, kind=kind)
