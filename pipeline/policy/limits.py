"""Token buckets, and what they limit of a key: requests and tokens a minute; beside them, requests at once.

A bucket fills all the time at the limit's rate (as the virtual scheduling of ITU-T I.371's GCRA does), so that nobody
waits for a window to turn over and nobody gets twice the limit around its turn.
"""

import math

from pipeline.core.errors import RateLimited, TooLarge

PERIOD_S = 60.0
BURST_S = 10.0  # how much of a limit an idle key saves up: a sixth of a minute's
CONCURRENCY_RETRY_S = 1.0  # nobody knows when one of a key's own requests will end

_ROUNDING = 1e-9  # of a request or token: who comes back when told to is let in


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

    def wait(self, amount: float, now: float) -> float:
        """Seconds until `amount` can be taken, 0.0 for now. What is above `burst` can be, once the bucket is full."""
        missing = min(amount, self.burst) - self.level(now)
        return missing / self.rate if missing > _ROUNDING else 0.0

    def take(self, amount: float, now: float) -> None:
        """Takes it, whether it is there or not."""
        self._level = self.level(now) - amount

    def give(self, amount: float, now: float) -> None:
        """Puts back what was not needed; the bucket does not run over. Less than nothing is taken out."""
        self._level = min(self.level(now) + amount, self.burst)


class KeyQuota:
    """The limits of one key, each None where there is none (`pipeline.core.access.Quota`)."""

    __slots__ = ("_concurrency", "_requests", "_running", "_tokens")

    def __init__(
        self, *, requests_per_minute: int | None, tokens_per_minute: int | None, concurrency: int | None, now: float
    ) -> None:
        self._requests = None if requests_per_minute is None else _Minute("requests", requests_per_minute, now)
        self._tokens = None if tokens_per_minute is None else _Minute("tokens", tokens_per_minute, now)
        self._concurrency = concurrency
        self._running = 0

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
        if self._concurrency is not None and self._running >= self._concurrency:
            refusal = _longer(refusal, _busy(self._concurrency))
        if refusal is not None:
            raise refusal
        self._running += 1
        if requests is not None:
            requests.bucket.take(1, now)
        if counted is not None:
            counted.bucket.take(tokens, now)

    def settle(self, estimated: int, used: int | None, now: float) -> None:
        """See `Quota.settle`. What was used beyond the estimate is owed: it delays the next requests."""
        self._running -= 1
        if used is None and self._requests is not None:
            self._requests.bucket.give(1, now)
        if self._tokens is not None:
            self._tokens.bucket.give(estimated - (used or 0), now)

    def fields(self, now: float) -> str:
        """`x-ratelimit-*` as OpenAI sends them: the limit is the minute's, what remains can be had at once, and after
        the reset as much can be had as ever."""
        return "".join([limit.fields(now) for limit in (self._requests, self._tokens) if limit is not None])


class _Minute:
    """A limit a minute. `unit` is `requests` or `tokens`."""

    __slots__ = ("bucket", "limit", "unit")

    def __init__(self, unit: str, limit: int, now: float) -> None:
        self.unit = unit
        self.limit = limit
        self.bucket = TokenBucket(limit / PERIOD_S, max(1.0, limit * BURST_S / PERIOD_S), now)

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
        level = bucket.level(now)
        return (
            f"x-ratelimit-limit-{unit}: {self.limit}\r\n"
            f"x-ratelimit-remaining-{unit}: {max(math.floor(level), 0)}\r\n"
            f"x-ratelimit-reset-{unit}: {duration((bucket.burst - level) / bucket.rate)}\r\n"
        )


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
