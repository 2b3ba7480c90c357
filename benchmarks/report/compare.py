"""Two runs side by side."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from benchmarks.report import facts, parts, plots, units
from benchmarks.report.comparison import comparison, comparison_terminal
from benchmarks.report.curves import curves
from benchmarks.report.facts import Verdict
from benchmarks.report.metrics import METRICS, SAME, Metric, judged
from benchmarks.report.model import PhaseReport, Report
from benchmarks.report.parts import Absent, Cell, Chart, Section, Table
from benchmarks.report.render import render
from benchmarks.report.terminal import grid

__all__ = ["compare_html", "compare_terminal", "comparison", "comparison_terminal", "differences"]

_PHASES = 60
_TERMINAL_PHASES = 8


def compare_terminal(a: Report, b: Report, console: Console) -> None:
    """The main figures of each phase that both have."""
    for label, report in (("A", a), ("B", b)):
        console.print(Text(f"{label}  {_label(report)}", style="bold"), no_wrap=True, crop=True, overflow="ellipsis")
    reasons = differences(a, b)
    console.print(Text(_headline(reasons), style="bold"))
    for reason in reasons:
        console.print(Text(f"- {reason}"), soft_wrap=False)
    pairs, more = parts.busiest(_pairs(a, b), _TERMINAL_PHASES, lambda pair: facts.offered_rate(pair[0]))
    for one, other in pairs:
        console.print()
        console.print(grid(_phase_table(one, other, [metric for metric in METRICS if metric.brief])))
    if more:
        console.print(f"… and {units.some(more, 'phase')} of lower load")
    console.print()
    console.print(grid(_run_table(a, b)))


def _headline(reasons: Sequence[str]) -> str:
    return "Read with care: not only what is compared differs." if reasons else "The same scenario, seed and place."


def compare_html(a: Report, b: Report) -> str:
    """Raises NeedsPlotly."""
    reasons = differences(a, b)
    pairs, more = parts.busiest(_pairs(a, b), _PHASES, lambda pair: facts.offered_rate(pair[0]))
    if more:
        reasons.append(f"{units.some(more, 'phase')} of lower load are not shown.")
    sections = [
        Section(
            "phases", "Phases", _HOW_TO_READ, [_phase_table(one, other, METRICS) for one, other in pairs] or _NO_PAIR
        ),
        Section("charts", "Charts", "", _charts(pairs)),
        Section("run", "Whole runs", "", [_run_table(a, b)]),
    ]
    return render(
        title="Two runs side by side",
        lines=[f"A: {_label(a)}", f"B: {_label(b)}"],
        verdict=Verdict("careful" if reasons else "sound", _headline(reasons), reasons),
        tiles_title="",
        tiles=[],
        sections=sections,
    )


_HOW_TO_READ = (
    f"The ratio is B ÷ A. Within {SAME * 100:.0f} % it is called the same; single runs on a shared machine "
    "differ by more than that by chance."
)
_NO_PAIR = [Absent("No phase in common", "Phases are matched by name.")]


def _label(report: Report) -> str:
    env = report.environment
    at = "" if report.name == report.target.url else f" at {report.target.url}"
    text = f"{env.started} {report.scenario_name}: {report.name}{at}, commit {env.commit}"
    return units.plain(f"{text}, seed {report.seed}", 300)


# --- what differs --------------------------------------------------------------------------------------------------


def differences(a: Report, b: Report) -> list[str]:
    """What a reader has to know before comparing; empty when only the target may differ."""
    reasons = [
        f"{label} is not sound: {' '.join(found.reasons[:3])}"
        for label, found in (("A", facts.verdict(a)), ("B", facts.verdict(b)))
        if found.level != "sound"
    ]
    if a.seed != b.seed:
        reasons.append(f"The seeds differ, {a.seed} and {b.seed}: not the same requests came.")
    reasons += _listed("The scenarios differ", _unlike(_without(a.scenario, {"seed"}), _without(b.scenario, {"seed"})))
    ignored = {"started", "commit", "headgate"}
    mine, other = (_without(msgspec.to_builtins(report.environment), ignored) for report in (a, b))
    reasons += _listed("The environments differ", _unlike(mine, other))
    rates = [report.capacity.rate if report.capacity else None for report in (a, b)]
    if rates[0] != rates[1]:
        reasons.append(f"The capacities differ: {units.rate(rates[0])} and {units.rate(rates[1])}.")
    reasons += _listed(
        "Phases differ in length",
        (
            f"{units.plain(one.name, 40)} {units.duration(one.seconds)} and {units.duration(other.seconds)}"
            for one, other in _pairs(a, b)
            if abs(one.seconds - other.seconds) > 0.01 * max(one.seconds, other.seconds)
        ),
    )
    names = [{phase.name for phase in report.phases} for report in (a, b)]
    for label, only in (("A", names[0] - names[1]), ("B", names[1] - names[0])):
        reasons += _listed(f"Phases of {label} only", iter(sorted(units.plain(name, 40) for name in only)))
    return reasons


def _without(fields: dict[str, Any], ignored: set[str]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name not in ignored}


def _listed(title: str, items: Iterator[str], most: int = 5) -> list[str]:
    found = list(items)
    if not found:
        return []
    more = f"; and {len(found) - most} more" if len(found) > most else ""
    return [f"{title}: {'; '.join(found[:most])}{more}."]


def _unlike(a: Any, b: Any, path: str = "") -> Iterator[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys(), key=str):
            yield from _unlike(a.get(key), b.get(key), f"{path}.{key}".lstrip("."))
    elif isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        for index, (one, other) in enumerate(zip(a, b, strict=True)):
            yield from _unlike(one, other, f"{path}[{index}]")
    elif a != b:
        yield units.plain(f"{path} {_short(a)} and {_short(b)}", 160)


def _short(value: Any) -> str:
    return f"{len(value)} entries" if isinstance(value, list) else "none" if value is None else str(value)


def _pairs(a: Report, b: Report) -> list[tuple[PhaseReport, PhaseReport]]:
    others = {phase.name: phase for phase in b.phases}
    return [(phase, others[phase.name]) for phase in a.phases if phase.name in others and not phase.warmup]


# --- tables and charts ---------------------------------------------------------------------------------------------


def _compared(
    name: str, a: float | None, b: float | None, cell: Callable[[float | None], Cell], better: Any
) -> list[Cell]:
    factor = b / a if a and b is not None else None
    return [Cell(name), cell(a), cell(b), Cell(units.ratio(factor), factor), judged(a, b, better)]


def _phase_table(a: PhaseReport, b: PhaseReport, metrics: Sequence[Metric]) -> Table:
    rows = [
        _compared(metric.name, one, other, metric.cell, metric.better)
        for metric in metrics
        for one, other in [(metric.of(a), metric.of(b))]
        if one is not None or other is not None
    ]
    caption = f"{units.plain(a.name)}: {facts.at_load(a)}"
    return Table(caption, ["", "A", "B", "B ÷ A", ""], rows, left=frozenset({4}), half=True)


def _run_table(a: Report, b: Report) -> Table:
    rows = [
        _compared("CPU a request", a.processes.cpu_per_request, b.processes.cpu_per_request, parts.seconds, "less"),
        _compared("peak memory", a.processes.peak_resident, b.processes.peak_resident, _size, "less"),
        _compared(
            "generator's lag p99",
            a.generator.lag.percentile(0.99),
            b.generator.lag.percentile(0.99),
            parts.seconds,
            None,
        ),
    ]
    if a.backend and b.backend:
        left = (a.backend.left_running, b.backend.left_running)
        rows.append(_compared("left running at the backend", *left, cell=_count, better="less"))
    verdicts = [
        Cell(facts.verdict(report).level, None, "" if facts.verdict(report).level == "sound" else "bad")
        for report in (a, b)
    ]
    rows.append([Cell("verdict"), *verdicts, Cell(""), Cell("")])
    return Table("Whole runs", ["", "A", "B", "B ÷ A", ""], rows, left=frozenset({4}))


def _size(value: float | None) -> Cell:
    return parts.size(None if value is None else round(value))


def _count(value: float | None) -> Cell:
    return parts.count(None if value is None else round(value))


def _charts(pairs: Sequence[tuple[PhaseReport, PhaseReport]]) -> list[Chart | Absent]:
    if not pairs:
        return []
    names = [plots.escaped(a.name, 24) for a, _ in pairs]
    traces = [
        plots.bars("A", names, [a.goodput for a, _ in pairs], "--series1"),
        plots.bars("B", names, [b.goodput for _, b in pairs], "--series2", "/"),
    ]
    figure = plots.figure(
        traces,
        plots.axis("", type="category"),
        plots.axis("goodput, requests per second", rangemode="tozero"),
        barmode="group",
    )
    rows = [[parts.words(a.name), parts.per_second(a.goodput), parts.per_second(b.goodput)] for a, b in pairs]
    goodput = Chart(
        "goodput",
        "Goodput by phase",
        "Completed per second while requests arrived.",
        figure,
        Table("Goodput", ["phase", "A", "B"], rows),
    )
    return [goodput, *_curves(*max(pairs, key=lambda pair: facts.offered_rate(pair[0])))]


def _curves(a: PhaseReport, b: PhaseReport) -> list[Chart | Absent]:
    found = [("A", a.timings.latency, "--series1", "solid"), ("B", b.timings.latency, "--series2", "dash")]
    if not all(latency.count for _, latency, _, _ in found):
        return [Absent("Latency percentiles", "In the hardest phase one of the runs completed nothing.")]
    where = f"Phase “{units.plain(a.name)}”, completed requests, from the intended send time."
    return [curves("latency", "Latency percentiles in the hardest phase", where, found)]
