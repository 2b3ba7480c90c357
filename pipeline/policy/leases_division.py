"""How a worker's concurrency is divided between shards, as functions of numbers.

From the highest class to the lowest, within a class max-min fair (Bertsekas and Gallager, "Data Networks", 1987, 6.5.2)
by the weight of the sessions that each shard has: a session's share does not depend on the shard that it lives on. What
nobody asks for is spread evenly, so that newcomers start at once.
"""

from collections.abc import Sequence
from typing import NamedTuple

from pipeline.core.outcomes import Priority

STARVED = 0.125  # of the whole: a class counts on that much to be left by those above it, even while they take all


class Demand(NamedTuple):
    """Of one shard, by class: the calls that it has or could begin, and the weight of their sessions."""

    calls: Sequence[float]
    weights: Sequence[float]


class Division(NamedTuple):
    """For each shard: the calls at once on average over time; the same of each class and those above it, as far as they
    ask for it; and what a class could count on if it asked for all it could get."""

    parts: list[float]
    asked: list[list[float]]
    shares: list[list[float]]


def divide(total: int, demands: Sequence[Demand]) -> Division:
    """The parts add up to `total`. The same demands are always divided alike."""
    count = len(demands)
    parts = [0.0] * count
    asked: list[list[float]] = [[] for _ in demands]
    shares: list[list[float]] = [[] for _ in demands]
    left = float(total)
    for priority in Priority:
        calls = [demand.calls[priority] for demand in demands]
        weights = [demand.weights[priority] or 1.0 for demand in demands]
        for shard, share in enumerate(_shares(max(left, total * STARVED), calls, weights)):
            shares[shard].append(parts[shard] + share)
        for shard, given in enumerate(fill(left, calls, weights)):
            parts[shard] += given
            left -= given
            asked[shard].append(parts[shard])
    left = max(left, 0.0)
    return Division([part + left / count for part in parts], asked, shares)


def fill(amount: float, wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """`amount` divided by weight among those who want something, none of them more than it wants."""
    given = [0.0] * len(wanted)
    asking = [index for index, want in enumerate(wanted) if want > 0.0]
    asking.sort(key=lambda index: wanted[index] / weights[index])
    weight = sum([weights[index] for index in asking])
    for index in asking:
        if amount <= 0.0:
            break
        given[index] = min(wanted[index], amount * weights[index] / weight)
        amount -= given[index]
        weight -= weights[index]
    return given


def _shares(amount: float, wanted: Sequence[float], weights: Sequence[float]) -> list[float]:
    """What each would get at least if it wanted everything: its part by weight, or what the others leave."""
    everything = sum(wanted)
    weight = sum([weights[index] for index, want in enumerate(wanted) if want > 0.0])
    shares: list[float] = []
    for want, own in zip(wanted, weights, strict=True):
        all_of_them = weight if want > 0.0 else weight + own
        shares.append(max(amount * own / all_of_them, amount - (everything - want)))
    return shares
