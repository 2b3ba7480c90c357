"""How often and how soon what failed is tried again.

The budget is a token bucket that requests fill, as in Finagle's RetryBudget: retries stay a share of the requests
however many fail, so that a backend that is down gets no multiple of its load from us. The pause is the "full jitter"
of Marc Brooker, "Exponential Backoff and Jitter" (AWS Architecture Blog, 2015).
"""


class RetryBudget:
    """Each request deposits `share` of a retry. `reserve` is there from the start, so that the first requests may be
    tried again as well; `most` is what a quiet time can save. With a share of 0.0 there are no retries at all."""

    __slots__ = ("_balance", "_most", "_reserve", "share")

    def __init__(self, share: float, reserve: float = 25.0, most: float = 500.0) -> None:
        self.share = 0.0
        self._reserve = min(reserve, most)
        self._most = most
        self._balance = 0.0
        self.renew(share)

    @property
    def balance(self) -> float:
        """How many retries it would give now."""
        return self._balance

    def renew(self, share: float) -> None:
        """Another share from now on. With the first that is not 0.0 the reserve is there."""
        if share <= 0.0:
            self._balance = 0.0
        elif self.share <= 0.0:
            self._balance = self._reserve
        self.share = share

    def request(self) -> None:
        """A request has come, not a retry of one."""
        self._balance = min(self._balance + self.share, self._most)

    def take(self) -> bool:
        """Whether there is a retry left; it is then taken."""
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True


def pause(attempt: int, base: float, cap: float, chance: float) -> float:
    """Seconds before retry number `attempt` (the first is 0) at a `chance` from 0.0 to below 1.0."""
    return chance * min(cap, base * 2.0 ** min(attempt, 64))
