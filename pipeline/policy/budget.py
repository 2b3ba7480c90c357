"""Which parts of a prompt fit a model's token budget."""

from collections.abc import Sequence
from typing import NamedTuple


class Fit(NamedTuple):
    """How many of the best passages and of the newest older turns stay; `spare` tokens are left (negative: nothing
    fits)."""

    passages: int
    turns: int
    spare: int


def fit(budget: int, fixed: int, passages: Sequence[int], turns: Sequence[int]) -> Fit:
    """Divides `budget` tokens: first what always stays (`fixed`), then passages, then older turns.

    `passages` are token counts, best first; `turns` token counts, newest first. Each list is kept up to its first
    member that does not fit: a worse passage never takes the place of a better one, and a conversation never gets
    holes.
    """
    spare = budget - fixed
    kept_passages, spare = _prefix(spare, passages)
    kept_turns, spare = _prefix(spare, turns)
    return Fit(kept_passages, kept_turns, spare)


def _prefix(spare: int, costs: Sequence[int]) -> tuple[int, int]:
    for kept, cost in enumerate(costs):
        if cost > spare:
            return kept, spare
        spare -= cost
    return len(costs), spare
