"""What all shards have counted: the blocks of the processes that live, and what dead ones have left."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from pipeline.observe.books import book_lost, totals
from pipeline.observe.layout import MetricsLayout


class Reading(NamedTuple):
    """At one moment. `blocks` are those of the processes that do their work, for what does not add up, and never none;
    `shards` and `total` have what the dead have counted too, but none of their gauges."""

    blocks: list[list[int]]
    shards: dict[int, list[int]]
    total: list[int]


class Living(NamedTuple):
    """A process's block. `works`: it has said that it does its work, and nobody has taken its place."""

    shard: int
    block: memoryview
    works: bool


class Ledger:
    """For the supervisor. `living` gives the block of each process that lives; a shard may have two of them, while its
    process is being replaced. Counters never go back, neither a shard's nor their sum: a process begins with
    an empty block, and `retire` takes over what it had counted in the end."""

    def __init__(self, layout: MetricsLayout, shards: int, living: Callable[[], Iterable[Living]]) -> None:
        self.layout = layout
        self._living = living
        self._retired: dict[int, list[int]] = {shard: [] for shard in range(shards)}

    def retire(self, shard: int, block: memoryview) -> int:
        """Takes over the block of a process that is dead, with its open requests as lost, and leaves it empty; returns
        how many those were. From now on it must not be among the living."""
        lost = book_lost(self.layout, block)
        self._retired[shard] = _sum([self._retired[shard], self.layout.copied(block)], self.layout.size)
        block[: self.layout.size] = memoryview(bytes(self.layout.size * block.itemsize)).cast("Q")
        return lost

    def read(self) -> Reading:
        size = self.layout.size
        parts = {shard: [retired] for shard, retired in self._retired.items()}
        blocks: list[list[int]] = []
        for shard, block, works in self._living():
            cells = self.layout.copied(block)
            parts[shard].append(cells)
            if works:
                blocks.append(cells)
        shards = {shard: _sum(lists, size) for shard, lists in parts.items()}
        return Reading(blocks or [[0] * size], shards, _sum(list(shards.values()), size))

    def shards(self) -> dict[int, list[int]]:
        """What each shard has counted, and how it is."""
        return self.read().shards

    def totals(self) -> dict[str, int]:
        """Requests offered, and ended by outcome, over all shards and routes."""
        return totals(self.layout, [self.read().total])


def _sum(lists: list[list[int]], size: int) -> list[int]:
    """Cell by cell. What was left before the layout grew is shorter."""
    full = [cells + [0] * (size - len(cells)) for cells in lists]
    return [sum(column) for column in zip(*full, strict=True)] if full else [0] * size
