"""`python -m benchmarks.overload` as its users run it: real daemons, its files, its exit status."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import refusals
from benchmarks.overload import cost
from benchmarks.overload.rows import ROWS
from benchmarks.overload.run import Wanted
from benchmarks.overload.trial import run
from benchmarks.overload.trials import STEP_TRIALS, STEPS, TRIALS
from benchmarks.paired import Figure
from benchmarks.peers.interrupt import Interrupt
from tests.process.daemon import ROOT

COMMAND = [sys.executable, "-m", "benchmarks.overload"]


def started(*options: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([*COMMAND, *options], cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


@pytest.mark.slow
def test_a_row_is_measured_written_and_judged(tmp_path: Path):
    files = ["--json", str(tmp_path / "o.json"), "--html", str(tmp_path / "o.html"), "--json-dir", str(tmp_path / "t")]
    process = started("--only", "surge", "--duration", "1", *files)
    output, _ = process.communicate(timeout=50)
    found = json.loads((tmp_path / "o.json").read_text())
    surge, accounts = found["lines"]
    assert (surge["row"], accounts["row"]) == ("surge", "accounts")
    assert accounts["met"], output
    assert not surge["met"], "less than a second after the surge is too short to tell that all stays well"
    assert process.returncode == 1
    assert found["missed"] == 1
    assert "1 s in place of 30 s" in output
    assert (tmp_path / "o.html").stat().st_size > 100_000
    assert [path.name for path in (tmp_path / "t").iterdir()] == ["surge.json"]


@pytest.mark.slow
def test_of_clients_that_leave_in_rag_the_backend_never_hears(tmp_path: Path):
    with Interrupt() as interrupt:
        outcome = run(TRIALS["retrieving"], 1.0, tmp_path / "r.json", interrupt)
    row = ROWS["leavers"]
    (line,) = (line for line in row.judge(row, {"retrieving": outcome}) if "in RAG" in line.name)
    assert line.met, outcome
    assert outcome.report is not None
    assert outcome.report.totals.left == outcome.report.totals.offered > 0
    assert outcome.cut >= outcome.report.totals.left
    assert outcome.report.accounting.problems == []
    assert outcome.problems == []
    assert len(outcome.shards) == 1


@pytest.mark.slow
def test_ctrl_c_ends_all_that_was_started_and_shows_what_there_was(tmp_path: Path):
    process = started("--only", "class", "--json-dir", str(tmp_path / "t"), "--json", str(tmp_path / "o.json"))
    assert process.stdout is not None
    while "[1/1]" not in process.stdout.readline():
        pass
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=40)
    assert process.returncode == 130, output
    found = json.loads((tmp_path / "o.json").read_text())
    assert not found["whole"]
    assert "The run was stopped" in output


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "godput"], "no row 'godput'; there are goodput, latency"),
        (["--duration", "0"], "--duration"),
        (["--json", "/proc/no/o.json"], "/proc/no"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(options: list[str], message: str):
    process = started(*options)
    output, _ = process.communicate(timeout=20)
    assert process.returncode in {1, 2}
    assert message in output
    assert "[1/" not in output


def test_only_what_a_row_needs_is_run():
    wanted = Wanted(["class", "latency"])
    assert [trial.key for trial, _ in wanted.trials()] == ["2x", "10x", "classes"]
    every = Wanted(list(ROWS), 30.0, 15.0).trials()
    assert len(every) == len(TRIALS) + len(STEPS) * len(STEP_TRIALS)
    assert {seconds for _, seconds in every} == {30.0, 15.0}
    assert Wanted(["cpu"]).trials() == []
    assert Wanted(["cpu"]).estimate() > 60
    assert 15 * 60 < Wanted(list(ROWS), 30.0, 15.0).estimate() < 25 * 60


def test_a_cost_that_cannot_be_measured_is_missed(monkeypatch: pytest.MonkeyPatch):
    def fails(**_: object) -> None:
        raise RuntimeError("40 of 50 requests were not refused")

    monkeypatch.setattr(refusals, "measure", fails)
    (line,) = cost.lines("cpu", quick=True, say=print)
    assert not line.met
    assert "40 of 50" in line.beside


def test_a_cost_is_a_line_for_each_figure(monkeypatch: pytest.MonkeyPatch):
    figures = [
        Figure("refused ÷ echo, 200 B", 0.2, 0.5, 0.25, "x", smaller=True, values=(0.19, 0.2)),
        Figure("refused ÷ stream, 200 B", 0.06, 0.05, None, "x", smaller=True, values=()),
    ]
    monkeypatch.setattr(refusals, "measure", lambda **_: refusals.Measured(figures, []))
    met, missed = cost.lines("cpu", quick=True, say=print)
    assert (met.met, met.measured, met.target) == (True, "0.200", "≤ 0.5, aim 0.25")
    assert (missed.met, missed.measured) == (False, "0.060")
