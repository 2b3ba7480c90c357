"""The charts of one run. Each comes with its description in words and its figures as a table, or says why it is not
there."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from benchmarks.report import facts, parts, plots, timeline, units
from benchmarks.report.curves import curves
from benchmarks.report.model import Moment, PhaseReport, Report, Sample
from benchmarks.report.parts import Absent, Cell, Chart, Table

POINTS = 300  # along the time line: about what a screen can tell apart
ROWS = 40
CURVES = 8


def outcomes_over_time(report: Report) -> Chart | Absent:
    """What was asked for and what came of it, stacked: goodput at the bottom, so that it meets the oracle's line."""
    title = "Requests over time"
    moments = timeline.thinned(report.moments, POINTS)
    if not moments:
        return Absent(title, "The report has no time line: nothing was offered.")
    middles = [moment.at + moment.seconds / 2 for moment in moments]
    traces = []
    for name, (color, pattern) in plots.OUTCOMES.items():
        rates = [outcome / moment.seconds for moment in moments for outcome in [_outcome(moment, name)]]
        if name in {"completed", "shed"} or any(rates):
            traces.append(
                plots.bars(name, middles, rates, color, pattern, width=plots.rounded([m.seconds for m in moments]))
            )
    x, y = timeline.steps(moments, lambda moment: moment.offered)
    traces.append(plots.line("offered", x, y, "--offered", shape="hvh", width=1.5))
    if any(moment.oracle is not None for moment in moments):
        x, y = timeline.steps(moments, lambda moment: moment.oracle)
        traces.append(plots.line("oracle's goodput", x, y, "--oracle", shape="hvh", dash="dash"))
    figure = plots.figure(
        traces,
        plots.time_axis(timeline.end(report)),
        plots.axis("requests per second", rangemode="tozero"),
        barmode="stack",
        bargap=0,
        **timeline.marks(report),
    )
    words = _outcomes_in_words(moments) + timeline.shaded(report)
    return Chart("outcomes", title, words, figure, _outcomes_table(report), 380)


def _outcome(moment: Moment, name: str) -> int:
    if name == "refused otherwise":
        return moment.rejected + moment.expired
    found: int = getattr(moment, name)
    return found


def _outcomes_in_words(moments: Sequence[Moment]) -> str:
    offered = [moment.offered / moment.seconds for moment in moments]
    low, high = units.rate(min(offered)), units.rate(max(offered))
    done = [moment.completed / moment.seconds for moment in moments]
    shed = max(moment.shed / moment.seconds for moment in moments)
    return (
        "Bars: how requests ended, at the time they ended, per second. Line: offered, at the time they were meant to "
        f"be sent; {low if low == high else f'between {low} and {high}'}. Completed at most "
        f"{units.rate(max(done))}, shed at most {units.rate(shed)}."
    )


def _outcomes_table(report: Report) -> Table:
    moments = timeline.thinned(report.moments, ROWS)
    columns = ["from", "offered", "oracle", *plots.OUTCOMES, "in flight"]
    rows = [
        [
            parts.seconds(moment.at),
            parts.per_second(moment.offered / moment.seconds),
            parts.per_second(None if moment.oracle is None else moment.oracle / moment.seconds),
            *(parts.per_second(_outcome(moment, name) / moment.seconds) for name in plots.OUTCOMES),
            parts.count(moment.in_flight),
        ]
        for moment in moments
    ]
    return Table("Requests per second over time", columns, rows, timeline.thinned_note(report.moments, moments))


def latency_over_time(report: Report) -> Chart | Absent:
    title = "Latency of completed requests over time"
    moments = timeline.thinned(report.moments, POINTS)
    known = [moment for moment in moments if moment.p50 is not None]
    if not known:
        return Absent(title, "No request completed.")
    middles = [moment.at + moment.seconds / 2 for moment in moments]
    mode = "lines" if len(known) > 40 else "lines+markers"
    traces = [
        plots.line(name, middles, values, color, dash=dash, mode=mode, texts=[units.duration(v) for v in values])
        for name, values, color, dash in (
            ("p99", [moment.p99 for moment in moments], "--series2", "dash"),
            ("p50", [moment.p50 for moment in moments], "--series1", "solid"),
            ("the oracle's p50", [moment.oracle_p50 for moment in moments], "--oracle", "dot"),
        )
        if any(value is not None for value in values)
    ]
    figure = plots.figure(
        traces,
        plots.time_axis(timeline.end(report)),
        plots.duration_axis([value for m in known for value in (m.p50, m.p99, m.oracle_p50)], "latency (logarithmic)"),
        **timeline.marks(report),
    )
    worst = max(known, key=lambda moment: moment.p99 or 0)
    description = (
        f"From the intended send time to the last byte, of the requests that completed in each stretch of "
        f"{units.duration(known[0].seconds)}. The worst p99 is {units.duration(worst.p99)}, "
        f"{units.duration(worst.at)} after the start."
    )
    few = timeline.thinned(report.moments, ROWS)
    rows = [
        [
            parts.seconds(m.at),
            parts.count(m.completed),
            parts.seconds(m.p50),
            parts.seconds(m.p99),
            parts.seconds(m.oracle_p50),
        ]
        for m in few
    ]
    columns = ["from", "completed", "p50", "p99", "the oracle's p50"]
    table = Table("Latency over time", columns, rows, timeline.thinned_note(report.moments, few))
    return Chart("latency", title, description, figure, table, 300)


class _Load(NamedTuple):
    """One point of the chart over load; all per second."""

    name: str
    offered: float
    goodput: float
    shed: float
    oracle: float | None


def over_load(report: Report) -> Chart | Absent:
    """Per phase; of a ramp, per moment of it."""
    title = "Goodput over load"
    points = sorted(_loads(report), key=lambda point: point.offered)
    if len({round(point.offered, 3) for point in points}) < 2:
        return Absent(
            title, "The run offered one load only; with phases of several loads, or a ramp, this compares them."
        )
    x = [point.offered for point in points]
    mode = "lines+markers" if len(points) <= 40 else "lines"
    goodput, shed = [point.goodput for point in points], [point.shed for point in points]
    traces = [
        plots.line("goodput", x, goodput, "--completed", mode=mode),
        plots.line("shed", x, shed, "--shed", mode=mode, symbol="square", dash="dot"),
        plots.line("all that is offered", [0, max(x)], [0, max(x)], "--offered", width=1, dash="dot", hoverinfo="skip"),
    ]
    if any(point.oracle is not None for point in points):
        traces.insert(1, plots.line("oracle's goodput", x, [point.oracle for point in points], "--oracle", dash="dash"))
    figure = plots.figure(
        traces,
        plots.axis("offered requests per second", rangemode="tozero", range=[0, max(x) * 1.04]),
        plots.axis("requests per second", rangemode="tozero"),
    )
    best, last = max(points, key=lambda point: point.goodput), points[-1]
    description = (
        f"Goodput is best, {units.rate(best.goodput)}, where {units.rate(best.offered)} are offered; at the heaviest "
        f"load, {units.rate(last.offered)}, it is {units.rate(last.goodput)} and {units.rate(last.shed)} are shed. A "
        "target that holds under overload stays flat; one that collapses falls."
    )
    columns = ["phase", "offered", "goodput", "oracle's goodput", "shed"]
    shown, more = parts.busiest(points, 2 * ROWS, lambda point: point.offered)
    rows = [
        [parts.words(point.name), *map(parts.per_second, (point.offered, point.goodput, point.oracle, point.shed))]
        for point in shown
    ]
    table = Table("Goodput over load", columns, rows, f"{more} points of lower load are left out." if more else "")
    return Chart("load", title, description, figure, table)


def _loads(report: Report) -> list[_Load]:
    points = []
    for phase in facts.measured(report):
        if phase.arrivals == "ramp":
            points += _ramp(report.moments, phase)
        elif phase.counts.offered:
            oracle = phase.oracle.goodput if phase.oracle else None
            points.append(
                _Load(phase.name, facts.offered_rate(phase), phase.goodput, phase.counts.shed / phase.seconds, oracle)
            )
    return points


def _ramp(moments: Sequence[Moment], phase: PhaseReport) -> list[_Load]:
    inside = [m for m in moments if phase.at <= m.at and m.at + m.seconds <= phase.at + phase.seconds * 1.001]
    return [
        _Load(
            f"{phase.name}, {units.duration(m.at - phase.at)} after its start",
            m.offered / m.seconds,
            m.completed / m.seconds,
            m.shed / m.seconds,
            None if m.oracle is None else m.oracle / m.seconds,
        )
        for m in timeline.thinned(inside, 40)
    ]


def distribution(report: Report) -> Chart | Absent:
    """Of the hardest phase: all that a client may wait for, beside what was possible."""
    phase = facts.hardest(report)
    title = "Percentiles in the hardest phase"
    if phase is None:
        return Absent(title, "No request was offered outside of warm-up.")
    door = facts.refusal_latency(phase.refusals, "door")
    queue = facts.refusal_latency(phase.refusals, "queue")
    series = [
        ("latency of completed", phase.timings.latency, "--completed", "solid"),
        ("first token", phase.timings.first_token, "--series7", "solid"),
        ("gap between tokens", phase.timings.gaps, "--series4", "dot"),
        ("refusal at the door", door, "--shed", "dashdot"),
        ("refusal after queueing", queue, "--refused", "dash"),
    ]
    if phase.oracle:
        series.append(("oracle's latency", phase.oracle.latency, "--oracle", "dash"))
    series = [one for one in series if one[1].count]
    if not series:
        return Absent(title, "Nothing was answered in the hardest phase.")
    where = f"Phase “{units.plain(phase.name)}”, {facts.at_load(phase)}."
    return curves("distribution", title, where, series)


def latency_by_phase(report: Report) -> Chart | Absent | None:
    """None where the chart above shows the only phase there is."""
    phases = [phase for phase in facts.measured(report) if phase.timings.latency.count]
    if len(phases) < 2:
        return None
    shown, more = parts.busiest(phases, CURVES, facts.offered_rate)
    series = [
        (
            f"{phase.name} ({units.rate(facts.offered_rate(phase))})",
            phase.timings.latency,
            plots.SERIES[index],
            plots.DASHES[index // 2 % 4],
        )
        for index, phase in enumerate(shown)
    ]
    words = "Completed requests, from the intended send time."
    if more:
        words += f" The {CURVES} heaviest of {len(phases)} phases."
    return curves("phases-latency", "Latency percentiles by phase", words, series)


def cores_over_time(report: Report) -> Chart | Absent:
    title = "CPU of the target's processes"
    return _samples(report, "cores", title, "cores in use", lambda sample: sample.cores, parts.cores)


def memory_over_time(report: Report) -> Chart | Absent:
    title = "Memory of the target's processes"
    return _samples(report, "memory", title, "resident MiB", lambda sample: sample.resident / 2**20, _mebibytes)


def _mebibytes(value: float) -> Cell:
    return parts.size(round(value * 2**20))


def _samples(
    report: Report, identity: str, title: str, unit: str, of: Callable[[Sample], float], cell: Callable[[float], Cell]
) -> Chart | Absent:
    samples = report.processes.samples
    if not samples:
        return Absent(title, f"The target's processes were not observed: {units.plain(report.processes.found, 200)}.")
    points = timeline.peaks([(sample.at, of(sample)) for sample in samples], POINTS)
    mode = "lines" if len(points) > 40 else "lines+markers"
    trace = plots.line(unit, [at for at, _ in points], [value for _, value in points], "--series1", mode=mode)
    figure = plots.figure(
        [trace],
        plots.time_axis(timeline.end(report)),
        plots.axis(unit, rangemode="tozero"),
        showlegend=False,
        **timeline.marks(report),
    )
    low, high = cell(min(value for _, value in points)), cell(max(value for _, value in points))
    processes = max(sample.processes for sample in samples)
    description = f"Sum over {units.some(processes, 'process', 'processes')}: between {low.text} and {high.text}."
    few = timeline.peaks([(sample.at, of(sample)) for sample in samples], ROWS)
    note = "The highest of several samples each." if len(few) < len(samples) else ""
    table = Table(title, ["at", unit], [[parts.seconds(at), cell(value)] for at, value in few], note)
    return Chart(identity, title, description, figure, table, 240, half=True)
