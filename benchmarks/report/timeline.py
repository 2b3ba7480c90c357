"""The time line of a run: fewer points of it, and the marks that all charts over time have."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

from benchmarks.report import facts, units
from benchmarks.report.model import Moment, Report


def thinned(moments: Sequence[Moment], most: int) -> list[Moment]:
    """Neighbours merged until there are at most `most`: counts are summed, of percentiles the worst is kept."""
    if len(moments) <= most:
        return list(moments)
    return [_merged(lot) for lot in lots(moments, most)]


def lots(items: Sequence[Any], most: int) -> list[Sequence[Any]]:
    bounds = [round(index * len(items) / most) for index in range(most + 1)]
    return [items[start:end] for start, end in pairwise(bounds) if end > start]


def _merged(lot: Sequence[Moment]) -> Moment:
    sums = ("offered", "completed", "shed", "rejected", "expired", "failed", "cancelled")
    oracles = [moment.oracle for moment in lot if moment.oracle is not None]
    return Moment(
        at=lot[0].at,
        seconds=sum(moment.seconds for moment in lot),
        in_flight=max(moment.in_flight for moment in lot),
        oracle=sum(oracles) if oracles else None,
        p50=_worst(moment.p50 for moment in lot),
        p99=_worst(moment.p99 for moment in lot),
        oracle_p50=_worst(moment.oracle_p50 for moment in lot),
        oracle_p99=_worst(moment.oracle_p99 for moment in lot),
        **{name: sum(getattr(moment, name) for moment in lot) for name in sums},
    )


def _worst(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def steps(
    moments: Sequence[Moment], of: Callable[[Moment], int | None]
) -> tuple[list[float | None], list[float | None]]:
    """A line of steps, per second: through the middle of each moment, to the edges of those that touch no other."""
    x: list[float | None] = []
    y: list[float | None] = []
    for index, moment in enumerate(moments):
        value = of(moment)
        height = None if value is None else value / moment.seconds
        start, end = moment.at, moment.at + moment.seconds
        before = moments[index - 1] if index else None
        after = moments[index + 1] if index + 1 < len(moments) else None
        if before is None or not _touch(before, moment):
            x.append(start)
            y.append(height)
        x.append(moment.at + moment.seconds / 2)
        y.append(height)
        if after is None or not _touch(moment, after):
            x += [end, None]
            y += [height, None]
    return x, y


def _touch(first: Moment, second: Moment) -> bool:
    return second.at - first.at - first.seconds < first.seconds * 0.01


def peaks(points: Sequence[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    if len(points) <= most:
        return list(points)
    return [max(lot, key=lambda point: point[1]) for lot in lots(points, most)]


def thinned_note(all_of_them: Sequence[Moment], shown: Sequence[Moment]) -> str:
    if len(shown) == len(all_of_them):
        return ""
    return "Several moments each: rates are their mean, percentiles and requests in flight their worst."


# --- marks ---------------------------------------------------------------------------------------------------------


def shaded(report: Report) -> str:
    """What the shaded stretches of `marks` mean."""
    warm = " Grey: warm-up." if any(phase.warmup for phase in report.phases) else ""
    return warm + (" Red: the generator was behind." if report.generator.behind else "")


def end(report: Report) -> float:
    ends = [moment.at + moment.seconds for moment in report.moments[-1:]]
    return max([report.seconds, *ends])


def marks(report: Report) -> dict[str, Any]:
    """Where phases begin, and where the generator was late: there the figures are not the target's."""
    phases = report.phases if len(report.phases) <= 60 else []
    shapes = [
        {
            "type": "line",
            "x0": phase.at,
            "x1": phase.at,
            "y0": 0,
            "y1": 1,
            "yref": "paper",
            "layer": "below",
            "line": {"color": "--axis", "width": 1, "dash": "dot"},
        }
        for phase in phases
    ]
    shapes += [_band(phase.at, phase.at + phase.seconds, "--quiet", 0.12) for phase in phases if phase.warmup] + [
        _band(start, end, "--failed", 0.18) for start, end, _ in report.generator.behind[:100]
    ]
    spans = [[units.plain(facts.named(phase)), phase.at, phase.at + phase.seconds] for phase in phases]
    return {"shapes": shapes, "meta": {"spans": spans}, "margin": {"l": 8, "r": 12, "t": 22, "b": 8}}


def _band(start: float, end: float, color: str, opacity: float) -> dict[str, Any]:
    return {
        "type": "rect",
        "x0": start,
        "x1": end,
        "y0": 0,
        "y1": 1,
        "yref": "paper",
        "layer": "below",
        "line": {"width": 0},
        "fillcolor": color,
        "opacity": opacity,
    }
