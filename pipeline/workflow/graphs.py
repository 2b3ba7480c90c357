"""Directed graphs of numbers: order, cycles, what a step can only run under. Linear, and without recursion."""

from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

Edges = Sequence[Collection[int]]  # for each node, those that it needs


def reversed_edges(needs: Edges) -> list[list[int]]:
    """For each node those that need it, in order."""
    feeds: list[list[int]] = [[] for _ in needs]
    for node, needed in enumerate(needs):
        for other in needed:
            feeds[other].append(node)
    return feeds


def ordered(needs: Edges, feeds: Sequence[Sequence[int]]) -> list[int]:
    """The nodes, each after all that it needs. Those on cycles, and those that need such ones, are left out."""
    open_needs = [len(needed) for needed in needs]
    order = [node for node, count in enumerate(open_needs) if not count]
    for node in order:  # grows on the way
        for following in feeds[node]:
            open_needs[following] -= 1
            if not open_needs[following]:
                order.append(following)
    return order


def cycles(needs: Edges, nodes: Collection[int]) -> Iterator[list[int]]:
    """For each knot of nodes that need each other one shortest way around: each node needs the one after it, the last
    one the first. Among `nodes` only."""
    inside = set(nodes)
    for knot in _knots(needs, inside):
        members = set(knot)
        start = min(members)
        if len(members) > 1 or start in needs[start]:
            yield _around(needs, start, members)


def _around(needs: Edges, start: int, members: set[int]) -> list[int]:
    """Breadth first, from the start back to it."""
    before: dict[int, int] = {}
    queue = [start]
    for node in queue:
        for other in sorted(needs[node]):
            if other == start:
                way = [node]
                while way[-1] != start:
                    way.append(before[way[-1]])
                return way[::-1]
            if other in members and other not in before:
                before[other] = node
                queue.append(other)
    raise AssertionError("a knot has a way around")


class _Visit(NamedTuple):
    node: int
    others: Iterator[int]


class _Knots:
    """Strongly connected components (Tarjan 1972), with a stack of its own instead of recursion."""

    def __init__(self, needs: Edges, inside: set[int]) -> None:
        self._needs = needs
        self._inside = inside
        self._number: dict[int, int] = {}
        self._lowest: dict[int, int] = {}
        self._open: list[int] = []
        self._is_open: set[int] = set()

    def __iter__(self) -> Iterator[list[int]]:
        for root in sorted(self._inside):
            if root not in self._number:
                yield from self._from(root)

    def _enter(self, node: int) -> _Visit:
        self._number[node] = self._lowest[node] = len(self._number)
        self._open.append(node)
        self._is_open.add(node)
        return _Visit(node, iter(self._needs[node]))

    def _from(self, root: int) -> Iterator[list[int]]:
        visits = [self._enter(root)]
        while visits:
            node, others = visits[-1]
            following = self._next(node, others)
            if following is not None:
                visits.append(self._enter(following))
                continue
            visits.pop()
            if visits:
                before = visits[-1].node
                self._lowest[before] = min(self._lowest[before], self._lowest[node])
            if self._lowest[node] == self._number[node]:
                yield self._close(node)

    def _next(self, node: int, others: Iterator[int]) -> int | None:
        for other in others:
            if other not in self._inside:
                continue
            if other not in self._number:
                return other
            if other in self._is_open:
                self._lowest[node] = min(self._lowest[node], self._number[other])
        return None

    def _close(self, node: int) -> list[int]:
        knot: list[int] = []
        while not knot or knot[-1] != node:
            knot.append(self._open.pop())
            self._is_open.discard(knot[-1])
        return knot


def _knots(needs: Edges, inside: set[int]) -> Iterator[list[int]]:
    return iter(_Knots(needs, inside))
