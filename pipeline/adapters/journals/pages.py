"""Cursors of lists: where a page ends, as clients hand it back."""

import base64
import binascii

from pipeline.core.errors import InvalidRequest

_MARK = b"run:"
_LARGEST = (1 << 63) - 1


def cursor(place: int) -> str:
    return base64.urlsafe_b64encode(_MARK + str(place).encode()).decode().rstrip("=")


def place_of(after: str | None) -> int:
    """Runs before this place follow; all do where nothing was asked for. Raises `InvalidRequest`."""
    if after is None:
        return _LARGEST
    try:
        raw = base64.b64decode(after + "=" * (-len(after) % 4), altchars=b"-_", validate=True)
        mark, digits = raw[: len(_MARK)], raw[len(_MARK) :]
        if mark == _MARK and digits.isdigit() and int(digits) <= _LARGEST:
            return int(digits)
    except (binascii.Error, ValueError):
        pass
    raise InvalidRequest("after is not the `next` of a page of runs", param="after")
