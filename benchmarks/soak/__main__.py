"""The command line: `python -m benchmarks.soak`."""

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec
import uvloop
from rich.console import Console

from benchmarks.servers import write_json
from benchmarks.soak.places import NotStarted
from benchmarks.soak.progress import Progress
from benchmarks.soak.result import show
from benchmarks.soak.run import Options, soak
from benchmarks.soak.troubles import KINDS


def main() -> int:
    """The exit status: 1 when something failed or nothing could be started, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        description="Mixed load with kills, reloads and disconnects; fails on what is left."
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="of load (60)")
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1, help="of the load, and of what is done when")
    parser.add_argument("--trouble", action="append", choices=KINDS, default=[], help="this alone; repeatable")
    parser.add_argument("--interval", type=float, default=10.0, metavar="SECONDS", help="between lines of progress")
    parser.add_argument("--json", type=Path, default=Path("bench-results/soak.json"), metavar="FILE")
    arguments = parser.parse_args()
    if not (0 < arguments.minutes <= 24 * 60 and arguments.shards >= 1 and arguments.interval > 0):
        parser.error("--minutes is up to 1440, --shards at least 1, --interval above 0")
    console = Console(width=None if sys.stdout.isatty() else 140)
    options = Options(arguments.minutes * 60, arguments.shards, arguments.seed, arguments.trouble, arguments.interval)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            result = runner.run(soak(options, Progress(console, arguments.interval)))
    except NotStarted as error:
        console.print(f"soak: {error}", markup=False, highlight=False)
        return 1
    except KeyboardInterrupt:
        return 130
    show(console, result)
    write_json(arguments.json, msgspec.to_builtins(result))
    console.print(f"written to {arguments.json}")
    return 0 if result.clean else 1


if __name__ == "__main__":
    sys.exit(main())
