"""A line of the table, and the row of trials that it comes from."""

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from benchmarks.overload.trial import Outcome
from benchmarks.report import facts, units
from benchmarks.report.model import PhaseReport, Report

Outcomes = Mapping[str, Outcome]


class Line(NamedTuple):
    """One line of the table. `value` is the exact figure, None where there is none; `beside` says what else to know."""

    row: str
    name: str
    target: str
    measured: str
    value: float | None
    met: bool
    beside: str = ""


class Row(NamedTuple):
    """`trials` are the keys of those that `judge` looks at; it gives the lines of the table."""

    key: str
    about: str
    trials: tuple[str, ...]
    judge: Callable[["Row", Outcomes], Iterator[Line]]


def phase_of(outcomes: Outcomes, key: str) -> PhaseReport | None:
    """The one measured phase of a trial."""
    report = report_of(outcomes, key)
    return next(iter(facts.measured(report)), None) if report is not None else None


def report_of(outcomes: Outcomes, key: str) -> Report | None:
    outcome = outcomes.get(key)
    return outcome.report if outcome is not None else None


def limit(row: Row, name: str, value: float | None, most: float, shown: Callable[[float | None], str]) -> Line:
    """A figure that must not be larger."""
    met = value is not None and value <= most
    return Line(row.key, name, f"≤ {shown(most)}", _measured(value, shown), value, met)


def floor(row: Row, name: str, value: float | None, least: float, shown: Callable[[float | None], str]) -> Line:
    """A figure that must not be smaller."""
    met = value is not None and value >= least
    return Line(row.key, name, f"≥ {shown(least)}", _measured(value, shown), value, met)


def _measured(value: float | None, shown: Callable[[float | None], str]) -> str:
    return "not measured" if value is None else shown(value)


def ratio(value: float | None) -> str:
    return units.NOTHING if value is None else f"{value:.3f}"


def growth_shown(value: float | None) -> str:
    return units.NOTHING if value is None else f"{value * 100:+.1f} %"


def number(value: float | None) -> str:
    return units.NOTHING if value is None else f"{value:.0f}"
