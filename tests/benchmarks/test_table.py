"""The table of the micro-benchmarks: what is computed from their report, and the command that runs them all."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.table import Benchmark, Said, Stats, rows

pytestmark = pytest.mark.alone  # its figures are not taken beside others'

PARTS = [
    "admission: refused at the door",
    "admission: the refusal's bytes",
    "admission: when to come back",
    "assemble: template over 6 passages",
    "assemble: tokens of 100 characters",
    "assemble: tokens of 10000 characters",
    "assemble: what fits the budget",
    "channel: 1 per wake-up",
    "channel: 64 waiting, taken at once",
    "channel: 8 per wake-up",
    "channel: tasks that wait for each other",
    "clock: time.monotonic",
    "decode: OpenAI body, messages: 1",
    "decode: OpenAI body, messages: 9",
    "frames: SSE chunk, 1 in a write",
    "frames: SSE chunk, 8 in a write",
    "frames: a backend's chunk, passed on",
    "frames: native `delta` event",
    "observe: counter",
    "observe: ended request of 1 token",
    "observe: ended request of 64 tokens",
    "observe: histogram",
    "observe: log line of an ended request",
    "post: redaction, one match in 64",
    "queue: 64 put, taken together",
    "queue: place reserved and given back",
    "queue: put, taken one by one",
    "queue: refused, as it is full",
    "queue: reserved, put, taken together",
    "session: owner among 16 shards",
    "session: owner among 2 shards",
    "session: owner among 64 shards",
    "session: ranks of 16 shards",
    "stages: five hops",
    "stages: streamed answer of 64, 1 per wake-up",
    "stages: streamed answer of 64, 8 per wake-up",
    "ticket: made and ended",
]
YARDSTICKS = [
    "msgspec encodes the whole chunk",
    "msgspec to a dict, unchecked, messages: 1",
    "msgspec to a dict, unchecked, messages: 9",
    "prometheus_client: Counter.inc",
    "prometheus_client: Histogram.observe",
]


def benchmark(
    name: str, median: float, *, units: int = 1, group: str | None = None, yardstick: bool = False
) -> Benchmark:
    said = Said(name=name, units=units, unit="token", yardstick=yardstick)
    return Benchmark(f"micro/{name}", group, said, Stats(median, median / 10, 100))


def table(*arguments: str, folder: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "benchmarks.table", "--quick", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=50)


def test_a_unit_takes_its_share_of_a_round():
    (row,) = rows([benchmark("a", 64e-6, units=32)])
    assert row.round_us == pytest.approx(64)
    assert row.iqr_us == pytest.approx(6.4)
    assert row.unit_us == pytest.approx(2)
    assert row.ratio is None


def test_a_ratio_compares_units_not_rounds():
    measured = rows(
        [
            benchmark("ours", 10e-6, units=10, group="g"),
            benchmark("theirs", 4e-6, units=1, group="g", yardstick=True),
        ]
    )
    assert [row.ratio for row in measured] == [pytest.approx(0.25), None]


def test_a_yardstick_stands_behind_all_that_it_is_for():
    measured = rows(
        [
            benchmark("theirs", 1e-6, group="g", yardstick=True),
            benchmark("one", 2e-6, group="g"),
            benchmark("other", 1e-6),
            benchmark("two", 3e-6, group="g"),
            benchmark("last", 1e-6),
        ]
    )
    assert [row.name for row in measured] == ["one", "other", "two", "theirs", "last"]
    assert [row.ratio for row in measured] == [pytest.approx(2), None, pytest.approx(3), None, None]


def test_a_group_has_one_yardstick():
    first = benchmark("first", 1e-6, group="g", yardstick=True)
    with pytest.raises(ValueError, match=r"micro/second: a yardstick needs a group"):
        rows([first, benchmark("second", 1e-6, group="g", yardstick=True)])
    with pytest.raises(ValueError, match=r"micro/third: a yardstick needs a group"):
        rows([benchmark("third", 1e-6, yardstick=True)])


def test_a_yardstick_is_for_something():
    with pytest.raises(ValueError, match="without anything to compare with them: g"):
        rows([benchmark("theirs", 1e-6, group="g", yardstick=True), benchmark("other", 1e-6, group="h")])


@pytest.mark.slow
def test_every_part_is_measured_and_shown(tmp_path: Path):
    done = table("--json", "results/micro.json", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads((tmp_path / "results" / "micro.json").read_text())
    measured = {row["name"]: row for row in report["rows"]}
    assert sorted(measured) == sorted([*PARTS, *YARDSTICKS])
    assert len(measured) == len(report["rows"])
    assert report["environment"]["cores"] > 0
    for name, row in measured.items():
        assert name in done.stdout
        assert row["unit_us"] * row["units"] == pytest.approx(row["round_us"])
        assert row["round_us"] > 0
        assert row["yardstick"] is (name in YARDSTICKS)
        assert (row["ratio"] is not None) is (row["group"] is not None and not row["yardstick"])
    assert sum(row["ratio"] is not None for row in measured.values()) == 7


@pytest.mark.slow
def test_a_benchmark_that_fails_fails_the_command(tmp_path: Path):
    (tmp_path / "test_wrong.py").write_text("def test_sum(benchmark):\n    assert benchmark(lambda: 1 + 1) == 3\n")
    done = table("--folder", str(tmp_path), folder=tmp_path)
    assert done.returncode == 1
    assert "assert 2 == 3" in done.stderr
    assert not (tmp_path / "bench-results").exists()


@pytest.mark.slow
def test_a_benchmark_that_does_not_tell_its_units_is_refused(tmp_path: Path):
    (tmp_path / "test_silent.py").write_text("def test_sum(benchmark):\n    benchmark(lambda: 1 + 1)\n")
    done = table("--folder", str(tmp_path), folder=tmp_path)
    assert done.returncode == 1
    assert "does not say what it measures" in done.stderr
    assert "`name`" in done.stderr


@pytest.mark.slow
def test_a_folder_that_is_not_there_is_named(tmp_path: Path):
    done = table("--folder", "nowhere", folder=tmp_path)
    assert done.returncode == 2
    assert "--folder: nowhere is not a folder" in done.stderr
