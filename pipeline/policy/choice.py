"""Which of several workers serves a request: one that a session stays with, or one by chance, both in the proportion
of their weights.

A session's worker is found by weighted rendezvous hashing (Schindelhauer and Schomaker, "Weighted Distributed Hash
Tables", SPAA 2005, the logarithmic method). Where `h` is XXH3_64bits_withSeed(session, XXH3_64bits("worker " and the
worker's name)), as a fraction of 2**64, a worker's distance is -ln(h) / weight, and the nearest is chosen. The least of
such values is a worker's with a probability of its share of all weights. A changed weight moves none of the others'
values: so a session changes its worker only to one whose weight has grown, or from one whose weight has fallen.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from math import inf, log

from xxhash import xxh3_64_intdigest

_SEEDS_KEPT = 1024
_FRACTION = 2.0**-64


def by_session(session: str, weights: Mapping[str, float]) -> str:
    """The worker that `session` belongs to. Whatever the order of `weights`, which are above zero, the answer is the
    same. Raises ValueError when there are none."""
    name = session.encode()
    nearest = inf
    chosen: str | None = None
    for worker, weight in weights.items():
        distance = -log((xxh3_64_intdigest(name, _seed(worker)) + 0.5) * _FRACTION) / weight
        if chosen is None or distance < nearest or (distance == nearest and worker < chosen):
            nearest, chosen = distance, worker
    if chosen is None:
        raise ValueError("there is no worker to choose")
    return chosen


def by_chance(chance: float, weights: Mapping[str, float]) -> str:
    """The worker at `chance` (from 0.0 to below 1.0) of the sum of `weights`, which are above zero. Raises ValueError
    when there are none."""
    left = chance * sum(weights.values())
    worker: str | None = None
    for worker, weight in weights.items():  # noqa: B007 - the last one, where rounding leaves something
        left -= weight
        if left < 0.0:
            break
    if worker is None:
        raise ValueError("there is no worker to choose")
    return worker


@lru_cache(maxsize=_SEEDS_KEPT)
def _seed(worker: str) -> int:
    return xxh3_64_intdigest(f"worker {worker}".encode())


def scores(session: str, seeds: Sequence[int]) -> list[int]:
    """How much each replica of a pool is a session's own, from 0 to below 2**64: it prefers the one with the most, then
    the next. `seeds` are the replicas' own; a replica that comes or goes moves only its own sessions."""
    name = session.encode()
    return [xxh3_64_intdigest(name, seed) for seed in seeds]


def replica_seed(name: str) -> int:
    """What `scores` takes for a replica: another one than a shard or a worker of that name has, so that which replica a
    session prefers says nothing of the shard that owns it."""
    return xxh3_64_intdigest(f"replica {name}".encode())
