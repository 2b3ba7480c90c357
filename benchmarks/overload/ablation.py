"""The same loads with one mechanism after the other switched on: what each of them brings."""

from collections.abc import Mapping, Sequence

import msgspec

from benchmarks.overload.lines import Outcomes
from benchmarks.overload.trials import STEPS, Step, step_trials
from benchmarks.report import parts
from benchmarks.report.ablation import AblationLine, AblationPhase, line_of
from benchmarks.report.model import Report
from benchmarks.report.parts import Cell, Table

Phases = Mapping[tuple[str, str], AblationPhase]

_LOADS = (("overload", "1x"), ("overload", "2x"), ("overload", "10x"))
_COLUMNS = [
    "step",
    "what it adds",
    "÷ oracle at 1x",
    "2x",
    "10x",
    "p50 at 2x",
    "p99 at 2x",
    "p50 at 10x",
    "p99 at 10x",
    "high class at 2x",
    "Jain's index",
    "door p99 at 10x",
    "cores at 10x",
]


def lines(outcomes: Outcomes) -> list[AblationLine]:
    """One for each step of which there is a report."""
    every = [(step, _reports(step, outcomes)) for step in STEPS]
    return [line_of(reports, step.name, step.description) for step, reports in every if reports]


def _reports(step: Step, outcomes: Outcomes) -> list[Report]:
    """All of this run's commit: whoever works on the code meanwhile is told so elsewhere."""
    found = [one.report for trial in step_trials(step) if (one := outcomes.get(trial.key)) and one.report]
    return [_with_commit(report, found[0].environment.commit) for report in found]


def _with_commit(report: Report, commit: str) -> Report:
    return msgspec.structs.replace(report, environment=msgspec.structs.replace(report.environment, commit=commit))


def table(steps: Sequence[AblationLine]) -> Table:
    """A row for each step, beside the one before it."""
    rows = []
    for line in steps:
        phases: Phases = {(phase.scenario, phase.name): phase for phase in line.phases}
        rows.append([parts.words(line.name, 30), parts.words(line.description, 90), *_cells(phases)])
    note = "High class: from the scenario classes. Jain's index: from fairness. All other figures: from overload."
    return Table("What each mechanism brings", _COLUMNS, rows, note, left=frozenset({1}))


def brief(steps: Sequence[AblationLine]) -> Table:
    """Without the words, for a terminal."""
    whole = table(steps)
    rows = [[row[0], *row[2:]] for row in whole.rows]
    return Table(whole.caption, [whole.columns[0], *whole.columns[2:]], rows)


def _cells(phases: Phases) -> list[Cell]:
    one, two, ten = (phases.get(load) for load in _LOADS)
    classes, fairness = phases.get(("classes", "2x")), phases.get(("fairness", "3x"))
    return [
        *(parts.percent(phase.share if phase else None) for phase in (one, two, ten)),
        *(
            parts.seconds(value)
            for phase in (two, ten)
            for value in ((phase.p50, phase.p99) if phase else (None, None))
        ),
        parts.percent(classes.high if classes else None),
        parts.number(fairness.jain if fairness else None),
        parts.seconds(ten.door_p99 if ten else None),
        parts.cores(ten.cores if ten else None),
    ]
