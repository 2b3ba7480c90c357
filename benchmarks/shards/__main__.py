"""The command line: `python -m benchmarks.shards`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.servers import environment, write_json
from benchmarks.shards import changes, cost, faults, latency
from benchmarks.shards.rows import Row, show


def parts(*, quick: bool) -> dict[str, Callable[[], list[Row]]]:
    trials, scale = (1, 0.1) if quick else (5, 1.0)
    return {
        "cpu": lambda: cost.of_two_shards(pairs=trials, scale=scale),
        "latency": lambda: latency.of_the_relay(trials=trials, seconds=4.0 * scale + 0.6),
        "kill": lambda: faults.of_a_kill(trials=1 if quick else 3),
        "changes": changes.of_changes,
        "metrics": lambda: cost.of_rendering(pairs=trials, scale=scale),
    }


def main() -> int:
    """The exit status: 1 when a figure misses its target."""
    parser = argparse.ArgumentParser(description="What several shards cost, and what survives when one goes.")
    parser.add_argument("--quick", action="store_true", help="one short trial of each: to see that it runs")
    parser.add_argument("--only", action="append", choices=list(parts(quick=True)), help="this part alone; repeatable")
    parser.add_argument("--json", type=Path, default=Path("bench-results/shards.json"), metavar="FILE")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    rows = []
    for name, measure in parts(quick=arguments.quick).items():
        if not arguments.only or name in arguments.only:
            console.print(f"measuring: {name}")
            rows += measure()
    show(console, rows)
    write_json(arguments.json, {"environment": environment(), "figures": [r._asdict() | {"met": r.met} for r in rows]})
    console.print(f"written to {arguments.json}")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
