"""How long checking a definition may take: whoever checks part of it asks now and then."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

CHECK_S = 5.0  # for all of a definition

_until: ContextVar[float] = ContextVar("until")


class TookTooLong(Exception):
    """The time is over."""


@contextmanager
def until(moment: float) -> Iterator[None]:
    """What is done inside may take so long (monotonic clock)."""
    token = _until.set(moment)
    try:
        yield
    finally:
        _until.reset(token)


def go_on() -> None:
    """Raises `TookTooLong`, where there is a limit."""
    moment = _until.get(None)
    if moment is not None and time.monotonic() > moment:
        raise TookTooLong
