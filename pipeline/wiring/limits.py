"""Limits of workers and keys, from their sections. What has the same name keeps its state, whatever its numbers."""

from collections.abc import Collection, Sequence
from typing import NamedTuple

from config.schema import AnyWorker, InferenceStage, KeySection, LlamaCppWorker
from pipeline.policy.access import KnownKey, known_key
from pipeline.policy.concurrency import ConcurrencyLimit
from pipeline.policy.leases import Allotter
from pipeline.policy.limits import Bucket


class WorkerLimits(NamedTuple):
    """Calls at once, and what a worker may be asked a minute: requests and tokens, None where there is no limit."""

    concurrency: ConcurrencyLimit
    requests: Bucket | None
    tokens: Bucket | None


class Limits:
    """What `allotter` says that may be used here."""

    def __init__(self, allotter: Allotter) -> None:
        self._allotter = allotter
        self._workers: set[str] = set()
        self._keys: dict[str, tuple[KeySection, KnownKey]] = {}

    def of_worker(self, section: AnyWorker, stage: InferenceStage, now: float, *, anew: bool) -> WorkerLimits:
        """`anew`: what was found out about the worker does not count any more."""
        name, limit = section.name, stage.concurrency if section.concurrency is None else section.concurrency
        if isinstance(section, LlamaCppWorker) and section.concurrency is None:
            limit = section.slots  # its process is ours, and has so many for all shards
        if anew:
            self._allotter.forget(name)
        self._workers.add(name)
        concurrency = self._allotter.concurrency(name, None if limit == "adaptive" else limit, stage.max_concurrency)
        requests, tokens = _accounts_of(name)
        return WorkerLimits(
            concurrency,
            self._bucket(requests, section.requests_per_minute, now),
            self._bucket(tokens, section.tokens_per_minute, now),
        )

    def forget_workers_but(self, there: Collection[str]) -> None:
        """`there` are those with something to do."""
        for name in self._workers.difference(there):
            for each in (name, *_accounts_of(name)):
                self._allotter.forget(each)
        self._workers.intersection_update(there)

    def of_keys(self, sections: Sequence[KeySection], now: float) -> list[KnownKey]:
        """Of all keys there are. Those that have not changed are not made again: there may be many."""
        before, self._keys = self._keys, {}
        for section in sections:
            old = before.get(section.name)
            same = old is not None and old[0] == section
            self._keys[section.name] = old if old is not None and same else (section, self._key(section, now))
        for name in before.keys() - self._keys.keys():
            for unit in ("requests", "tokens", "places"):
                self._allotter.forget(f"key:{name}:{unit}")
        return [known for _, known in self._keys.values()]

    def _key(self, key: KeySection, now: float) -> KnownKey:
        account = f"key:{key.name}:"
        return known_key(
            key.name,
            key.hash,
            class_name=key.class_,
            routes=key.routes,
            weight=key.weight,
            requests=self._bucket(f"{account}requests", key.requests_per_minute, now),
            tokens=self._bucket(f"{account}tokens", key.tokens_per_minute, now),
            places=None if key.concurrency is None else self._allotter.places(f"{account}places", key.concurrency),
            revoked=key.revoked,
        )

    def _bucket(self, account: str, per_minute: int | None, now: float) -> Bucket | None:
        return None if per_minute is None else self._allotter.bucket(account, per_minute, now)


def _accounts_of(worker: str) -> tuple[str, str]:
    return f"worker:{worker}:requests", f"worker:{worker}:tokens"
