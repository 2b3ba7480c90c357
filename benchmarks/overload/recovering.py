"""How soon all is well again."""

from collections.abc import Iterator

from benchmarks.load.recovery import WINDOW
from benchmarks.overload.lines import Line, Outcomes, Row, limit, phase_of
from benchmarks.report import facts, units
from benchmarks.report.model import PhaseReport, Recovery


def _recoveries(outcomes: Outcomes, key: str) -> list[Recovery]:
    phase = phase_of(outcomes, key)
    return phase.recoveries if phase is not None else []


def _reached(row: Row, name: str, known: Recovery | None, value: float | None, most: float) -> Line:
    """A time until something was well again, None where it was not while one looked."""
    line = limit(row, name, value, most, units.duration)
    if known is not None and value is None:
        line = line._replace(measured=f"not within {units.duration(known.within)}")
    elif value == 0.0:
        line = line._replace(measured="at once")
    return line


def surge(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    """No window is shorter than one: an oracle that is back within it counts as taking all of it."""
    found = next(iter(_recoveries(outcomes, row.trials[0])), None)
    name = "five seconds of 1.4x amid 0.7x: time until the p50 is back"
    if found is None or found.oracle_p50 is None:
        yield Line(row.key, name, "≤ 1.5 × the oracle's", "not measured", None, met=False)  # noqa: RUF001
        return
    oracle = max(found.oracle_p50, WINDOW)
    line = _reached(row, name, found, found.p50, 1.5 * oracle)
    yield line._replace(beside=f"1.5 × the oracle's, which is {units.duration(found.oracle_p50)}")  # noqa: RUF001


def capacity(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    for key, what in zip(row.trials, ("a fifth of the slots", "requests five times as long"), strict=True):
        found = _recoveries(outcomes, key)
        for index, name in enumerate((what, f"{what}, and back")):
            one = found[index] if index < len(found) else None
            line = _reached(row, f"{name}: until goodput ≥ 90 %", one, one.goodput if one else None, 3.0)
            yield line._replace(beside=_whole_phase(phase_of(outcomes, key)))


def _whole_phase(phase: PhaseReport | None) -> str:
    """What three good seconds do not show."""
    share = facts.share(phase) if phase is not None else None
    return f"{units.percent(share)} of the oracle's over the whole phase" if share is not None else ""


def impatient(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    found = next(iter(_recoveries(outcomes, row.trials[0])), None)
    times = [found.goodput, found.p50] if found is not None else [None]
    known = [each for each in times if each is not None]
    value = max(known) if len(known) == len(times) else None
    yield _reached(row, "three retries at once: back to normal after the load drops", found, value, 5.0)
