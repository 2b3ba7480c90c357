"""A report on one screen: at most 30 lines, nothing wider than 80 columns, readable without colour."""

import textwrap
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.histogram import Histogram
from benchmarks.report import facts, parts, units
from benchmarks.report.model import PhaseReport, Refusal, Report
from benchmarks.report.parts import busiest

LINES = 30
WIDTH = 80
_FIXED = 3 + 5 + 4  # three table heads, the foot, blank lines
_NOTE_LINES = 4
_REFUSALS = 4
_STYLES = {"sound": "bold green", "careful": "bold yellow", "broken": "bold red"}


def show(report: Report, console: Console) -> None:
    """Print it. What does not fit is folded into a line that says how much there is more."""
    head = _head(report)
    refusals = facts.refusals(report.phases)
    room = LINES - _FIXED - len(head) - min(max(len(refusals), 1), _REFUSALS)
    phases = _fold(report.phases, max(room // 2, 2))
    for line in [*head, Text()]:
        console.print(line, no_wrap=True, crop=True, overflow="ellipsis")
    if report.phases:
        for table in (_loads(*phases), _times(*phases)):
            console.print(table)
            console.print()
    console.print(_refusals(refusals) if refusals else Text("refused: nothing"))
    console.print()
    for label, sentence in _foot(report):
        line = Text.assemble((f"{label:<11}", "bold"), sentence)
        console.print(line, no_wrap=True, crop=True, overflow="ellipsis")


def _head(report: Report) -> list[Text]:
    target = " ".join(filter(None, (report.target.url, report.target.server, report.target.version)))
    names = dict.fromkeys(units.plain(name, 20) for name in (report.name, report.scenario_name))
    verdict = facts.verdict(report)
    lines = [
        Text.assemble(
            (", ".join(names), "bold"),
            f" ({units.duration(report.seconds)}, seed {report.seed}) → {units.plain(target, 48)}",
        ),
        *(Text(line, style=_STYLES[verdict.level]) for line in textwrap.wrap(verdict.headline, WIDTH - 1)),
        *(Text(line) for line in _reasons(verdict.reasons)),
    ]
    summary = facts.summary(report)
    if summary:
        lines += [Text(line) for line in textwrap.wrap(f"Hardest: {summary}", WIDTH - 1, max_lines=3)]
    return lines


def _reasons(reasons: list[str]) -> list[str]:
    """Each as a list item, all of them in a few lines; the last says how many more there are."""
    lines: list[str] = []
    for index, reason in enumerate(reasons):
        item = textwrap.wrap(
            reason, WIDTH - 1, initial_indent="- ", subsequent_indent="  ", max_lines=3, placeholder=" …"
        )
        if len(lines) + len(item) > _NOTE_LINES - (index + 1 < len(reasons)):
            return [*lines, f"- … and {len(reasons) - index} more"]
        lines += item
    return lines


def _fold(phases: list[PhaseReport], most: int) -> tuple[list[PhaseReport], int]:
    if len(phases) <= most:
        return phases, 0
    return busiest(phases, most - 1, lambda phase: -1.0 if phase.warmup else facts.offered_rate(phase))


def _grid(first: str, columns: Iterable[str], width: int = 7) -> Table:
    grid = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    grid.add_column(first, no_wrap=True, overflow="ellipsis", max_width=16)
    for column in columns:
        grid.add_column(column, justify="right", no_wrap=True, min_width=width)
    return grid


def _name(phase: PhaseReport) -> Text:
    return Text(("w " if phase.warmup else "") + units.plain(phase.name, 40))


def _loads(phases: list[PhaseReport], more: int) -> Table:
    warm = any(phase.warmup for phase in phases)
    columns = ("offered", "goodput", "oracle", "shed", "4xx/504", "failed", "cancelled")
    grid = _grid("phase, w=warm-up" if warm else "phase", columns)
    for phase in phases:
        counts = phase.counts
        grid.add_row(
            _name(phase),
            units.rate(facts.offered_rate(phase)),
            units.rate(phase.goodput),
            units.percent(facts.share(phase)),
            units.count(counts.shed),
            units.count(facts.turned_away(counts)),
            Text(units.count(facts.troubled(counts)), style="red" if facts.troubled(counts) else ""),
            units.count(counts.cancelled),
        )
    if more:
        grid.add_row(Text(f"… and {more} more", style="dim"))
    return grid


def _times(phases: list[PhaseReport], more: int) -> Table:
    grid = _grid("times", ("latency p50", "p99", "p99.9", "first p50", "p99", "gap p50", "p99"))
    for phase in phases:
        it = phase.timings
        grid.add_row(
            _name(phase),
            *_percentiles(it.latency, 0.5, 0.99, 0.999),
            *_percentiles(it.first_token, 0.5, 0.99),
            *_percentiles(it.gaps, 0.5, 0.99),
        )
    if more:
        grid.add_row(Text(f"… and {more} more", style="dim"))
    return grid


def _percentiles(histogram: Histogram, *shares: float) -> list[str]:
    return [units.duration(histogram.percentile(share)) for share in shares]


def _refusals(entries: list[Refusal]) -> Table:
    grid = _grid("refused", ())
    grid.add_column("with", no_wrap=True, overflow="ellipsis", max_width=28)
    for column in ("count", "p50", "p99", "Retry-After"):
        grid.add_column(column, justify="right", no_wrap=True, min_width=7)
    shown = entries if len(entries) <= _REFUSALS else entries[: _REFUSALS - 1]
    for entry in shown:
        grid.add_row(
            facts.WHERE.get(entry.where, "place unknown"),
            Text(said(entry)),
            units.count(entry.count),
            *_percentiles(entry.latency, 0.5, 0.99),
            units.percent(units.fraction(entry.with_retry_after, entry.count)),
        )
    if len(shown) < len(entries):
        rest = sum(entry.count for entry in entries[len(shown) :])
        grid.add_row(Text(f"… and {len(entries) - len(shown)} more", style="dim"), "", units.count(rest))
    return grid


def said(entry: Refusal) -> str:
    """What the refusal says of itself: `503 ingress/estimated_wait`."""
    place = "/".join(units.plain(part, 24) for part in (entry.stage, entry.reason) if part)
    return f"{entry.status or 'no status'} {place or units.plain(entry.code, 40)}".rstrip()


def _foot(report: Report) -> list[tuple[str, str]]:
    return [
        ("outlived", facts.outlived_sentence(report)),
        ("target", facts.processes_sentence(report)),
        ("accounting", facts.accounting_sentence(report)),
        ("generator", facts.lag_sentence(report.generator)),
        ("backend", facts.backend_sentence(report)),
    ]


def grid(table: parts.Table) -> Table:
    """A page's table on the terminal: as wide as it is, texts to the left, figures to the right."""
    shown = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold", title_justify="left")
    shown.title = Text(table.caption, style="bold")
    for index, column in enumerate(table.columns):
        left = index == 0 or index in table.left
        shown.add_column(column, no_wrap=True, overflow="ellipsis", justify="left" if left else "right")
    for row in table.rows:
        shown.add_row(*(Text(cell.text, style=_TONES.get(cell.tone, "")) for cell in row))
    return shown


_TONES = {"good": "green", "bad": "bold red", "quiet": "dim"}
