"""What the parts of the data path cost: runs the micro-benchmarks, shows one table of them all.

`make bench`, or `python -m benchmarks.table [--quick] [--json FILE]`. Times are CPU times, medians over rounds. Exit
status 1, with pytest's output, where a benchmark failed. What the table means: `docs/how-to/measure.md`.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec
from rich.console import Console
from rich.table import Table

from benchmarks.micro.measure import Said
from benchmarks.servers import environment, write_json

ROOT = Path(__file__).parent.parent
FULL = ("--benchmark-max-time=0.5", "--benchmark-min-time=0.0005")
QUICK = ("--benchmark-max-time=0.005", "--benchmark-min-time=0.00005", "--benchmark-min-rounds=3")


class Failed(Exception):
    """A benchmark failed, or none ran; the message is pytest's output."""


class Stats(msgspec.Struct, frozen=True):
    """Of one round, in seconds."""

    median: float
    iqr: float
    rounds: int


class Benchmark(msgspec.Struct, frozen=True):
    """One benchmark of a pytest-benchmark report."""

    fullname: str
    group: str | None
    extra_info: Said
    stats: Stats


class Report(msgspec.Struct, frozen=True):
    benchmarks: list[Benchmark]


class Row(NamedTuple):
    """Times are in CPU microseconds. `ratio` is how many times the yardstick's time a unit takes, None where there is
    no yardstick, or where this is it."""

    name: str
    group: str | None
    yardstick: bool
    round_us: float
    iqr_us: float
    rounds: int
    units: int
    unit: str
    unit_us: float
    ratio: float | None


def run(folder: Path, *, quick: bool) -> Report:
    """Runs the benchmarks in `folder`. Raises `Failed`, and ValueError where a benchmark does not tell its units."""
    with tempfile.TemporaryDirectory(prefix="headgate-bench-") as scratch:
        path = Path(scratch) / "report.json"
        options = QUICK if quick else FULL
        command = [sys.executable, "-m", "pytest", str(folder), "-q", "--benchmark-timer=time.process_time", *options]
        done = subprocess.run(
            [*command, f"--benchmark-json={path}"], cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode or not path.exists():
            raise Failed(done.stdout + done.stderr)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Report)
        except msgspec.ValidationError as error:
            message = f"a benchmark in {folder} does not say what it measures, by the fixture `measure`: {error}"
            raise ValueError(message) from error


def rows(benchmarks: Sequence[Benchmark]) -> list[Row]:
    """In the order in which they ran, but each yardstick right behind those that it is for. Raises ValueError for a
    second yardstick in a group, and for one that is for nobody."""
    yardsticks: dict[str | None, Benchmark] = {}
    ours: list[Benchmark] = []
    for benchmark in benchmarks:
        if not benchmark.extra_info["yardstick"]:
            ours.append(benchmark)
        elif benchmark.group is None or benchmark.group in yardsticks:
            raise ValueError(f"{benchmark.fullname}: a yardstick needs a group, and a group has one, not two")
        else:
            yardsticks[benchmark.group] = benchmark
    result: list[Row] = []
    for position, benchmark in enumerate(ours):
        yardstick = yardsticks.get(benchmark.group)
        result.append(row(benchmark, yardstick))
        if yardstick is not None and all(later.group != benchmark.group for later in ours[position + 1 :]):
            result.append(row(yardsticks.pop(benchmark.group), None))
    if yardsticks:
        raise ValueError(f"yardsticks without anything to compare with them: {', '.join(map(str, yardsticks))}")
    return result


def row(benchmark: Benchmark, yardstick: Benchmark | None) -> Row:
    said, stats = benchmark.extra_info, benchmark.stats
    return Row(
        said["name"],
        benchmark.group,
        said["yardstick"],
        stats.median * 1e6,
        stats.iqr * 1e6,
        stats.rounds,
        said["units"],
        said["unit"],
        unit_us(benchmark),
        None if yardstick is None else unit_us(benchmark) / unit_us(yardstick),
    )


def unit_us(benchmark: Benchmark) -> float:
    return benchmark.stats.median * 1e6 / benchmark.extra_info["units"]


def show(console: Console, measured: Sequence[Row]) -> None:
    table = Table(title="Parts of the data path, CPU time")
    for column in ("part", "µs a round", "IQR", "a round is", "µs a unit", "÷ yardstick"):
        table.add_column(column, justify="left" if column == "part" else "right", no_wrap=column != "part")
    for r in measured:
        table.add_row(
            f"  beside it: {r.name}" if r.yardstick else r.name,
            f"{r.round_us:,.2f}",
            f"{r.iqr_us:,.2f}",
            f"{r.units} {r.unit}{'' if r.units == 1 else 's'}",
            f"{r.unit_us:.3f}",
            "" if r.ratio is None else f"{r.ratio:.2f} x",
            style="dim" if r.yardstick else "",
        )
    console.print(table)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few rounds of each: to see that it runs")
    parser.add_argument("--json", type=Path, default=Path("bench-results/micro.json"), metavar="FILE")
    parser.add_argument("--folder", type=Path, default=ROOT / "benchmarks" / "micro", help="where the benchmarks are")
    arguments = parser.parse_args()
    if not arguments.folder.is_dir():
        parser.error(f"--folder: {arguments.folder} is not a folder")
    console = Console(width=None if sys.stdout.isatty() else 140)
    try:
        measured = rows(run(arguments.folder.resolve(), quick=arguments.quick).benchmarks)
    except (Failed, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    show(console, measured)
    write_json(arguments.json, {"environment": environment(), "rows": [r._asdict() for r in measured]})
    console.print(f"written to {arguments.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
