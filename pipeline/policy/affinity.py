"""Which shard a session belongs to: rendezvous hashing (Thaler and Ravishankar, "Using Name-Based Mappings to Increase
Hit Rates", IEEE/ACM Transactions on Networking 6(1), 1998), also called highest random weight.

A shard's weight for a session is XXH3_64bits_withSeed(session, seed), where the seed is XXH3_64bits(shard), and
session and shard are the UTF-8 bytes of their texts (shard 3 and shard "3" are the same). The live shard with the
largest weight, taken as an unsigned number, owns the session; of equal weights the shard whose text sorts first. Every
process, machine and version computes the same. To check another program against this one:

    session "conversation-1", shard 0: seed 1838281907459330133, weight 14950727131895854575
    session "conversation-1", shard 1: seed 7335560060985733464, weight 1087962893934265374
"""

from collections.abc import Iterable
from functools import lru_cache
from typing import TypeVar

from xxhash import xxh3_64_intdigest

Shard = TypeVar("Shard", bound=int | str)

_SEEDS_KEPT = 1024


def owner(session: str, shards: Iterable[Shard]) -> Shard:
    """The one of the live `shards` that `session` belongs to, in whatever order they come.

    When a shard goes, only its own sessions change owner; when it returns, it gets the same ones back. Raises
    ValueError when there is no shard.
    """
    name = session.encode()
    most = -1
    chosen: Shard | None = None
    for shard in shards:
        weight = xxh3_64_intdigest(name, _seed(shard))
        if weight > most or (weight == most and str(shard) < str(chosen)):
            most, chosen = weight, shard
    if chosen is None:
        raise ValueError(f"no shard is live that session {session!r} could belong to")
    return chosen


def ranked(session: str, shards: Iterable[Shard]) -> list[Shard]:
    """All of the live `shards`, the owner first, then the one that would own `session` without it, and so on."""
    name = session.encode()
    return sorted(shards, key=lambda shard: (-xxh3_64_intdigest(name, _seed(shard)), str(shard)))


@lru_cache(maxsize=_SEEDS_KEPT)
def _seed(shard: int | str) -> int:
    return xxh3_64_intdigest(str(shard).encode())
