"""A shard's part of the limits of keys and of workers' quotas: credit for so much a minute, places for so many at once.

What is here was taken from what all shards have in common, so that using it asks nobody. What has not been used for a
moment goes back, and what was used beyond it is owed there.
"""

from math import ceil, floor
from typing import NamedTuple

from pipeline.policy.leases_limit import LeasedLimit
from pipeline.policy.limits import ROUNDING, Lender

FRESH = 0.05  # seconds in which what was told about the rest is taken to be so
QUIET = 3  # ticks without use, after which all goes back
AHEAD = 4.0  # ticks of recent use that are kept here
STANDING = 16  # of a worker's quota, that part is kept here also without use
_SOON = 0.05  # seconds, for what is there and only has to be fetched
_RECALLED = 1.0  # seconds without a standing part, after others wanted it


class AccountNews(NamedTuple):
    """`used` of what was held here, less what was given back; `returned` to the common stock, where less than nothing
    is a debt handed over. `working` is asked for to go on with."""

    used: float
    returned: float
    working: float


class Answer(NamedTuple):
    """`amount` more may be used, less than nothing: is to be given back as soon as it is free. `level` is left for all
    shards beyond what this one holds; `recall`: others want what lies unused here. `parties` share what comes in."""

    amount: float
    level: float
    recall: bool = False
    parties: int = 1


class Register:
    """The parts of limits that have something to report, and who lends to them."""

    def __init__(self) -> None:
        self.active: dict[str, Credit | LeasedPlaces] = {}
        self.lender: Lender | None = None


class Credit:
    """`Bucket` whose stock is elsewhere. `whole`: only whole units are of use. `pool` is the limit of the worker whose
    quota this is, None for a key's."""

    __slots__ = (
        "_at",
        "_free",
        "_left",
        "_parties",
        "_quiet",
        "_recalled_at",
        "_recent",
        "_register",
        "_told",
        "_used",
        "account",
        "burst",
        "pool",
        "rate",
        "whole",
    )

    def __init__(
        self, account: str, rate: float, burst: float, register: Register, *, whole: bool, pool: LeasedLimit | None
    ) -> None:
        self.account = account
        self.rate = rate
        self.burst = burst
        self.whole = whole
        self.pool = pool
        self._register = register
        self._left = 0.0
        self._used = 0.0  # since the last report
        self._recent = 0.0  # used a tick
        self._quiet = 0
        self._free = burst  # elsewhere, when it was last told: nobody has used what was never heard of
        self._at = -FRESH
        self._told = False
        self._parties = 1
        self._recalled_at = -_RECALLED
        if pool is not None:
            register.active[account] = self

    @property
    def lender(self) -> Lender | None:
        return self._register.lender

    def retune(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst

    def detach(self) -> None:
        """Whoever still uses it is the last."""
        self._register.active.pop(self.account, None)
        self._register = Register()

    def level(self, now: float) -> float:  # noqa: ARG002 - Bucket has it
        return self._left

    def remaining(self, now: float) -> float:
        return self._left + self._elsewhere(now)

    def wait(self, amount: float, now: float) -> float:
        missing = min(amount, self.burst) - self._left
        if missing <= ROUNDING:
            return 0.0
        return max((missing - self._elsewhere(now)) / self.rate, _SOON)

    def until(self, amount: float, now: float) -> float:
        return max(amount - self.remaining(now), 0.0) * self._parties / self.rate

    def take(self, amount: float, now: float) -> None:  # noqa: ARG002 - Bucket has it
        self._left -= amount
        self._used += amount
        self._register.active[self.account] = self

    def give(self, amount: float, now: float) -> None:
        self.take(-amount, now)

    def missing(self, amount: float, now: float) -> float:
        amount = min(amount, self.burst) - self._left
        if amount <= ROUNDING:
            return 0.0
        known = self._told and 0.0 <= now - self._at < FRESH
        return 0.0 if known and amount > self._elsewhere(now) + ROUNDING else amount

    def granted(self, answer: Answer, now: float) -> bool:
        """Whether there is more than before."""
        self._left += answer.amount
        self._free, self._at, self._told, self._parties = answer.level, now, True, max(answer.parties, 1)
        self._register.active[self.account] = self
        if answer.recall:
            self._recalled_at = now
        return answer.amount > 0.0

    def news(self, now: float, *, recalled: bool = False) -> AccountNews:
        """Once a tick, or when others want what is here: what is to be told, and what is given back. Leaves the
        register when there is nothing more to tell."""
        used, self._used = self._used, 0.0
        self._quiet = 0 if used else self._quiet + 1
        self._recent += 0.5 * (max(used, 0.0) - self._recent)
        kept = 0.0 if recalled else self._kept(now)
        returned, working = self._surplus(kept), 0.0
        self._left -= returned
        if self._left < kept / 2:
            working = kept - self._left
        elif self._idle(kept):
            self._register.active.pop(self.account, None)
        return AccountNews(used, returned, working)

    def news_at_once(self) -> AccountNews:
        """Between two ticks, together with a request for more."""
        used, self._used = self._used, 0.0
        self._recent += 0.5 * max(used, 0.0)
        self._quiet = 0
        returned = min(self._left, 0.0)
        self._left -= returned
        return AccountNews(used, returned, 0.0)

    def _surplus(self, kept: float) -> float:
        if self._left < 0.0:
            return self._left
        return self._left - kept if self._left > 2 * kept else 0.0

    def _kept(self, now: float) -> float:
        """What is wanted here for the next ticks."""
        kept = AHEAD * self._recent if self._quiet < QUIET else 0.0
        if self.pool is not None:
            kept = max(kept, self._due(self.pool))
            if now - self._recalled_at >= _RECALLED:
                kept = max(kept, floor(self.burst / STANDING))
        kept = min(kept, self.burst)
        return float(ceil(kept - 0.5)) if self.whole else kept

    def _due(self, pool: LeasedLimit) -> float:
        """What the calls take that wait and have a place."""
        lane = pool.lane
        if lane is None:
            return 0.0
        calls = min(sum(lane.waiting), max(pool.limit - lane.inflight, 0))
        return float(calls) if self.whole else calls * max(lane.typical.tokens, 1.0)

    def _idle(self, kept: float) -> bool:
        return self.pool is None and not kept and not self._left and self._quiet >= QUIET

    def _elsewhere(self, now: float) -> float:
        """As far as it is known."""
        return min(self._free + max(now - self._at, 0.0) * self.rate, self.burst - max(self._left, 0.0))


class LeasedPlaces:
    """`Places` of which this shard holds some, taken or not."""

    __slots__ = (
        "_at",
        "_free",
        "_held",
        "_owed",
        "_quiet",
        "_register",
        "_returned",
        "_running",
        "_told",
        "account",
        "number",
    )

    def __init__(self, account: str, number: int, register: Register) -> None:
        self.account = account
        self.number = number
        self._register = register
        self._held = 0
        self._running = 0
        self._owed = 0  # to be given back as soon as they are free
        self._returned = 0
        self._quiet = 0
        self._free = number
        self._at = 0.0
        self._told = False

    @property
    def lender(self) -> Lender | None:
        return self._register.lender

    def detach(self) -> None:
        """Whoever still uses it is the last."""
        self._register.active.pop(self.account, None)
        self._register = Register()

    @property
    def left(self) -> int:
        return self._held - self._running

    def take(self) -> None:
        self._running += 1
        self._quiet = 0
        self._register.active[self.account] = self

    def free(self) -> None:
        self._running -= 1
        self._give_up(min(self._owed, self.left))
        self._register.active[self.account] = self

    def missing(self, amount: float, now: float) -> float:
        missing = amount - self.left
        if missing <= 0.0:
            return 0.0
        known = self._told and 0.0 <= now - self._at < FRESH
        return 0.0 if known and missing > self._free else missing

    def granted(self, answer: Answer, now: float) -> bool:
        """Whether there is more than before."""
        if answer.amount > 0:
            self._held += int(answer.amount)
        elif answer.amount < 0:
            self._owed = min(int(-answer.amount), self._held)
            self._give_up(min(self._owed, self.left))
        self._free, self._at, self._told = int(answer.level), now, True
        self._register.active[self.account] = self
        return answer.amount > 0

    def news(self, now: float, *, recalled: bool = False) -> AccountNews:  # noqa: ARG002 - as Credit's
        self._quiet += 1
        if recalled or self._quiet >= QUIET:
            self._give_up(self.left)
            self._register.active.pop(self.account, None)
        return self.news_at_once()

    def news_at_once(self) -> AccountNews:
        returned, self._returned = self._returned, 0
        return AccountNews(0.0, returned, 0.0)

    def _give_up(self, number: int) -> None:
        if number > 0:
            self._held -= number
            self._returned += number
            self._owed = max(self._owed - number, 0)


Account = Credit | LeasedPlaces
