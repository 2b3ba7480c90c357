"""Whether something grows: robust slopes over the lives of processes. Pure."""

from collections.abc import Iterable, Sequence
from itertools import combinations
from statistics import median
from typing import NamedTuple

Point = tuple[float, float]  # seconds, value

_MOST_POINTS = 200  # whose pairs are looked at: their number grows with the square
_FEWEST = 8


class Allowance(NamedTuple):
    """`grow`: what may be added between the end of the warm-up and the end of a life; `most`: what may ever be held."""

    warmup: float
    grow: float
    most: float


class Growth(NamedTuple):
    """Over `seconds`, by the slope that half of all pairs of points exceed; `added` is that slope over that time."""

    added: float
    seconds: float


def slope(points: Sequence[Point]) -> float:
    """The median slope of all pairs of points, per second (Theil, 1950; Sen, 1968): up to 29 % of the points may be
    anything. 0 where there are fewer than two moments."""
    points = thinned(points, _MOST_POINTS)
    slopes = [(b[1] - a[1]) / (b[0] - a[0]) for a, b in combinations(points, 2) if b[0] != a[0]]
    return median(slopes) if slopes else 0.0


def growth(points: Iterable[Point], warmup: float) -> Growth | None:
    """From `warmup` on; None where there is too little to say."""
    after = [point for point in points if point[0] >= warmup]
    if len(after) < _FEWEST:
        return None
    seconds = after[-1][0] - after[0][0]
    return Growth(slope(after) * seconds, seconds)


def thinned(points: Sequence[Point], most: int) -> Sequence[Point]:
    """At most so many, evenly chosen, the first and the last among them."""
    if len(points) <= most:
        return points
    return [points[round(index * (len(points) - 1) / (most - 1))] for index in range(most)]


def judged(name: str, points: Sequence[Point], allowed: Allowance, unit: str) -> list[str]:
    """What is wrong with one life, in sentences; `name` says whose and of what."""
    problems = []
    peak = max((value for _, value in points), default=0.0)
    if peak > allowed.most:
        problems.append(f"{name} reached {peak:.4g} {unit}, more than {allowed.most:g}")
    found = growth(points, allowed.warmup)
    if found is not None and found.added > allowed.grow:
        since = f"in {found.seconds:.0f} s after its warm-up"
        problems.append(f"{name} grew by {found.added:.3g} {unit} {since}; {allowed.grow:g} may be")
    return problems
