"""Token buckets, and what they limit of a key: requests and tokens a minute; beside them, requests at once.

A bucket fills all the time at the limit's rate (as the virtual scheduling of ITU-T I.371's GCRA does), so that nobody
waits for a window to turn over and nobody gets twice the limit around its turn.
"""

import math
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from pipeline.core.errors import RateLimited, TooLarge

PERIOD_S = 60.0
BURST_S = 10.0  # how much of a limit an idle key saves up: a sixth of a minute's
CONCURRENCY_RETRY_S = 1.0  # nobody knows when one of a key's own requests will end

ROUNDING = 1e-9  # of a request or token: who comes back when told to is let in


class Bucket(Protocol):
    """What a limit a minute is taken from: one of our own (`TokenBucket`), or a shard's part of one that all shards
    have in common. Times are seconds on the caller's clock."""

    @property
    def rate(self) -> float:
        """How much comes in a second, for all."""
        ...

    @property
    def burst(self) -> float:
        """The most that is saved up, for all."""
        ...

    def level(self, now: float) -> float:
        """What can be taken here at once; below zero while more has been taken than there was."""
        ...

    def remaining(self, now: float) -> float:
        """What is left for all, as far as it is known here."""
        ...

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken, 0.0 for now. What is above `burst` can be, once the bucket is full."""
        ...

    def until(self, amount: float, now: float) -> float:
        """Seconds until so much has come in for those who ask here."""
        ...

    def take(self, amount: float, now: float) -> None:
        """Takes it, whether it is there or not."""
        ...

    def give(self, amount: float, now: float) -> None:
        """Puts back what was not needed. Less than nothing is taken out."""
        ...


class Places(Protocol):
    """So many requests at once. `number` is the limit for all, `left` how many more may begin here now."""

    @property
    def number(self) -> int: ...

    @property
    def left(self) -> int: ...

    def take(self) -> None: ...

    def free(self) -> None: ...


class Lender(Protocol):
    async def borrow(self, quota: "KeyQuota", tokens: int) -> None:
        """Returns when a request with so many tokens lacks nothing more here that could be had elsewhere, at most after
        a tenth of a second."""
        ...


@runtime_checkable
class Leased(Protocol):
    """A shard's part of a limit that all shards have in common. `account` is its name, `lender` who has the rest."""

    account: str

    @property
    def lender(self) -> Lender | None: ...

    def missing(self, amount: float, now: float) -> float:
        """How much must be borrowed before `amount` can be taken: 0.0 where enough is here, and where it is known that
        no more is to be had."""
        ...


class OwnPlaces:
    """`Places` of one process alone."""

    __slots__ = ("_running", "number")

    def __init__(self, number: int) -> None:
        self.number = number
        self._running = 0

    @property
    def left(self) -> int:
        return self.number - self._running

    def take(self) -> None:
        self._running += 1

    def free(self) -> None:
        self._running -= 1


class TokenBucket:
    """Holds up to `burst`, starts full and fills with `rate` a second. Times are seconds on the caller's clock.

    One that jumps back changes nothing: the bucket fills again once the clock has passed where it was.
    """

    __slots__ = ("_at", "_level", "burst", "rate")

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self.rate = rate
        self.burst = burst
        self._level = burst
        self._at = now

    def level(self, now: float) -> float:
        """What can be taken at once; below zero while more has been taken than there was."""
        if now > self._at:
            self._level = min(self._level + (now - self._at) * self.rate, self.burst)
            self._at = now
        return self._level

    def retune(self, rate: float, burst: float, now: float) -> None:
        """Other numbers from now on; what there is stays, as far as there is room for it."""
        self._level = min(self.level(now), burst)
        self.rate = rate
        self.burst = burst

    def remaining(self, now: float) -> float:
        return self.level(now)

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken, 0.0 for now. What is above `burst` can be, once the bucket is full."""
        missing = min(amount, self.burst) - self.level(now)
        return missing / self.rate if missing > ROUNDING else 0.0

    def until(self, amount: float, now: float) -> float:
        return max(amount - self.level(now), 0.0) / self.rate

    def take(self, amount: float, now: float) -> None:
        """Takes it, whether it is there or not."""
        self._level = self.level(now) - amount

    def give(self, amount: float, now: float) -> None:
        """Puts back what was not needed; the bucket does not run over. Less than nothing is taken out."""
        self._level = min(self.level(now) + amount, self.burst)


class KeyQuota:
    """The limits of one key, each None where there is none (`pipeline.core.access.Quota`)."""

    __slots__ = ("_leased", "_places", "_requests", "_tokens")

    def __init__(self, requests: Bucket | None, tokens: Bucket | None, places: Places | None) -> None:
        self._requests = None if requests is None else _Minute("requests", requests)
        self._tokens = None if tokens is None else _Minute("tokens", tokens)
        self._places = places
        parts: list[tuple[object, bool]] = [(requests, False), (tokens, True), (places, False)]
        self._leased = [(part, counts) for part, counts in parts if isinstance(part, Leased)]  # and what counts tokens

    @property
    def counts_tokens(self) -> bool:
        return self._tokens is not None

    def admit(self, tokens: int, now: float) -> None:
        """Takes a request, its tokens and a place, all or none of them. Of several limits that are reached, the one
        that takes longest is named.

        Raises `RateLimited`, or `TooLarge` for a request that counts more tokens than a whole minute has, which no
        waiting would help.
        """
        requests, counted = self._requests, self._tokens
        refusal = None if requests is None else requests.refusal(1, now)
        if counted is not None:
            counted.check(tokens)
            refusal = _longer(refusal, counted.refusal(tokens, now))
        places = self._places
        if places is not None and places.left <= 0:
            refusal = _longer(refusal, _busy(places.number))
        if refusal is not None:
            raise refusal
        if places is not None:
            places.take()
        if requests is not None:
            requests.bucket.take(1, now)
        if counted is not None:
            counted.bucket.take(tokens, now)

    def settle(self, estimated: int, used: int | None, now: float) -> None:
        """See `Quota.settle`. What was used beyond the estimate is owed: it delays the next requests."""
        if self._places is not None:
            self._places.free()
        if used is None and self._requests is not None:
            self._requests.bucket.give(1, now)
        if self._tokens is not None:
            self._tokens.bucket.give(estimated - (used or 0), now)

    def fields(self, now: float) -> str:
        """`x-ratelimit-*` as OpenAI sends them: the limit is the minute's, what remains can be had at once, and after
        the reset as much can be had as ever."""
        return "".join([limit.fields(now) for limit in (self._requests, self._tokens) if limit is not None])

    @property
    def leased(self) -> bool:
        return bool(self._leased)

    def short(self, tokens: int, now: float) -> bool:
        """See `Quota.short`."""
        return bool(self.missing(tokens, now))

    async def borrow(self, tokens: int) -> None:
        """See `Quota.borrow`."""
        for part, _ in self._leased:
            if part.lender is not None:
                await part.lender.borrow(self, tokens)
                return

    def missing(self, tokens: int, now: float) -> Sequence[tuple[str, float]]:
        """What a request with so many tokens lacks here and could perhaps be had: accounts and amounts."""
        counted = self._tokens
        if not self._leased or (counted is not None and tokens > counted.limit):
            return ()
        asked = [(part.account, part.missing(tokens if each else 1, now)) for part, each in self._leased]
        return [lack for lack in asked if lack[1] > 0.0]


class _Minute:
    """A limit a minute. `unit` is `requests` or `tokens`."""

    __slots__ = ("bucket", "unit")

    def __init__(self, unit: str, bucket: Bucket) -> None:
        self.unit = unit
        self.bucket = bucket

    @property
    def limit(self) -> int:
        return round(self.bucket.rate * PERIOD_S)

    def check(self, amount: int) -> None:
        if amount > self.limit:
            raise TooLarge(
                f"The request counts {_amount(amount, self.unit)}, prompt and answer together, and its key may use "
                f"{self.limit:,} a minute; set max_tokens (without it the model's usual limit is counted) or send less",
            )

    def refusal(self, amount: int, now: float) -> RateLimited | None:
        wait = self.bucket.wait(amount, now)
        if not wait:
            return None
        return RateLimited(
            f"The key's limit of {_amount(self.limit, self.unit)} a minute is reached; try again in {_seconds(wait)}",
            reason=f"{self.unit.removesuffix('s')}_limit",
            retry_after=wait,
        )

    def fields(self, now: float) -> str:
        bucket, unit = self.bucket, self.unit
        level = bucket.remaining(now)
        return (
            f"x-ratelimit-limit-{unit}: {self.limit}\r\n"
            f"x-ratelimit-remaining-{unit}: {max(math.floor(level), 0)}\r\n"
            f"x-ratelimit-reset-{unit}: {duration((bucket.burst - level) / bucket.rate)}\r\n"
        )


def per_minute(limit: int) -> tuple[float, float]:
    """The rate and the burst of so much a minute."""
    return limit / PERIOD_S, max(1.0, limit * BURST_S / PERIOD_S)


def duration(seconds: float) -> str:
    """As Go writes durations, and so OpenAI, in whole milliseconds: `0s`, `120ms`, `1.5s`, `6m0s`, `1h0m0s`."""
    milliseconds = math.ceil(round(seconds * 1000, 3))  # what floating point adds is no millisecond
    if 0 < milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    text = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{text}"
    return f"{minutes}m{text}" if minutes else text


def _busy(limit: int) -> RateLimited:
    return RateLimited(
        f"The key's limit of {_amount(limit, 'requests')} at once is reached; try again when one of them has ended",
        reason="concurrency_limit",
        retry_after=CONCURRENCY_RETRY_S,
    )


def _longer(one: RateLimited | None, other: RateLimited | None) -> RateLimited | None:
    if one is None or other is None:
        return other or one
    return other if (other.retry_after or 0.0) > (one.retry_after or 0.0) else one


def _amount(count: int, unit: str) -> str:
    return f"{count:,} {unit if count != 1 else unit.removesuffix('s')}"


def _seconds(wait: float) -> str:
    seconds = math.ceil(wait)
    return f"{seconds} second{'' if seconds == 1 else 's'}"
