"""What was possible: the same arrivals, in virtual time, before the same capacity, with an admission that costs nothing
and knows everything.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from benchmarks.histogram import Histogram
from benchmarks.service import Service


class Arrival(NamedTuple):
    """`at` in seconds since the phase began; `patience` is how long its client waits, None for ever."""

    at: float
    number: int
    words: int
    max_tokens: int | None
    patience: float | None


class Possible(NamedTuple):
    """What the oracle served: `ends` are the seconds at which it completed a request, in order."""

    completed: int
    refused: int
    latency: Histogram
    ends: list[float]


def possible(
    arrivals: Iterable[Arrival],
    service: Service,
    *,
    wait_budget: float,
    changes: Sequence[tuple[float, Service]] = (),
) -> Possible:
    """Serve in order of arrival what can start within `wait_budget` seconds and end within its client's patience.

    `changes`: from these seconds on, the backend is another (in order of time). Requests under way keep their slot.
    """
    raise NotImplementedError
