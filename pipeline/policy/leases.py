"""Where limits come from: own ones of a process that is alone, or parts of those that all shards have in common.

Accounts are the limits that are counted out: `key:NAME:requests` and `key:NAME:tokens` a minute, `key:NAME:places` at
once, `worker:NAME:requests` and `worker:NAME:tokens` a minute.
"""

from typing import Protocol

from pipeline.policy.concurrency import AdaptiveLimit, ConcurrencyLimit, FixedLimit
from pipeline.policy.leases_credit import Account, Credit, LeasedPlaces, Register
from pipeline.policy.leases_limit import LeasedLimit
from pipeline.policy.limits import Bucket, OwnPlaces, Places, TokenBucket, per_minute


class Allotter(Protocol):
    """Gives the same object for the same name, with the new numbers: what it knows outlives a change of them."""

    def concurrency(self, worker: str, limit: int | None, maximum: int) -> ConcurrencyLimit:
        """`limit` None: one that is found, at most `maximum`. Another object where one becomes the other."""
        ...

    def bucket(self, account: str, limit: int, now: float) -> Bucket:
        """Of so much a minute."""
        ...

    def places(self, account: str, number: int) -> Places: ...

    def forget(self, name: str) -> None:
        """A worker or an account that is gone, or another one: what is known of it does not hold any more."""
        ...


class Own:
    """Of a process that is alone."""

    def __init__(self) -> None:
        self._limits: dict[str, FixedLimit | AdaptiveLimit] = {}
        self._buckets: dict[str, TokenBucket] = {}
        self._places: dict[str, OwnPlaces] = {}

    def concurrency(self, worker: str, limit: int | None, maximum: int) -> ConcurrencyLimit:
        known = self._limits.get(worker)
        if limit is None:
            if isinstance(known, AdaptiveLimit):
                known.retune(maximum)
                return known
            known = AdaptiveLimit(maximum)
        elif isinstance(known, FixedLimit):
            known.retune(limit)
        else:
            known = FixedLimit(limit)
        self._limits[worker] = known
        return known

    def bucket(self, account: str, limit: int, now: float) -> Bucket:
        bucket = self._buckets.get(account)
        if bucket is None:
            bucket = self._buckets[account] = TokenBucket(*per_minute(limit), now)
        else:
            bucket.retune(*per_minute(limit), now)
        return bucket

    def places(self, account: str, number: int) -> Places:
        places = self._places.setdefault(account, OwnPlaces(number))
        places.number = number
        return places

    def forget(self, name: str) -> None:
        self._limits.pop(name, None)
        self._buckets.pop(name, None)
        self._places.pop(name, None)


class Leases:
    """Of one shard of several. The rest is the supervisor's: see `pipeline.process.teller`."""

    def __init__(self) -> None:
        self.limits: dict[str, LeasedLimit] = {}
        self.register = Register()
        self._credits: dict[str, Credit] = {}
        self._places: dict[str, LeasedPlaces] = {}

    def concurrency(self, worker: str, limit: int | None, maximum: int) -> ConcurrencyLimit:  # noqa: ARG002 - the protocol's
        known = self.limit(worker)
        known.adaptive = limit is None
        return known

    def bucket(self, account: str, limit: int, now: float) -> Bucket:  # noqa: ARG002 - the protocol's
        rate, burst = per_minute(limit)
        credit = self._credits.get(account)
        if credit is None:
            kind, name, unit = parts(account)
            pool = self.limits.get(name) if kind == "worker" else None
            credit = Credit(account, rate, burst, self.register, whole=unit == "requests", pool=pool)
            self._credits[account] = credit
        credit.retune(rate, burst)
        return credit

    def places(self, account: str, number: int) -> Places:
        places = self._places.get(account)
        if places is None:
            places = self._places[account] = LeasedPlaces(account, number, self.register)
        places.number = number
        return places

    def forget(self, name: str) -> None:
        """A worker's lease stays: calls may be under way still."""
        if name in self.limits:
            self.limits[name].forget()
        account = self._credits.pop(name, None) or self._places.pop(name, None)
        if account is not None:
            account.detach()

    def limit(self, worker: str) -> LeasedLimit:
        """Also of one that is only about to be known here."""
        limit = self.limits.get(worker)
        if limit is None:
            limit = self.limits[worker] = LeasedLimit(adaptive=False)
        return limit

    def account(self, name: str) -> Account | None:
        return self._credits.get(name) or self._places.get(name)


def parts(account: str) -> tuple[str, str, str]:
    """Whose it is (`key` or `worker`), the name, and what is counted."""
    kind, _, rest = account.partition(":")
    name, _, unit = rest.rpartition(":")
    return kind, name, unit
