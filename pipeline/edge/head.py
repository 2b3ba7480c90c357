"""What a request's head says: ids, session, deadline, key, class."""

import itertools
import math
import re
import secrets
from collections.abc import Callable, Mapping
from typing import Annotated

from msgspec import Meta
from multidict import MultiMapping, istr

from pipeline.core.errors import InvalidRequest

REQUEST_ID = istr("X-Request-Id")
SESSION_ID = istr("X-Session-Id")
TIMEOUT = istr("X-Request-Timeout-Ms")
CLIENT_READ_TIMEOUT = istr("x-stainless-read-timeout")
TRACEPARENT = istr("traceparent")
AUTHORIZATION = istr("Authorization")
API_KEY = istr("x-api-key")
CLASS = istr("X-Headgate-Class")

TIMEOUT_MAX_MS = 86_400_000
SESSION_PATTERN = r"^[^\x00-\x1f\x7f-\x9f]*$(?!\n)"  # Python's $ would let a newline at the end pass
SessionId = Annotated[str, Meta(max_length=256, pattern=SESSION_PATTERN)]
TimeoutMs = Annotated[int, Meta(ge=1, le=TIMEOUT_MAX_MS)]

_is_request_id = re.compile(r"[!-~]{1,128}").fullmatch
_is_traceparent = re.compile(r"[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_bearer = re.compile(r"bearer +(.*)", re.IGNORECASE).fullmatch
_is_session_id = re.compile(r"[ -~]{0,256}").fullmatch


def request_ids() -> Callable[[], str]:
    """A source of ids that no other process draws: its own random part and a counter."""
    prefix, counter = secrets.token_hex(8), itertools.count(1)
    return lambda: f"{prefix}{next(counter):06x}"


def request_id(headers: Mapping[str, str], fresh: Callable[[], str]) -> str:
    """The client's id where it is 1 to 128 visible ASCII characters, else a fresh one."""
    given = headers.get(REQUEST_ID)
    return given if given is not None and _is_request_id(given) else fresh()


def traceparent(headers: Mapping[str, str]) -> str | None:
    """The client's trace context (W3C Trace Context, version 00), if it is one."""
    given = headers.get(TRACEPARENT)
    return given if given is not None and _is_traceparent(given) else None


def session_id(headers: Mapping[str, str]) -> str | None:
    """Raises `InvalidRequest` for an id that is too long or not printable ASCII."""
    given = headers.get(SESSION_ID)
    if given is not None and not _is_session_id(given):
        raise InvalidRequest(
            f"Invalid header {SESSION_ID}: expected at most 256 printable ASCII characters", param=str(SESSION_ID)
        )
    return given or None


def presented_key(headers: MultiMapping[str]) -> str | None:
    """What a client presents as its API key: of `Authorization: Bearer KEY`, else of `x-api-key`; None without either.

    Unchecked, and no key at all where the scheme is another one or a header comes twice.
    """
    given = _value(headers, AUTHORIZATION)
    if given is None:
        return _value(headers, API_KEY)
    bearer = _bearer(given)
    return bearer[1] if bearer else ""


def asked_class(headers: MultiMapping[str]) -> str | None:
    """The class that a client asks for, unchecked."""
    return _value(headers, CLASS)


def timeout(headers: MultiMapping[str]) -> float | None:
    """The client's own deadline in seconds. Raises `InvalidRequest` unless it is a positive number of milliseconds."""
    given = _value(headers, TIMEOUT)
    if given is None:
        return None
    milliseconds = int(given) if given.isascii() and given.isdigit() and len(given) <= 12 else 0
    if not 0 < milliseconds <= TIMEOUT_MAX_MS:
        raise InvalidRequest(
            f"Invalid header {TIMEOUT}: expected whole milliseconds from 1 to {TIMEOUT_MAX_MS}, got {given[:40]!r}",
            param=str(TIMEOUT),
        )
    return milliseconds / 1000


def gap_limit(headers: Mapping[str, str]) -> float | None:
    """How long the official clients wait for the next bytes, in seconds. They send it unasked: nonsense is ignored."""
    given = headers.get(CLIENT_READ_TIMEOUT)
    if given is None:
        return None
    try:
        seconds = float(given)
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) and seconds > 0 else None


def _value(headers: MultiMapping[str], name: istr) -> str | None:
    """A header's value; of several lines the values joined with commas, as RFC 9110, 5.3 reads them, which is no valid
    value of those that are read so."""
    given = headers.get(name)
    if given is None:
        return None
    lines = headers.getall(name)
    return given if len(lines) == 1 else ", ".join(lines)
