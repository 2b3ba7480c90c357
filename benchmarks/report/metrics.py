"""What of a phase is compared between two runs, and which direction is better."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from benchmarks.report import facts, parts, units
from benchmarks.report.model import PhaseReport
from benchmarks.report.parts import Cell

SAME = 0.03  # ratios nearer to 1 are not called better or worse; runs of the same thing differ by more than that


class Metric(NamedTuple):
    """`better`: which direction is; None where it depends. `brief`: it is on the terminal as well."""

    name: str
    of: Callable[[PhaseReport], float | None]
    cell: Callable[[float | None], Cell]
    better: Literal["more", "less"] | None
    brief: bool = False


def _latency(share: float) -> Callable[[PhaseReport], float | None]:
    return lambda phase: phase.timings.latency.percentile(share)


def _first(share: float) -> Callable[[PhaseReport], float | None]:
    return lambda phase: phase.timings.first_token.percentile(share)


def _part(of: Callable[[PhaseReport], int]) -> Callable[[PhaseReport], float | None]:
    return lambda phase: units.fraction(of(phase), phase.counts.offered)


METRICS = (
    Metric("offered", facts.offered_rate, parts.per_second, None),
    Metric("goodput", lambda phase: phase.goodput, parts.per_second, "more", brief=True),
    Metric("of the oracle's", facts.share, parts.percent, "more", brief=True),
    Metric("latency p50", _latency(0.5), parts.seconds, "less", brief=True),
    Metric("latency p99", _latency(0.99), parts.seconds, "less", brief=True),
    Metric("latency p99.9", _latency(0.999), parts.seconds, "less"),
    Metric("first token p50", _first(0.5), parts.seconds, "less"),
    Metric("first token p99", _first(0.99), parts.seconds, "less", brief=True),
    Metric("gap p99", lambda phase: phase.timings.gaps.percentile(0.99), parts.seconds, "less"),
    Metric(
        "refused",
        _part(lambda phase: phase.counts.shed + facts.turned_away(phase.counts)),
        parts.percent,
        None,
        brief=True,
    ),
    Metric(
        "refused at the door p99",
        lambda phase: facts.refusal_latency(phase.refusals, "door").percentile(0.99),
        parts.seconds,
        "less",
    ),
    Metric("refusals with Retry-After", lambda phase: facts.retry_after_share(phase.refusals), parts.percent, "more"),
    Metric("failed", _part(lambda phase: facts.troubled(phase.counts)), parts.percent, "less", brief=True),
    Metric("cancelled", _part(lambda phase: phase.counts.cancelled), parts.percent, "less", brief=True),
    Metric(
        "outlived backend work",
        lambda phase: phase.outlived.seconds if phase.outlived else None,
        parts.seconds,
        "less",
    ),
)


def judged(a: float | None, b: float | None, better: Literal["more", "less"] | None) -> Cell:
    if a is None or b is None or better is None:
        return Cell("")
    if a == b or (a and abs(b / a - 1) <= SAME):
        return Cell("same")
    return Cell("▲ better", None, "good") if (b > a) == (better == "more") else Cell("▼ worse", None, "bad")
