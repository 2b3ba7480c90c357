"""`python -m benchmarks.ablation`."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import ablation
from benchmarks.report import ablation as kept
from benchmarks.report.files import write
from tests.benchmarks.report import reports


@pytest.fixture
def lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "ablation.json"
    monkeypatch.setattr(ablation, "PATH", path)
    monkeypatch.setattr(ablation, "record", lambda line: kept.record(line, path))
    return path


def test_a_line_is_recorded_and_shown(tmp_path: Path, lines: Path):
    report = tmp_path / "r.json"
    made = reports.report()
    write(made, report)
    done = CliRunner().invoke(ablation.main, [str(report), "--name", "plain", "--description", "nothing yet"])
    assert done.exit_code == 0, done.output
    assert "plain (" in done.output
    assert "nothing yet" in done.output
    (line,) = kept.read_ablation(lines)
    assert line.name == "plain"
    assert len(line.phases) == sum(not phase.warmup for phase in made.phases)


def test_what_is_missing_is_said(tmp_path: Path, lines: Path):
    assert CliRunner().invoke(ablation.main, []).exit_code == 0
    report = tmp_path / "r.json"
    assert CliRunner().invoke(ablation.main, [str(report)]).exit_code == 2
    done = CliRunner().invoke(ablation.main, [str(report), "--name", "x"])
    assert done.exit_code == 1
    assert "r.json" in done.output
    assert not lines.exists()


def test_the_lines_that_come_with_headgate_are_whole():
    for line in kept.read_ablation():
        assert line.commit
        assert line.command
        assert all(phase.goodput >= 0 for phase in line.phases)
