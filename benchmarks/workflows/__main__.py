"""The command line: `python -m benchmarks.workflows`."""

import argparse
import subprocess
import sys
from pathlib import Path

import msgspec
import structlog
import uvloop
from rich.console import Console

from benchmarks.rows import Row, show
from benchmarks.servers import environment, write_json
from benchmarks.workflows.parts import PARTS, Figures, decoded, interrupt


def rows(part: str, found: Figures) -> list[Row]:
    """The figures of a part beside their targets."""
    match part:
        case "validate":
            note = f"of CPU; {found['validate_filters_ms']:.0f} ms where each has two expressions with a filter"
            return [
                Row("1,000 steps read, checked and planned", found["validate_1000_ms"], "ms", most=100),
                Row("10,000 steps read, checked and planned", found["validate_10000_ms"], "ms", most=1000, note=note),
            ]
        case "steps-memory" | "steps-sqlite":
            memory = part == "steps-memory"
            note = f"a step {found['step_ms']:.3f}, its prompt alone {found['prompt_ms']:.3f} ms of CPU"
            where = "in memory" if memory else "in SQLite"
            return [
                Row(
                    f"a step, beyond its prompt, {where}",
                    found["overhead_ms"],
                    "ms",
                    most=0.5 if memory else 1.0,
                    note=note,
                )
            ]
        case "throughput":
            note = f"100 at once; {found['inline_per_s']:.0f} where each request has the definition in it"
            return [Row("runs of five steps in SQLite", found["runs_per_s"], "/s", least=200, note=note)]
        case "turns":
            note = f"p99 {found['p99_ms']:.2f} ms, longest {found['longest_cpu_ms']:.1f} ms of CPU; SQLite"
            return [Row("longest turn of the loop, 100 runs at once", found["longest_ms"], "ms", most=20, note=note)]
        case "ready":
            note = f"p50 {found['p50_ms']:.2f} ms; 200 runs of five steps a second, SQLite"
            return [Row("a ready step starts after, p99", found["p99_ms"], "ms", most=10, note=note)]
        case "memory":
            return [Row("1,000 runs with 5 steps under way each", found["mb"], "MB", most=100)]
        case "waiting":
            note = f"{found['mb']:.1f} MB, begun and put away in {found['s']:.1f} s"
            return [Row("runs that wait", found["held"], "", least=10_000, note=note)]
        case _:
            note = f"{found['resumed']:.0f} taken up"
            return [Row("1,000 interrupted runs finished after", found["s"], "s", most=5, note=note)]


def measured(part: str) -> Figures:
    """In a process of its own, on one core."""
    command = ["taskset", "-c", "0", sys.executable, "-m", "benchmarks.workflows", "--part", part]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return decoded(done.stdout.splitlines()[-1])


def main() -> int:
    """The exit status: 1 when a figure misses its target."""
    parser = argparse.ArgumentParser(description="What workflows cost on one core.")
    parser.add_argument("--only", action="append", choices=list(PARTS), help="this part alone; repeatable")
    parser.add_argument("--json", type=Path, default=Path("bench-results/workflows.json"), metavar="FILE")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    parser.add_argument("--interrupt", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, default=1000, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger("error"))
    if arguments.interrupt is not None:
        uvloop.run(interrupt(arguments.interrupt, arguments.runs))
    elif arguments.part is not None:
        print(msgspec.json.encode(uvloop.run(_figures(arguments.part))).decode())
    else:
        return _table(arguments.only or list(PARTS), arguments.json)
    return 0


async def _figures(part: str) -> Figures:
    return await PARTS[part]()


def _table(names: list[str], file: Path) -> int:
    console = Console(width=None if sys.stdout.isatty() else 140)
    found: list[Row] = []
    for name in names:
        console.print(f"measuring: {name}")
        found += rows(name, measured(name))
    show(console, "Workflows, on one core", found)
    write_json(file, {"environment": environment(), "figures": [r._asdict() | {"met": r.met} for r in found]})
    console.print(f"written to {file}")
    return 0 if all(row.met for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
