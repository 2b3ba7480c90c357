"""Limits of workers and keys, from their sections. What has the same name keeps its state, whatever its numbers."""

from collections.abc import Iterable

from config.schema import AnyWorker, InferenceStage, KeySection
from pipeline.policy.access import KnownKey, known_key
from pipeline.policy.concurrency import ConcurrencyLimit
from pipeline.policy.leases import Allotter
from pipeline.policy.limits import Bucket, Places


class Limits:
    """What `allotter` says that may be used here. Names that were asked for before the last `begin` and not since are
    forgotten by `end`."""

    def __init__(self, allotter: Allotter) -> None:
        self._allotter = allotter
        self._names: set[str] = set()
        self._before: set[str] = set()

    def begin(self) -> None:
        self._before, self._names = self._names, set()

    def end(self, still: Iterable[str]) -> None:
        """`still`: the workers that are gone, and still have something to do."""
        kept = {name for worker in still for name in (worker, *_accounts_of(worker)) if name in self._before}
        for name in self._before - self._names - kept:
            self._allotter.forget(name)
        self._names |= kept

    def concurrency(self, section: AnyWorker, stage: InferenceStage, *, anew: bool) -> ConcurrencyLimit:
        """Of a worker's calls. `anew`: what was found out about it does not count any more."""
        name, limit = section.name, stage.concurrency if section.concurrency is None else section.concurrency
        if anew:
            self._allotter.forget(name)
        self._names.add(name)
        return self._allotter.concurrency(name, None if limit == "adaptive" else limit, stage.max_concurrency)

    def of_worker(self, section: AnyWorker, now: float) -> tuple[Bucket | None, Bucket | None]:
        """What it may be asked a minute: requests and tokens."""
        requests, tokens = _accounts_of(section.name)
        return (
            self._bucket(requests, section.requests_per_minute, now),
            self._bucket(tokens, section.tokens_per_minute, now),
        )

    def key(self, key: KeySection, now: float) -> KnownKey:
        return known_key(
            key.name,
            key.hash,
            class_name=key.class_,
            routes=key.routes,
            weight=key.weight,
            requests=self._bucket(f"key:{key.name}:requests", key.requests_per_minute, now),
            tokens=self._bucket(f"key:{key.name}:tokens", key.tokens_per_minute, now),
            places=self._places(f"key:{key.name}:places", key.concurrency),
            revoked=key.revoked,
        )

    def _bucket(self, account: str, per_minute: int | None, now: float) -> Bucket | None:
        if per_minute is None:
            return None
        self._names.add(account)
        return self._allotter.bucket(account, per_minute, now)

    def _places(self, account: str, number: int | None) -> Places | None:
        if number is None:
            return None
        self._names.add(account)
        return self._allotter.places(account, number)


def _accounts_of(worker: str) -> tuple[str, str]:
    return f"worker:{worker}:requests", f"worker:{worker}:tokens"
