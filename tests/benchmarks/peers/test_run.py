"""The command and the run, with real load."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from benchmarks.peers import point
from benchmarks.peers.interrupt import Interrupt
from benchmarks.peers.plan import planned
from benchmarks.peers.run import Run
from benchmarks.report.files import read
from tests.benchmarks.peers.stand_ins import ANSWERS, WAITS_FOR_LOAD, StandIn, alive, until
from tests.process.daemon import ROOT

pytestmark = pytest.mark.slow
SCENARIO = """
hang_seconds = 5
[[phases]]
name = "warm"
seconds = 0.3
rate = 40
warmup = true
[[phases]]
name = "one"
seconds = {seconds}
rate = 40
{more}
[[requests]]
stream = true
max_tokens = {{ mean = 4 }}
[backend]
slots = 16
first_token_ms = 5
"""


TWO = """
[[phases]]
name = "two"
seconds = 0.6
rate = 60
"""


def scenario(folder: Path, seconds: float, more: str = "") -> str:
    path = folder / "short.toml"
    path.write_text(SCENARIO.format(seconds=seconds, more=more))
    return str(path)


def command(*options: str) -> "subprocess.Popen[str]":
    arguments = [sys.executable, "-m", "benchmarks.peers", *options]
    return subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_direct_and_headgate_from_end_to_end(tmp_path: Path) -> None:
    page, folder = tmp_path / "new" / "page.html", tmp_path / "json"
    process = command(
        *(scenario(tmp_path, 0.6, TWO), "--gateways", "direct,headgate", "--check"),
        *("--html", str(page), "--json-dir", str(folder)),
    )
    output, _ = process.communicate(timeout=50)

    assert process.returncode == 0, output
    assert "[4/4] short, two: headgate" in output
    for name in ("direct", "headgate"):
        whole = read(folder / "short" / f"{name}.json")
        assert [(phase.name, phase.warmup) for phase in whole.phases] == [
            ("warm", True),
            ("one", False),
            ("warm", True),
            ("two", False),
        ]
        assert whole.name == name
        assert whole.totals.offered == whole.totals.completed > 30
        assert whole.backend is not None
        assert whole.backend.agrees
        assert whole.processes.cpu
        assert len(list((folder / "short" / "points").glob(f"{name}.*.json"))) == 2
    assert read(folder / "short" / "headgate.json").target.ours
    assert "headgate" in page.read_text()


def generators(pid: int) -> list[psutil.Process]:
    every = psutil.Process(pid).children(recursive=True)
    return [child for child in every if alive(child.pid) and "benchmarks.load" in child.cmdline()]


def test_ctrl_c_ends_everything_and_writes_what_there_is(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    process = command(
        *(scenario(tmp_path, 30, TWO), "--gateways", "headgate"), "--html", str(page), "--json-dir", str(tmp_path)
    )
    try:
        until(lambda: any(child.net_connections("tcp") for child in generators(process.pid)), 30)
        began = psutil.Process(process.pid).children(recursive=True)
        assert len(began) >= 4  # backend, supervisor, shard, generator
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=40)
    finally:
        process.kill()

    assert process.returncode == 130, output
    assert not any(alive(child.pid) for child in began)
    assert "short" in page.read_text()
    whole = read(tmp_path / "short" / "headgate.json")
    assert whole.ended == "interrupted"
    assert "Phase two was not measured." in whole.notes


def run_of(
    gateways: list[StandIn], tmp_path: Path, more: str = "", seconds: float = 0.8, **options: object
) -> tuple[Run, list[str], bool]:
    said: list[str] = []
    plans = planned([scenario(tmp_path, seconds, more)], None)
    with Interrupt() as interrupt:
        run = Run(gateways, plans, tmp_path, interrupt, said.append, command=["x"], **options)  # type: ignore[arg-type]
        return run, said, run.go()


def test_one_that_cannot_be_installed_or_started_is_missing_and_the_others_are_measured(tmp_path: Path) -> None:
    absent = StandIn("absent", [], unready="no such package")
    broken = StandIn("broken", [sys.executable, "-c", "import sys; sys.exit('no licence')"])
    good = StandIn("good", [*ANSWERS, "--port"])
    run, said, whole = run_of([absent, broken, good], tmp_path)
    assert whole
    assert [name for name, _ in run.missing] == ["absent", "broken"]
    assert run.missing[0][1] == "no such package"
    assert "before short, one: it ended (exit status 1)" in run.missing[1][1]
    assert "no licence" in run.missing[1][1]
    (report,) = run.reports()
    assert (report.name, report.target.server, report.target.version) == ("good", "good", "1.2.3")
    assert report.totals.completed > 0
    assert "absent is left out: no such package" in said
    assert not any(alive(running.server.pid) for running in good.running if running.server)


def test_one_that_dies_under_load_is_a_result(tmp_path: Path) -> None:
    dying = StandIn("dying", [sys.executable, "-c", WAITS_FOR_LOAD])
    run, _, whole = run_of([dying], tmp_path, TWO)
    assert whole
    assert run.missing == []
    assert len(dying.running) == 2, "it got a new start for the next phase"
    (report,) = run.reports()
    assert any("The gateway ended during the phase" in note and "out of memory" in note for note in report.notes)
    assert report.totals.completed > 0
    assert report.totals.unreachable + report.totals.failed > 0
    assert any("dying, short, one: The gateway ended" in problem for problem in run.problems)


def test_a_point_that_takes_too_long_is_ended_with_its_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(point, "_limit", lambda _: 2.5)
    good = StandIn("good", [*ANSWERS, "--port"])
    run, _, whole = run_of([good], tmp_path, seconds=60)
    assert whole
    (report,) = run.reports()
    assert report.ended == "interrupted"
    assert report.totals.completed > 0
    assert "Phase one: It was ended after 2 s, its time limit." in report.notes


def test_a_generator_that_makes_no_report_is_told_with_its_last_words(tmp_path: Path) -> None:
    good = StandIn("good", [*ANSWERS, "--port"])
    failing = [sys.executable, "-c", "import sys; sys.exit('no more disk')"]
    run, _, whole = run_of([good], tmp_path, generator=failing)
    assert whole
    assert [name for name, _ in run.missing] == ["good"]
    assert "short, one: The generator ended with status 1: no more disk" in run.missing[0][1]
    assert run.reports() == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--gateways", "direct,nginx"], "no gateway 'nginx'"),
        (["no-such-scenario"], "one of the scenarios"),
        (["--duration", "0"], "--duration"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(options: list[str], message: str) -> None:
    process = command(*options)
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 2
    assert message in output


def test_smoke_ends_as_the_generator_does(tmp_path: Path) -> None:
    arguments = [sys.executable, "-m", "benchmarks.smoke", "--duration", "1", "--quiet"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}

    def smoke(*options: str) -> "subprocess.CompletedProcess[str]":
        command = [*arguments, *options]
        return subprocess.run(
            command, check=False, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=50
        )

    done = smoke()
    assert done.returncode == 0, done.stdout + done.stderr
    assert read(tmp_path / "bench-results" / "smoke.json").target.ours
    assert (tmp_path / "bench-results" / "smoke.html").stat().st_size > 10_000

    assert smoke("--rate", "-1").returncode == 2
