"""How long before a step that failed is tried again."""

import random
from collections.abc import Callable

from pipeline.workflow.definition import Retry

DEFAULT_JITTER = 0.5


def delay(retry: Retry, failures: int, *, retry_after: float | None = None, chance: float = 0.0) -> float:
    """Seconds before the attempt that follows `failures` (from 1) failed ones. The delay grows as `retry.backoff` says,
    up to its longest, and `chance`, from 0.0 to 1.0, takes that share of the jitter off it; never sooner than
    `retry_after`."""
    turn = failures - 1
    if retry.backoff == "exponential":
        grown = retry.initial_delay_ms * 2.0 ** min(turn, 64)
    elif retry.backoff == "linear":
        grown = float(retry.initial_delay_ms * (turn + 1))
    else:
        grown = float(retry.initial_delay_ms)
    milliseconds = min(grown, retry.max_delay_ms) * (1.0 - jitter_of(retry) * chance)
    return max(milliseconds / 1000, retry_after or 0.0)


def jitter_of(retry: Retry) -> float:
    """The share of a delay that chance may take away."""
    if isinstance(retry.jitter, bool):
        return DEFAULT_JITTER if retry.jitter else 0.0
    return float(retry.jitter)


def postponed(retry_after: float, times: int, chance: Callable[[], float] = random.random) -> float:
    """Seconds before a step that found no place asks again, the `times`th time (from 1). Never sooner than it was told;
    up to half as long again, so that those who were told the same do not come together; and where it is told again and
    again to come back soon, a little later each time."""
    least = max(retry_after, min(0.05 * 1.5 ** min(times - 1, 16), 5.0))
    return least * (1.0 + 0.5 * chance())
