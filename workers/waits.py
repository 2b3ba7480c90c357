"""How long a backend that refuses a call wants to be left alone: from headers, error objects and their words.

Sources: RFC 9110, 10.2.3 (`Retry-After`); OpenAI's `x-ratelimit-*` headers, whose durations are written as Go's
`time.Duration` prints them; Google's `RetryInfo`.
"""

import email.utils
import math
import re
from collections.abc import Mapping
from typing import Any

_MAX_WAIT = 86_400.0  # seconds
_SEARCHED = 4096  # characters of a message
_UNITS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_DURATION = r"(?:\d+(?:\.\d+)?(?:ns|us|µs|ms|h|m(?!s)|s)){1,6}"
_PARTS = re.compile(r"(\d+(?:\.\d+)?)(ns|us|µs|ms|h|m|s)", re.ASCII)
_WHOLE = re.compile(_DURATION, re.ASCII)
_WORDS = re.compile(
    rf"(?:try again|retry)\s+(?:after|in)\s+"
    rf"(?:(?P<duration>{_DURATION})|(?P<seconds>\d+(?:\.\d+)?)\s*(?:second|sec\b))",
    re.ASCII | re.IGNORECASE,
)
_RESET = "x-ratelimit-reset-"
_REMAINING = "x-ratelimit-remaining-"
_FIELDS = ("retry_after", "retry_after_seconds", "retryAfter")


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds to wait, by `retry-after-ms`, else by `Retry-After` (seconds or a date)."""
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


def asked_wait(headers: Mapping[str, str]) -> float | None:
    """Seconds until a limit that is used up is whole again, by `x-ratelimit-reset-*`; the longest, where the headers do
    not say which that is."""
    used_up: list[float] = []
    others: list[float] = []
    for name, value in headers.items():
        unit = name.lower().removeprefix(_RESET)
        if len(unit) == len(name) or (seconds := duration(value)) is None:
            continue
        remaining = _number(headers.get(_REMAINING + unit))
        (used_up if remaining is not None and remaining <= 0 else others).append(seconds)
    return max(used_up or others, default=None)


def told_wait(error: Any, message: str) -> float | None:
    """Seconds to wait as an error object tells: in a field of its own, else in its message."""
    seconds = _field(error)
    if seconds is not None:
        return seconds
    found = _WORDS.search(message[:_SEARCHED])
    if found is None:
        return None
    return _bounded(float(found["seconds"])) if found["seconds"] else duration(found["duration"])


def duration(text: str) -> float | None:
    """Seconds of a Go duration such as `1m30s` or `20ms`, or of a bare number of seconds; None for anything else."""
    text = text.strip()
    if len(text) > 64:
        return None
    if _WHOLE.fullmatch(text):
        return _bounded(sum(float(count) * _UNITS[unit] for count, unit in _PARTS.findall(text)))
    seconds = _number(text)
    return None if seconds is None or not 0 <= seconds <= _MAX_WAIT else seconds


def _field(error: Any) -> float | None:
    """Of the error, of what it is about, or of Google's `details`."""
    if not isinstance(error, dict):
        return None
    inner = error.get("error")
    for fields in (error, inner if isinstance(inner, dict) else {}):
        for name in _FIELDS:
            value = fields.get(name)
            if isinstance(value, int | float) and not isinstance(value, bool):
                return _bounded(float(value)) if abs(value) < 1e18 else None
        details = fields.get("details")
        for detail in details[:8] if isinstance(details, list) else ():
            delay = detail.get("retryDelay") if isinstance(detail, dict) else None
            if isinstance(delay, str):
                return duration(delay)
    return None


def _number(value: str | None) -> float | None:
    try:
        return float(value or "")
    except ValueError:
        return None


def _bounded(seconds: float) -> float | None:
    return min(max(0.0, seconds), _MAX_WAIT) if math.isfinite(seconds) else None
