"""What a request gets less of because of the load, so that more requests are served before any is refused."""

from collections.abc import Sequence

import msgspec


class Step(msgspec.Struct, frozen=True):
    """From `pressure` on, at most so many `passages`, or an answer of at most so many tokens.

    Pressure is the estimated wait as a share of the wait allowed: at 1.0 the next request is refused.
    """

    pressure: float
    passages: int | None = None
    max_tokens: int | None = None


class Reduction(msgspec.Struct, frozen=True):
    """At most so many passages and tokens; None: as many as without pressure."""

    passages: int | None = None
    max_tokens: int | None = None

    @property
    def labels(self) -> tuple[str, ...]:
        """As the response header names it."""
        labels = []
        if self.passages is not None:
            labels.append(f"passages={self.passages}")
        if self.max_tokens is not None:
            labels.append(f"max_tokens={self.max_tokens}")
        return tuple(labels)


NOTHING = Reduction()


def reduced(steps: Sequence[Step], pressure: float) -> Reduction:
    """What `steps` take away at this pressure, in their order: none acts before the one in front of it does, whatever
    its own pressure. Of several for the same thing the smallest counts."""
    passages: int | None = None
    max_tokens: int | None = None
    for step in steps:
        if not pressure >= step.pressure:
            break
        passages = _smaller(passages, step.passages)
        max_tokens = _smaller(max_tokens, step.max_tokens)
    return NOTHING if passages is None and max_tokens is None else Reduction(passages, max_tokens)


def applied(reduction: Reduction, passages: int, max_tokens: int | None) -> Reduction:
    """The part of `reduction` that changes something for a request whose route retrieves so many `passages` (0: it has
    no collection) and which asks for `max_tokens` at most (None: sets no limit)."""
    fewer = reduction.passages is not None and reduction.passages < passages
    shorter = reduction.max_tokens is not None and (max_tokens is None or reduction.max_tokens < max_tokens)
    if not fewer and not shorter:
        return NOTHING
    return Reduction(reduction.passages if fewer else None, reduction.max_tokens if shorter else None)


def _smaller(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)
