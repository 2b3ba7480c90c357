"""Notices a process whose event loop does not turn."""

from collections.abc import Hashable, Mapping
from typing import Generic, TypeVar

_P = TypeVar("_P", bound=Hashable)


class PulseWatch(Generic[_P]):
    """Looks at pulses again and again, about every `interval` seconds, and tells which have stood still for `limit`.

    Only time in which the watch itself looked regularly counts: when the machine slept, or this process did not get to
    run, the others may have had no chance either.
    """

    def __init__(self, limit: float, interval: float) -> None:
        self.limit = limit
        self._longest = 2 * interval  # counted between two looks
        self._looked: float | None = None
        self._seen: dict[_P, tuple[float, float]] = {}  # the pulse, and for how long it has been the same

    def look(self, pulses: Mapping[_P, float], now: float) -> dict[_P, float]:
        """The blocked ones, with the seconds for which they are; each is told once."""
        passed = 0.0 if self._looked is None else min(now - self._looked, self._longest)
        self._looked = now
        before, self._seen = self._seen, {}
        blocked: dict[_P, float] = {}
        for who, pulse in pulses.items():
            last, still = before.get(who, (pulse, 0.0))
            still = still + passed if pulse == last else 0.0
            self._seen[who] = (pulse, still)
            if still >= self.limit > still - passed:
                blocked[who] = still
        return blocked
