"""Several gateways before the same scenarios."""

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from rich.console import Console
from rich.text import Text

from benchmarks.report import ablation as steps
from benchmarks.report import facts, parts, plots, units
from benchmarks.report.ablation import AblationLine
from benchmarks.report.facts import Verdict
from benchmarks.report.model import PhaseReport, Report
from benchmarks.report.parts import Absent, Cell, Chart, Section, Table
from benchmarks.report.render import render
from benchmarks.report.terminal import grid

_PHASES = 24
_Named = tuple[str, Report]


def comparison(reports: Sequence[Report], missing: Sequence[tuple[str, str]], ablation: Sequence[AblationLine]) -> str:
    """A page: `reports` are grouped by `scenario_name`, a report's `name` is its gateway's. `missing`: gateways that
    were not measured, and why. Raises NeedsPlotly."""
    sections = []
    for index, (scenario, runs) in enumerate(_by_scenario(reports).items()):
        phases = _phases(runs)[:_PHASES]
        tables = [_phase_table(phase, runs) for phase in phases]
        charts = [_goodput(f"goodput{index}", phases, runs), _latency(f"latency{index}", phases, runs)]
        items: list[Chart | Table | Absent] = [*charts, *tables, _run_table(runs)]
        sections.append(Section(f"scenario{index}", units.plain(scenario, 80), "", items))
    if missing:
        rows = [[parts.words(name), parts.words(reason, 300)] for name, reason in missing]
        table = Table("Not measured", ["gateway", "why"], rows, left=frozenset({1}))
        sections.append(Section("missing", "Not measured", "", [table]))
    items = [steps.table(ablation)] if ablation else [Absent("No step was recorded yet", "")]
    sections.append(Section("ablation", "Step by step", _ABLATION, items))
    return render(
        title="Gateways compared",
        lines=_lines(reports),
        verdict=_verdict(reports, missing),
        tiles_title="",
        tiles=[],
        sections=sections,
    )


_ABLATION = "Each version beside the one before it, on the same scenario. Figures of different machines do not compare."


def comparison_terminal(reports: Sequence[Report], missing: Sequence[tuple[str, str]], console: Console) -> None:
    """A line for each gateway and phase, at most 80 columns wide."""
    for scenario, runs in _by_scenario(reports).items():
        columns = ["phase", "gateway", "goodput", "oracle", "p50", "p99", "refused", "Retry-A."]
        rows = [
            [
                parts.words(phase, 12),
                parts.words(name, 17),
                *_short(found),
            ]
            for phase in _phases(runs)[:_PHASES]
            for name, report in runs
            if (found := _phase(report, phase))
        ]
        console.print(grid(Table(units.plain(scenario, 60), columns, rows, left=frozenset({1}))))
        console.print()
    for name, reason in missing:
        console.print(Text(f"{units.plain(name, 24)}: not measured: {units.plain(reason, 300)}"))
    for warning in _warnings(reports):
        console.print(Text(f"- {warning}"))


def _short(phase: PhaseReport) -> list[Cell]:
    counts = phase.counts
    return [
        parts.per_second(phase.goodput),
        parts.percent(facts.share(phase)),
        parts.seconds(phase.timings.latency.percentile(0.5)),
        parts.seconds(phase.timings.latency.percentile(0.99)),
        parts.percent(units.fraction(counts.shed + facts.turned_away(counts), counts.offered)),
        parts.percent(facts.retry_after_share(phase.refusals)),
    ]


# --- who is compared -----------------------------------------------------------------------------------------------


def _by_scenario(reports: Sequence[Report]) -> dict[str, list[_Named]]:
    """Of several runs of one gateway each gets a number."""
    groups: dict[str, list[_Named]] = {}
    for report in reports:
        group = groups.setdefault(report.scenario_name, [])
        before = sum(one.name == report.name for _, one in group)
        group.append((f"{report.name} ({before + 1})" if before else report.name, report))
    return groups


def _phases(runs: Sequence[_Named]) -> list[str]:
    return list(dict.fromkeys(phase.name for _, report in runs for phase in facts.measured(report)))


def _phase(report: Report, name: str) -> PhaseReport | None:
    return next((phase for phase in facts.measured(report) if phase.name == name), None)


def _lines(reports: Sequence[Report]) -> list[str]:
    if not reports:
        return ["No run."]
    env = reports[0].environment
    return [units.plain(f"{env.started}; {env.processor}, {units.some(env.cores, 'core')}; commit {env.commit}", 300)]


def _verdict(reports: Sequence[Report], missing: Sequence[tuple[str, str]]) -> Verdict:
    warnings = _warnings(reports)
    warnings += [f"{units.plain(name, 40)} was not measured: {units.plain(reason, 300)}" for name, reason in missing]
    if not reports:
        return Verdict("careful", "Nothing was measured.", warnings)
    if warnings:
        return Verdict("careful", "Read with care.", warnings)
    return Verdict("sound", "Sound: the same scenarios and seeds on the same machine, and every run adds up.", [])


def _warnings(reports: Sequence[Report]) -> list[str]:
    warnings = []
    for scenario, runs in _by_scenario(reports).items():
        where = units.plain(scenario, 60)
        for label, values in (
            ("seeds", {report.seed for _, report in runs}),
            ("scenario files", {repr(report.scenario) for _, report in runs}),
            (
                "machines",
                {
                    (report.environment.machine, report.environment.processor, report.environment.cores)
                    for _, report in runs
                },
            ),
        ):
            if len(values) > 1:
                warnings.append(f"{where}: the runs have different {label}.")
        for name, report in runs:
            found = facts.verdict(report)
            if found.level != "sound":
                warnings.append(f"{where}, {units.plain(name, 40)}: {found.headline} {' '.join(found.reasons[:2])}")
    return warnings


# --- tables and charts ---------------------------------------------------------------------------------------------


def _phase_table(name: str, runs: Sequence[_Named]) -> Table:
    columns = ["gateway", "offered", "goodput", "of the oracle's", "p50", "p99", "refused", "failed", "cancelled"]
    columns += ["with Retry-After", "refusal p99", "outlived requests", "slots held for them"]
    rows = []
    load = ""
    for gateway, report in runs:
        phase = _phase(report, name)
        if phase is None:
            rows.append([parts.words(gateway, 40), *[Cell(units.NOTHING)] * (len(columns) - 1)])
            continue
        load = load or facts.at_load(phase)
        rows.append([parts.words(gateway, 40), *_figures(phase)])
    return Table(f"{units.plain(name)}: {load}", columns, rows)


def _figures(phase: PhaseReport) -> list[Cell]:
    counts, latency, gone = phase.counts, phase.timings.latency, phase.outlived
    refused = facts.refusal_latency(phase.refusals, "door")
    if not refused.count:
        for entry in phase.refusals:
            refused.merge(entry.latency)
    return [
        parts.per_second(facts.offered_rate(phase)),
        parts.per_second(phase.goodput),
        parts.percent(facts.share(phase)),
        parts.seconds(latency.percentile(0.5)),
        parts.seconds(latency.percentile(0.99)),
        parts.percent(units.fraction(counts.shed + facts.turned_away(counts), counts.offered)),
        parts.percent(units.fraction(facts.troubled(counts), counts.offered)),
        parts.percent(units.fraction(counts.cancelled, counts.offered)),
        parts.percent(facts.retry_after_share(phase.refusals)),
        parts.seconds(refused.percentile(0.99)),
        parts.count(gone.requests if gone else None),
        parts.seconds(gone.seconds if gone else None),
    ]


def _run_table(runs: Sequence[_Named]) -> Table:
    columns = ["gateway", "server", "CPU a request", "peak memory", "left running", "wasted backend time", "verdict"]
    rows = []
    for name, report in runs:
        backend, verdict = report.backend, facts.verdict(report)
        wasted = units.fraction(backend.wasted_seconds, backend.busy_seconds) if backend else None
        rows.append(
            [
                parts.words(name, 40),
                parts.words(f"{report.target.server} {report.target.version}".strip() or "unknown", 40),
                parts.seconds(report.processes.cpu_per_request),
                parts.size(report.processes.peak_resident),
                parts.count(backend.left_running if backend else None),
                parts.percent(wasted),
                Cell(verdict.level, None, "" if verdict.level == "sound" else "bad"),
            ]
        )
    return Table("Whole runs", columns, rows, left=frozenset({1}))


def _goodput(identity: str, phases: Sequence[str], runs: Sequence[_Named]) -> Chart:
    names = [plots.escaped(phase, 24) for phase in phases]
    values = {name: [_of(report, phase) for phase in phases] for name, report in runs}
    traces = _bars(names, values)
    best = [_oracle(phase, runs) for phase in phases]
    figure = plots.figure(
        traces,
        plots.axis("", type="category"),
        plots.axis("goodput, requests per second", rangemode="tozero"),
        barmode="group",
        shapes=_dashes(best),
    )
    rows = [[parts.words(name, 40), *map(parts.per_second, found)] for name, found in values.items()]
    rows.append([Cell("oracle"), *map(parts.per_second, best)])
    columns = ["gateway", *(units.plain(phase, 40) for phase in phases)]
    words = "Completed per second while requests arrived; the dashed line is what was possible (the oracle)."
    return Chart(identity, "Goodput", words, figure, Table("Goodput", columns, rows))


def _dashes(heights: Sequence[float | None]) -> list[dict[str, Any]]:
    """A line over each group of bars."""
    known = [(index, height) for index, height in enumerate(heights) if height is not None]
    return [
        {
            "type": "line",
            "name": "oracle",
            "showlegend": (index, height) == known[0],
            "legendgroup": "oracle",
            "x0": index - 0.45,
            "x1": index + 0.45,
            "y0": height,
            "y1": height,
            "line": {"color": "--oracle", "width": 2, "dash": "dash"},
        }
        for index, height in known
    ]


def _latency(identity: str, phases: Sequence[str], runs: Sequence[_Named]) -> Chart:
    names = [plots.escaped(phase, 24) for phase in phases]
    values = {
        name: [found.timings.latency.percentile(0.99) if (found := _phase(report, phase)) else None for phase in phases]
        for name, report in runs
    }
    traces = [
        plots.line(
            plots.escaped(name), names, found, color, mode="markers", symbol=symbol, texts=map(units.duration, found)
        )
        for (name, found), color, symbol in zip(values.items(), cycle(plots.SERIES), cycle(plots.SYMBOLS), strict=False)
    ]
    figure = plots.figure(
        traces,
        plots.axis("", type="category"),
        plots.duration_axis([value for found in values.values() for value in found], "p99 (logarithmic)"),
        scattermode="group",
    )
    rows = [[parts.words(name, 40), *map(parts.seconds, found)] for name, found in values.items()]
    columns = ["gateway", *(units.plain(phase, 40) for phase in phases)]
    words = "99 % of the completed requests were answered within this, from their intended send time. Lower is better."
    return Chart(
        identity, "Latency of completed requests, p99", words, figure, Table("Latency, p99", columns, rows), 300
    )


def _bars(names: Sequence[str], values: dict[str, list[float | None]]) -> list[plots.Trace]:
    patterns = ("", "/", "x", ".", "-", "|", "+", "\\")
    return [
        plots.bars(plots.escaped(name), names, found, plots.SERIES[index % 8], patterns[index % 8])
        for index, (name, found) in enumerate(values.items())
    ]


def _of(report: Report, name: str) -> float | None:
    phase = _phase(report, name)
    return phase.goodput if phase else None


def _oracle(name: str, runs: Sequence[_Named]) -> float | None:
    found = [phase.oracle.goodput for _, report in runs if (phase := _phase(report, name)) and phase.oracle]
    return max(found, default=None)
