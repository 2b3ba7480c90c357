"""When the requests of a phase arrive: pure, lazy, and the same for the same seed."""

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import count, takewhile
from random import Random

from benchmarks.load.scenario import Phase
from benchmarks.load.trace import Entry


def offsets(phase: Phase, capacity: float | None, random: Random, trace: Sequence[Entry] = ()) -> Iterator[float]:
    """The seconds since the phase began at which requests arrive: in order, all of them below `phase.seconds`.

    `capacity` is what a load of 1 stands for, in requests a second; `trace` has the entries of `phase.file` in order of
    time, and the i-th offset is that of its i-th entry. A closed loop has no arrivals of its own.
    Raises ValueError for a load without a capacity.
    """
    return takewhile(lambda at: at < phase.seconds, _ENDLESS[phase.arrivals](phase, capacity, random, trace))


def schedule(
    phase: Phase, capacity: float | None, random: Random, trace: Sequence[Entry] = ()
) -> Iterator[tuple[float, Entry | None]]:
    """`offsets`, each with what the trace says of it; None for other arrivals."""
    times = offsets(phase, capacity, random, trace)
    return zip(times, trace, strict=False) if phase.arrivals == "trace" else ((at, None) for at in times)


def rates(phase: Phase, capacity: float | None) -> tuple[float, float]:
    """Requests a second at the phase's begin, and those that a ramp or surge goes to (else the same); (0, 0) for a
    closed loop and a trace. Raises ValueError for a load without a capacity."""
    begin = _rate(phase.rate, phase.load, capacity)
    end = _rate(phase.to_rate, phase.to_load, capacity)
    return begin, end or begin


def mean_rate(phase: Phase, capacity: float | None) -> float | None:
    """Requests a second over the whole phase as they are intended; None for a closed loop and a trace."""
    if phase.arrivals in {"closed", "trace"}:
        return None
    begin, end = rates(phase, capacity)
    if phase.arrivals == "ramp":
        return (begin + end) / 2
    if phase.arrivals == "surge":
        surge_from, surge_to = _surge(phase)
        return begin + (end - begin) * (surge_to - surge_from) / phase.seconds
    return begin


def _rate(rate: float | None, load: float | None, capacity: float | None) -> float:
    if rate is not None:
        return rate
    if load is None:
        return 0.0
    if capacity is None:
        raise ValueError(f"a load of {load:g} needs a capacity that it is a multiple of")
    return load * capacity


def _surge(phase: Phase) -> tuple[float, float]:
    begin = min(phase.surge_at or 0.0, phase.seconds)
    return begin, min(begin + (phase.surge_seconds or 0.0), phase.seconds)


def _poisson(phase: Phase, capacity: float | None, random: Random, _: Sequence[Entry]) -> Iterator[float]:
    rate, at = rates(phase, capacity)[0], 0.0
    while True:
        at += random.expovariate(rate)
        yield at


def _constant(phase: Phase, capacity: float | None, _: Random, __: Sequence[Entry]) -> Iterator[float]:
    rate = rates(phase, capacity)[0]
    return (number / rate for number in count())


def _burst(phase: Phase, capacity: float | None, _: Random, __: Sequence[Entry]) -> Iterator[float]:
    rate, size = rates(phase, capacity)[0], phase.burst or 1
    return (number * size / rate for number in count() for _ in range(size))


def _ramp(phase: Phase, capacity: float | None, random: Random, _: Sequence[Entry]) -> Iterator[float]:
    """A Poisson process whose rate changes evenly. Exact: with n(t) arrivals expected until t, the times at which n is
    at the arrivals of a process of rate 1 are those of this one (Lewis and Shedler, 1979)."""
    begin, end = rates(phase, capacity)
    bend = (end - begin) / (2 * phase.seconds)  # n(t) = begin · t + bend · t²
    expected = 0.0
    while True:
        expected += random.expovariate(1.0)
        root = begin * begin + 4 * bend * expected
        if root < 0:  # more than a falling ramp ever brings
            return
        yield 2 * expected / (begin + math.sqrt(root))


def _surging(phase: Phase, capacity: float | None, random: Random, _: Sequence[Entry]) -> Iterator[float]:
    """As a ramp, with a rate that jumps up and back."""
    base, high = rates(phase, capacity)
    begin, end = _surge(phase)
    until_begin, until_end = base * begin, base * begin + high * (end - begin)  # arrivals expected until then
    expected = 0.0
    while True:
        expected += random.expovariate(1.0)
        if expected < until_begin:
            yield expected / base
        elif expected < until_end:
            yield begin + (expected - until_begin) / high
        else:
            yield end + (expected - until_end) / base


def _trace(phase: Phase, _: float | None, __: Random, trace: Sequence[Entry]) -> Iterator[float]:
    return (entry.at / phase.speed for entry in trace)


def _closed(_: Phase, __: float | None, ___: Random, ____: Sequence[Entry]) -> Iterator[float]:
    return iter(())


_Endless = Callable[[Phase, float | None, Random, Sequence[Entry]], Iterator[float]]

_ENDLESS: dict[str, _Endless] = {
    "poisson": _poisson,
    "constant": _constant,
    "burst": _burst,
    "ramp": _ramp,
    "surge": _surging,
    "trace": _trace,
    "closed": _closed,
}
