"""What a backend says when it does not answer: HTTP statuses and error objects as `WorkerError`."""

import email.utils
import math
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from workers.errors import WorkerError, WorkerErrorKind

_REFUSED = frozenset({400, 404, 409, 413, 422})
_UNAUTHORIZED = frozenset({401, 403})
_TOO_SOON = frozenset({408, 425})  # client errors that say nothing against the request
_MAX_MESSAGE = 500  # characters of the backend's own words
_MAX_WAIT = 86_400.0  # seconds
_DEPTH = 4  # how deep in an error object a message is looked for


def status_error(
    status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Sequence[str] = ()
) -> WorkerError:
    """The error for an answer whose status is not 2xx.

    `headers` are looked up in lower case, `body` may be cut, `now` is the time of day (Unix, seconds). `secrets` are
    never repeated in the message, and nothing that the backend says about credentials is.
    """
    kind, retryable = _meaning(status)
    told = _told(kind, message_in(body), secrets)
    wait = retry_after(headers, now)
    return WorkerError(
        kind, f"the backend answered {status}{told}", retryable=retryable, retry_after=wait, status=status
    )


def in_band_error(error: Any, *, secrets: Sequence[str] = ()) -> WorkerError:
    """The error for a decoded error object that came where an answer, or the rest of one, should be."""
    kind, retryable = _meaning(_status_in(error))
    told = _told(kind, _text_of(error), secrets)
    return WorkerError(kind, f"the backend sent an error{told}", retryable=retryable)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, by `retry-after-ms`, else by `Retry-After` (RFC 9110, 10.2.3: seconds or a date)."""
    milliseconds = _number(headers.get("retry-after-ms"))
    if milliseconds is not None:
        return _bounded(milliseconds / 1000)
    value = headers.get("retry-after")
    seconds = _number(value)
    if seconds is not None:
        return _bounded(seconds)
    try:
        date = email.utils.parsedate_tz(value or "")
        return None if date is None else _bounded(email.utils.mktime_tz(date) - now)
    except (ValueError, OverflowError):  # a date with numbers that no calendar has
        return None


def message_in(body: bytes) -> str:
    """The words of an error body: OpenAI's `error.message`, FastAPI's `detail`, or plain text; empty for HTML."""
    try:
        return _text_of(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        text = body.decode(errors="replace").strip()
        return "" if text.startswith("<") else text


def _meaning(status: int) -> tuple[WorkerErrorKind, bool]:
    """What a status says, and whether the same call may succeed later or elsewhere."""
    if status in _REFUSED:
        return WorkerErrorKind.REFUSED, False
    if status in _UNAUTHORIZED:
        return WorkerErrorKind.UNAUTHORIZED, False
    if status == 429:
        return WorkerErrorKind.RATE_LIMITED, True
    return WorkerErrorKind.STATUS, status >= 500 or status in _TOO_SOON


def _status_in(error: Any) -> int:
    """The status that an error object stands for: its `code` where that is one, else by OpenAI's words for types."""
    fields = error if isinstance(error, dict) else {}
    code = fields.get("code")
    if isinstance(code, str) and len(code) == 3 and code.isdecimal():
        code = int(code)
    if isinstance(code, int) and 400 <= code <= 599:
        return code
    words = f"{code} {fields.get('type')}"
    if "invalid_request" in words or "context_length" in words:
        return 400
    return 429 if "rate_limit" in words or "insufficient_quota" in words else 500


def _told(kind: WorkerErrorKind, message: str, secrets: Sequence[str]) -> str:
    if kind is WorkerErrorKind.UNAUTHORIZED:
        return " to our credentials"  # backends repeat keys, or parts of them, here
    for secret in secrets:
        message = message.replace(secret, "[secret]")
    message = " ".join(message.split())
    if len(message) > _MAX_MESSAGE:
        message = message[: _MAX_MESSAGE - 1] + "…"
    return f": {message}" if message else ""


def _text_of(error: Any, depth: int = _DEPTH) -> str:
    match error:
        case str():
            return error
        case list() if depth:
            return "; ".join(filter(None, [_text_of(item, depth - 1) for item in error[:3]]))
        case {"msg": str(text), "loc": list(where)}:  # an item of FastAPI's `detail`
            return f"{'.'.join(map(str, where))}: {text}"
        case dict() if depth:
            texts = (_text_of(error.get(key), depth - 1) for key in ("error", "message", "detail"))
            return next(filter(None, texts), "")
        case _:
            return ""


def _number(value: str | None) -> float | None:
    try:
        return float(value or "")
    except ValueError:
        return None


def _bounded(seconds: float) -> float | None:
    return min(max(0.0, seconds), _MAX_WAIT) if math.isfinite(seconds) else None
