"""What the door decides, as functions of numbers.

The wait of a newcomer is estimated from the work before it and the measured rate of its worker, and compared with what
it may wait: admission on estimated delay, as in Welsh and Culler, "Adaptive Overload Control for Busy Internet Servers"
(USITS 2003, of SEDA), DAGOR (Zhou et al., "Overload Control for Scaling WeChat Microservices", SoCC 2018) and
Breakwater (Cho et al., OSDI 2020).
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.core.outcomes import Reason

RETRY_AFTER_MIN = 1.0
RETRY_AFTER_MAX = 60.0
AUTO_BUDGET_MIN = 0.4  # seconds
AUTO_BUDGET_MAX = 10.0
AUTO_BUDGET_LAST = 60.0  # also where places become free more seldom than every ten seconds
STANDING_SHARE = 0.2  # of the budget: what may be waited while the queue stands


class Allowance(NamedTuple):
    """Seconds that a newcomer may have to wait, and why it is refused if it would be more."""

    seconds: float
    reason: Reason


def estimated_wait(ahead: int, limit: int, inflight: int, hold: float, share: float) -> float:
    """Seconds until a newcomer starts that has `ahead` requests before it.

    `limit` calls may run at once now and `inflight` do, `share` may on average over time, and each takes `hold` seconds
    (0.0: not known): the worker takes `share / hold` requests a second (Little's law). 0.0 when there is a free place
    for it now.
    """
    beyond = ahead + 1 - max(limit - inflight, 0)
    return beyond * hold / share if beyond > 0 else 0.0


def wait_budget(configured: float | None, limit: float, hold: float) -> float:
    """Seconds that a request may wait. None: 0.4 seconds, or as long as a typical answer takes where that is longer,
    at most ten; but so long that somebody waits when the next place becomes free, at most a minute."""
    if configured is not None:
        return configured
    usual = min(max(hold, AUTO_BUDGET_MIN), AUTO_BUDGET_MAX)
    return max(usual, min(_next_place(limit, hold), AUTO_BUDGET_LAST))


def standing_target(budget: float, limit: float, hold: float) -> float:
    """Seconds that a request may wait in a queue that stands: a fifth of the budget, but never so little that
    places at the worker stay empty until somebody else asks."""
    return min(budget, max(STANDING_SHARE * budget, _next_place(limit, hold)))


def _next_place(limit: float, hold: float) -> float:
    """Seconds in which some places become free: one, and an eighth of the limit; and a fifth more, for an estimate."""
    return 1.2 * (1 + limit / 8) * hold / limit


def allowance(budget: float, deadline: float, typical: float) -> Allowance:
    """The smaller of `budget` and what the deadline, in `deadline` seconds, leaves after a `typical` answer."""
    left = deadline - typical
    return Allowance(budget, Reason.WAIT_BUDGET) if budget <= left else Allowance(left, Reason.TOO_LATE)


def retry_after(waiting: float, rate: float) -> float:
    """Seconds until `waiting` requests have been taken at `rate` a second: when a refused caller should come back.

    Between 1 and 60: a rate of zero means that nothing is known but that it is bad.
    """
    if rate <= 0:
        return RETRY_AFTER_MAX if waiting else RETRY_AFTER_MIN
    return min(max(waiting / rate, RETRY_AFTER_MIN), RETRY_AFTER_MAX)


def bulkhead(capacity: int, own: int, others: Sequence[int]) -> int:
    """How many more of `capacity` common places somebody may take who holds `own` beside `others`.

    Half of all places are kept for each in equal parts, so that whoever hangs on to its places leaves the others some.
    """
    kept = capacity // (2 * (len(others) + 1))
    free = capacity - own
    for held in others:
        free -= max(kept, held)
    return max(free, kept - own)


def jittered(seconds: float, chance: float) -> float:
    """`seconds`, half as much to half as much again by `chance` (0.0 to 1.0), and still within 1 to 60: who was refused
    together must not come back together."""
    return min(max(seconds * (0.5 + chance), RETRY_AFTER_MIN * (1.0 + 0.25 * chance)), RETRY_AFTER_MAX)
