"""What each mechanism brings, a line for each."""

import pytest

from benchmarks.overload import ablation
from benchmarks.overload.trial import Outcome
from benchmarks.overload.trials import STEPS, step_trials
from tests.benchmarks.overload.reports import SHARD, made


def outcomes() -> dict[str, Outcome]:
    """Those of all steps but the last."""
    found = {}
    for step in STEPS[:-1]:
        for trial in step_trials(step):
            found[trial.key] = Outcome(made(trial.key.partition("-")[2]), [], [SHARD])
    return found


def test_a_line_for_each_step_that_was_measured():
    lines = ablation.lines(outcomes())
    assert [line.name for line in lines] == [step.name for step in STEPS[:-1]]
    assert [(phase.scenario, phase.name) for phase in lines[0].phases] == [
        ("overload", "1x"),
        ("overload", "2x"),
        ("overload", "10x"),
        ("classes", "2x"),
        ("fairness", "3x"),
    ]
    high = {phase.scenario: phase.high for phase in lines[0].phases}
    assert high["classes"] == 1.0
    assert lines[0].phases[4].jain == 0.97
    assert lines[0].phases[2].cores == pytest.approx(0.5)
    assert lines[0].phases[2].door_p99 == pytest.approx(0.002)


def test_the_table_has_a_row_for_each_and_dashes_for_what_is_not_there():
    found = outcomes()
    found["step1-fairness"] = found["step1-10x"] = Outcome(None, ["it did not start"], [])
    lines = ablation.lines(found)
    table = ablation.table(lines)
    assert all(len(row) == len(table.columns) for row in table.rows)
    first, second = (dict(zip(table.columns, row, strict=True)) for row in table.rows[:2])
    assert first["2x"].value == 0.99
    assert first["Jain's index"].value == 0.97
    assert second["Jain's index"].value is None
    assert second["cores at 10x"].value is None
    brief = ablation.brief(lines)
    assert [len(row) for row in brief.rows] == [len(brief.columns)] * len(lines)
    assert len(brief.columns) == len(table.columns) - 1


def test_code_that_changed_on_the_way_does_not_cost_the_line():
    found = outcomes()
    report = found["step0-2x"].report
    assert report is not None
    report.environment.commit = "0123456789-dirty"
    assert len(ablation.lines(found)) == len(STEPS) - 1
