"""The table, the ablation and the trials' charts: on the terminal, and as one page that fetches nothing."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from benchmarks.overload import ablation
from benchmarks.overload.lines import Line, Outcomes
from benchmarks.overload.rows import ROWS
from benchmarks.overload.trials import TRIALS, USUAL
from benchmarks.report import charts, facts, parts, tables, units
from benchmarks.report.ablation import AblationLine
from benchmarks.report.facts import Verdict
from benchmarks.report.model import Environment, Report
from benchmarks.report.page import over_time
from benchmarks.report.parts import Absent, Cell, Chart, Section, Table
from benchmarks.report.render import render
from benchmarks.report.terminal import grid

FORMAT = 1
_WARNINGS = 20


class Result(NamedTuple):
    """All that was measured. `seconds` stand for the usual ones of a phase; `outcomes` are of all trials, those of the
    ablation's steps too; `whole`: nothing that was asked for is missing because the run was stopped."""

    lines: list[Line]
    steps: list[AblationLine]
    outcomes: Outcomes
    environment: Environment
    command: list[str]
    seconds: float
    whole: bool

    @property
    def missed(self) -> list[Line]:
        return [line for line in self.lines if not line.met]


def warnings(result: Result) -> list[str]:
    """What a reader has to know before believing the figures."""
    found = [] if result.whole else ["The run was stopped: what came after that is missing."]
    if result.seconds != USUAL:
        found.append(
            f"Phases lasted {result.seconds:g} s in place of {USUAL:g} s: the targets are meant for the latter."
        )
    reports = [outcome.report for outcome in result.outcomes.values() if outcome.report is not None]
    commits = sorted({report.environment.commit for report in reports})
    if len(commits) > 1:
        found.append(f"The code changed during the run: {', '.join(commits)}.")
    for key, outcome in result.outcomes.items():
        found += [f"{key}: {problem}" for problem in outcome.problems]
        if outcome.report is not None and facts.verdict(outcome.report).level != "sound":
            found += [f"{key}: {reason}" for reason in facts.verdict(outcome.report).reasons[:3]]
    more = len(found) - _WARNINGS
    return found if more <= 0 else [*found[: _WARNINGS - 1], f"… and {more + 1} more; see the reports of the trials."]


def data(result: Result) -> dict[str, Any]:
    """For the JSON file."""
    return {
        "format": FORMAT,
        "environment": msgspec.to_builtins(result.environment),
        "command": result.command,
        "seconds": result.seconds,
        "whole": result.whole,
        "missed": len(result.missed),
        "lines": [line._asdict() for line in result.lines],
        "ablation": msgspec.to_builtins(result.steps),
        "warnings": warnings(result),
    }


# --- terminal ------------------------------------------------------------------------------------------------------


def show(result: Result, console: Console) -> None:
    if result.steps:
        console.print(grid(ablation.brief(result.steps)))
        console.print()
    for warning in warnings(result):
        console.print(Text(f"- {units.plain(warning, 400)}", style="yellow"))
    shown = RichTable(title="Overload: 8 slots of 100 ms, clients leave after 2 s", title_justify="left")
    for name in ("figure", "target", "measured", "", "beside"):
        shown.add_column(name, justify="right" if name in ("target", "measured") else "left")
    for line in result.lines:
        met = Text("met", style="green") if line.met else Text("MISSED", style="bold red")
        shown.add_row(line.name, line.target, line.measured, met, units.plain(line.beside, 60))
    console.print(shown)
    console.print(Text(_headline(result), style="bold" if result.missed else "bold green"))


def _headline(result: Result) -> str:
    every, missed = len(result.lines), len(result.missed)
    return f"All {every} figures are met." if not missed else f"{missed} of {every} figures are missed."


# --- page ----------------------------------------------------------------------------------------------------------


def html(result: Result) -> str:
    """Raises NeedsPlotly."""
    env = result.environment
    sections = [Section("table", "Target beside measured", _TABLE, [_lines(result.lines)])]
    if result.steps:
        sections.append(Section("ablation", "What each mechanism brings", _ABLATION, [ablation.table(result.steps)]))
    trials = [(key, result.outcomes[key].report) for key in TRIALS if key in result.outcomes]
    sections += [_trial(index, key, report) for index, (key, report) in enumerate(trials) if report is not None]
    reasons = [_missed(line) for line in result.missed] + warnings(result)
    return render(
        title="Overload",
        lines=[
            "A backend of 8 slots of 100 ms, 80 requests a second; clients leave after 2 s; one shard.",
            units.plain(f"{env.started}; {env.processor}, {units.some(env.cores, 'core')}; commit {env.commit}", 300),
            units.plain(" ".join(result.command), 300),
        ],
        verdict=Verdict("careful" if reasons else "sound", _headline(result), reasons),
        tiles_title="",
        tiles=[],
        sections=sections,
    )


_TABLE = (
    "Each figure from loads of its own, each before a Headgate that was started for it. Headgate is told nothing about "
    "how much its backend can do. The oracle serves the same arrivals with an admission that costs nothing and knows "
    "everything."
)
_ABLATION = (
    "The same loads, with one mechanism after the other switched on. Up to the adaptive limit, Headgate is told how "
    "many calls the backend can work on at once."
)


def _missed(line: Line) -> str:
    return f"Missed: {line.name}, {line.measured} ({line.target})"


def _lines(lines: Sequence[Line]) -> Table:
    rows = [
        [
            parts.words(line.name, 100),
            parts.words(line.target, 60),
            Cell(line.measured, line.value),
            Cell("met", None, "good") if line.met else Cell("MISSED", None, "bad"),
            parts.words(line.beside, 120),
        ]
        for line in lines
    ]
    return Table("Target beside measured", ["figure", "target", "measured", "", "beside"], rows, left=frozenset({3, 4}))


def _trial(index: int, key: str, report: Report) -> Section:
    """The charts of one run. A page may have a name of a chart only once."""
    named = [_renamed(item, f"trial{index}") for item in (*over_time(report), *_more(key, report))]
    verdict = facts.verdict(report)
    about = ", ".join(row.about for row in ROWS.values() if key in row.trials)
    intro = f"{about[:1].upper()}{about[1:]}. {facts.summary(report)} {verdict.headline}"
    items = [*named, *tables.recoveries(report), *tables.sessions(report), *tables.refusals(report)]
    title = f"{report.scenario_name}: {', '.join(phase.name for phase in facts.measured(report))}"
    return Section(f"trial{index}", units.plain(title, 60), intro, items)


def _more(key: str, report: Report) -> list[Chart | Absent]:
    if key != "endurance":
        return []
    memory = charts.memory_over_time(report)
    return [memory] if memory is not None else []


def _renamed(item: Chart | Absent, prefix: str) -> Chart | Absent:
    return item._replace(id=f"{prefix}-{item.id}") if isinstance(item, Chart) else item
