"""The command line: `python -m benchmarks.pools`."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from benchmarks.pools import circuit, failures, spread
from benchmarks.rows import Row, show
from benchmarks.servers import environment, write_json


def parts(*, quick: bool) -> dict[str, Callable[[], list[Row]]]:
    return {
        "sessions": lambda: spread.of_sessions(trials=1 if quick else 3, seconds=4.0 if quick else 10.0),
        "kill": lambda: failures.of_a_kill(trials=1 if quick else 3, seconds=2.0 if quick else 4.0),
        "every-other": lambda: failures.of_every_other_call(seconds=3.0 if quick else 10.0),
        "circuit": circuit.of_the_circuit,
    }


def main() -> int:
    """The exit status: 1 when a figure misses its target."""
    parser = argparse.ArgumentParser(description="Where sessions go in a pool, and what survives when a replica fails.")
    parser.add_argument("--quick", action="store_true", help="a shorter load: to see that it runs")
    parser.add_argument("--only", action="append", choices=list(parts(quick=True)), help="this part alone; repeatable")
    parser.add_argument("--json", type=Path, default=Path("bench-results/pools.json"), metavar="FILE")
    arguments = parser.parse_args()
    console = Console(width=None if sys.stdout.isatty() else 140)
    rows = []
    for name, measure in parts(quick=arguments.quick).items():
        if not arguments.only or name in arguments.only:
            console.print(f"measuring: {name}")
            rows += measure()
    show(console, "Pools of replicas", rows)
    write_json(arguments.json, {"environment": environment(), "figures": [r._asdict() | {"met": r.met} for r in rows]})
    console.print(f"written to {arguments.json}")
    return 0 if all(row.met for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
