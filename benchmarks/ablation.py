"""`python -m benchmarks.ablation`: keeps what a version measured as a line of `benchmarks/ablation.json`.

The comparison page of `make bench-peers` shows these lines one below the other, each beside the one before.
"""

from pathlib import Path

import click
from rich.console import Console

from benchmarks.report.ablation import PATH, line_of, read_ablation, record
from benchmarks.report.errors import ReportError
from benchmarks.report.files import read


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("reports", nargs=-1, type=click.Path(path_type=Path), metavar="[REPORT.json]...")
@click.option("--name", help="The version in a word or two. A line of this name is replaced.")
@click.option("--description", default="", help="What it adds to the line before.")
def main(reports: tuple[Path, ...], name: str | None, description: str) -> None:
    """Record a line from one or several reports of the same version (their medians), and show all lines.

    Without reports the lines are only shown.
    """
    if reports and not name:
        raise click.UsageError("--name is missing: what the version is called")
    try:
        if reports and name:
            record(line_of([read(path) for path in reports], name, description))
        lines = read_ablation(PATH) if PATH.exists() else []
    except (ReportError, ValueError) as error:
        raise click.ClickException(str(error)) from error
    console = Console()
    for line in lines:
        console.print(f"{line.name} ({line.commit[:10]}, {line.date[:10]}): {line.description}", highlight=False)
        for phase in line.phases:
            console.print(
                f"  {phase.scenario:<12} {phase.name:<6} goodput {phase.goodput:6.1f}/s  "
                f"of the oracle's {_percent(phase.share)}  p50 {_ms(phase.p50)}  p99 {_ms(phase.p99)}",
                highlight=False,
            )


def _percent(share: float | None) -> str:
    return "      -" if share is None else f"{share * 100:5.1f} %"


def _ms(seconds: float | None) -> str:
    return "       -" if seconds is None else f"{seconds * 1000:5.0f} ms"


if __name__ == "__main__":
    main()
