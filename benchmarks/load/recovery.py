"""How long a target needs until all is well again, after its load or its backend changed.

Completions are looked at through windows of a second that slide by a tenth of it. A state counts as reached at the
beginning of the first window from which on it holds for three seconds: a dip that comes later by chance (arrivals are
random) does not count, a moment of luck in the middle of trouble neither.

Goodput is back when a window holds at least nine tenths, rounded down, of what the oracle completes in the same second,
or of the requests that arrived where those are fewer. The oracle has the same arrivals and knows every change of the
backend, so that is the new capacity, or what is offered. (It keeps a queue as long as it may: for a moment afterwards
it completes more than arrives.) A request needs a while: of the windows up to 0.3 s earlier, the one with the fewest
arrivals counts. The median is back when half of a window's requests took no longer than 1.2 times the median
before the disturbance, and 10 ms.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.load.scenario import Change, Phase
from benchmarks.report.model import Recovery

WINDOW = 1.0  # seconds
STEP = 0.1
HOLD = 3.0
SHARE = 0.9
_FACTOR, _MORE = 1.2, 0.010
_EARLIER = (0.0, 0.1, 0.2, 0.3)  # seconds
_ENOUGH = 20  # requests, for a median to mean anything
_EPSILON = 1e-9


class Completions:
    """Requests that completed: when, in seconds since the phase began, and after how long; in any order."""

    def __init__(self, ends: Sequence[float], latencies: Sequence[float]) -> None:
        order = sorted(range(len(ends)), key=ends.__getitem__)
        self.ends = [ends[index] for index in order]
        self.latencies = [latencies[index] for index in order]

    def count(self, since: float, until: float) -> int:
        return _between(self.ends, since, until)

    def p50(self, since: float, until: float) -> float | None:
        """None where nothing completed."""
        found = self.latencies[bisect_left(self.ends, since) : bisect_left(self.ends, until)]
        return median(found) if found else None


def _between(times: Sequence[float], since: float, until: float) -> int:
    return bisect_left(times, until) - bisect_left(times, since)


class Disturbance(NamedTuple):
    """`at` and `until` in seconds since the phase began; what comes after `until` has other causes. `returns`: all is
    afterwards as it was before `since`."""

    at: float
    until: float
    what: str
    returns: bool
    since: float


def disturbances(phase: Phase) -> list[Disturbance]:
    """The end of a surge, and what is changed at the backend."""
    found = []
    if phase.arrivals == "surge" and phase.surge_at is not None and phase.surge_seconds is not None:
        over = phase.surge_at + phase.surge_seconds
        found.append(Disturbance(over, phase.seconds, "surge over", returns=True, since=phase.surge_at))
    for index, change in enumerate(phase.changes):
        until = phase.changes[index + 1].at if index + 1 < len(phase.changes) else phase.seconds
        found.append(Disturbance(change.at, until, _said(change), returns=False, since=change.at))
    return found


def _said(change: Change) -> str:
    named = ((name, getattr(change, name)) for name in change.__struct_fields__ if name != "at")
    return ", ".join(f"{name} {value:g}" for name, value in named if value is not None)


def recoveries(phase: Phase, arrivals: Sequence[float], target: Completions, oracle: Completions) -> list[Recovery]:
    """What became of each disturbance of the phase. `arrivals` are in order, in seconds since the phase began."""
    return [_recovery(each, arrivals, target, oracle) for each in disturbances(phase)]


def _recovery(it: Disturbance, arrivals: Sequence[float], target: Completions, oracle: Completions) -> Recovery:
    def enough(since: float) -> bool:
        came = min(_between(arrivals, since - early, since + WINDOW - early) for early in _EARLIER)
        wanted = int(SHARE * min(oracle.count(since, since + WINDOW), came) + _EPSILON)
        return target.count(since, since + WINDOW) >= wanted

    found = Recovery(at=it.at, what=it.what, within=it.until - it.at, goodput=_reached(enough, it))
    if it.returns and target.count(0.0, it.since) >= _ENOUGH:
        normal = target.p50(0.0, it.since) or 0.0
        found.p50_wanted = wanted = _FACTOR * normal + _MORE
        found.p50 = _reached(_quick(target, wanted), it)
        found.oracle_p50 = _reached(_quick(oracle, wanted), it)
    return found


def _quick(completions: Completions, wanted: float) -> Callable[[float], bool]:
    def holds(since: float) -> bool:
        found = completions.p50(since, since + WINDOW)
        return found is not None and found <= wanted

    return holds


def _reached(holds: Callable[[float], bool], it: Disturbance) -> float | None:
    """Seconds after the disturbance; None where it did not come to that, or not for long enough."""
    windows = int((it.until - it.at - WINDOW) / STEP + _EPSILON) + 1  # that end before `until`
    needed = int((HOLD - WINDOW) / STEP + _EPSILON) + 1
    unbroken = 0
    for index in range(windows):
        unbroken = unbroken + 1 if holds(it.at + index * STEP) else 0
        if unbroken == needed:
            return (index - needed + 1) * STEP
    return None
