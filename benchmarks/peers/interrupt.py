"""Ctrl-C and SIGTERM while processes are started, awaited and ended."""

import signal
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

TICK = 0.05  # seconds

Tick = Callable[[], None]
"""Called again and again by whoever waits: sleeps a moment, raises Interrupted when the waiting has to end."""


class Interrupted(Exception):
    """Raised by a tick after Ctrl-C or SIGTERM, so only where somebody waits: never between the start of a process and
    the moment from which on it will be ended."""


class Interrupt:
    """As a context, takes the two signals; `count` says how many came."""

    def __init__(self) -> None:
        self.count = 0
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._came)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def tick(self) -> None:
        if self.count:
            raise Interrupted
        time.sleep(TICK)

    def _came(self, _number: int, _frame: FrameType | None) -> None:
        self.count += 1
