"""Who has used how many tokens: counted by key, route and worker, in tables that do not grow without end."""

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from pipeline.core.ticket import Ticket
from pipeline.observe.observers import Selective

MOST = 10_000  # of a table's entries
OTHER = "(other)"  # no key, route or worker can be called so
DIMENSIONS = ("key", "route", "worker")
_NOBODY = "-"

Who = tuple[str, str, str]  # the names of key ("-" without one), route and worker


class Counts(msgspec.Struct, array_like=True):
    """What requests have used that a worker was called for. `prompt_tokens` have those that came from a cache, and
    `completion_tokens` those of reasoning; `cached_tokens` and `reasoning_tokens` are these parts. Of
    `estimated_requests` the worker did not tell: their `estimated_tokens`, which are in the other figures too, are our
    estimate of the prompt and the number of deltas."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    estimated_requests: int = 0
    estimated_tokens: int = 0

    def add(self, other: "Counts") -> None:
        self.requests += other.requests
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.cached_tokens += other.cached_tokens
        self.reasoning_tokens += other.reasoning_tokens
        self.estimated_requests += other.estimated_requests
        self.estimated_tokens += other.estimated_tokens


class UsageTable:
    """Sums by who. The first `most` of them have entries of their own, all later ones share the last, `OTHER`."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._counts: dict[Who, Counts] = {}

    def of(self, who: Who) -> Counts:
        """The entry to add to."""
        counts = self._counts.get(who)
        if counts is None:
            if len(self._counts) >= self._most:
                who = (OTHER, OTHER, OTHER)
            counts = self._counts.setdefault(who, Counts())
        return counts

    def items(self) -> Iterable[tuple[Who, Counts]]:
        """In the order in which they came."""
        return self._counts.items()

    def taken(self) -> list[tuple[Who, Counts]]:
        """All that there is; the table is empty afterwards."""
        counts, self._counts = self._counts, {}
        return list(counts.items())

    def total(self) -> Counts:
        return _sum(counts for _, counts in self.items())

    def grouped(self, by: Sequence[str]) -> Iterator[tuple[dict[str, str], Counts]]:
        """Summed by some of `DIMENSIONS`, in the order of the names."""
        at = [DIMENSIONS.index(dimension) for dimension in by]
        groups: dict[tuple[str, ...], list[Counts]] = {}
        for who, counts in self.items():
            groups.setdefault(tuple(who[index] for index in at), []).append(counts)
        for names in sorted(groups):
            yield dict(zip(by, names, strict=True)), _sum(groups[names])

    def series(self, most: int) -> list[tuple[Who, Counts]]:
        """At most `most` + 1: the first ones, always the same, and the sum of the others."""
        rows = list(self.items())
        if len(rows) <= most:
            return rows
        return [*rows[:most], ((OTHER, OTHER, OTHER), _sum(counts for _, counts in rows[most:]))]


class UsageObserver(Selective):
    """Books ended requests that a worker was called for, in the shard where they went through the stages."""

    def __init__(self, table: UsageTable) -> None:
        self._table = table

    def wants(self, ticket: Ticket) -> bool:
        return ticket.worker != _NOBODY

    def after_end(self, ticket: Ticket) -> None:
        caller = ticket.caller
        counts = self._table.of((_NOBODY if caller is None else caller.name, ticket.route, ticket.worker))
        counts.requests += 1
        usage = ticket.usage
        if usage is not None:
            prompt, completion = max(usage.prompt_tokens, 0), max(usage.completion_tokens, 0)
            counts.cached_tokens += min(max(usage.cached_tokens, 0), prompt)
            counts.reasoning_tokens += min(max(usage.reasoning_tokens, 0), completion)
        elif ticket.chunks:
            prompt, completion = ticket.prompt_tokens, ticket.chunks
            counts.estimated_requests += 1
            counts.estimated_tokens += prompt + completion
        else:  # it failed, and nobody counts that
            return
        counts.prompt_tokens += prompt
        counts.completion_tokens += completion


def _sum(many: Iterable[Counts]) -> Counts:
    total = Counts()
    for counts in many:
        total.add(counts)
    return total
