"""`python -m benchmarks.overload`: every figure of the table about overload, target beside measured."""

import resource
import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks.overload.page import Result, data, html, show
from benchmarks.overload.rows import ROWS
from benchmarks.overload.run import Run, Wanted
from benchmarks.overload.trials import USUAL
from benchmarks.peers.interrupt import Interrupt
from benchmarks.report.errors import ReportError
from benchmarks.report.files import check_writable, write_text
from benchmarks.servers import write_json
from config.errors import ConfigError, report

_STEP_SECONDS = 15.0
_OPEN_FILES = 65_536
_FAILED, _UNUSABLE, _STOPPED = 1, 2, 130
_Seconds = click.FloatRange(0.5, 600)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", "rows", multiple=True, metavar="ROW", help="This row only; may be repeated (see --list).")
@click.option("--duration", type=_Seconds, default=USUAL, show_default=True, help="Seconds of a phase that has 30.")
@click.option(
    "--shards", type=click.IntRange(1, 64), default=1, show_default=True, help="Processes that serve, of Headgate."
)
@click.option(
    "--ablation/--no-ablation", default=None, help="One mechanism after the other.  [default: unless --only is given]"
)
@click.option(
    "--ablation-duration",
    type=_Seconds,
    default=_STEP_SECONDS,
    show_default=True,
    help="The same for the ablation; never longer than --duration.",
)
@click.option(
    "--json-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-results/overload"),
    show_default=True,
    help="Where the trials' reports go.",
)
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the table here.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the page here.")
@click.option("--list", "listed", is_flag=True, help="The rows there are.")
@click.pass_context
def main(
    ctx: click.Context,
    /,
    rows: tuple[str, ...],
    duration: float,
    shards: int,
    ablation_duration: float,
    json_dir: Path,
    json_file: Path | None,
    html_file: Path | None,
    *,
    ablation: bool | None,
    listed: bool,
) -> None:
    """Measure what Headgate makes of overload, and say which targets are met. Exits with 1 when one is missed."""
    if listed:
        for row in ROWS.values():
            click.echo(f"{row.key:<10} {row.about}")
        return
    unknown = [row for row in rows if row not in ROWS]
    if unknown:
        raise click.UsageError(f"--only: no row {', '.join(map(repr, unknown))}; there are {', '.join(ROWS)}")
    steps = min(ablation_duration, duration) if (not rows if ablation is None else ablation) else None
    wanted = Wanted([row for row in ROWS if not rows or row in rows], duration, steps, shards)
    try:
        for path in (json_file, html_file):
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
                check_writable(path)
        _allow_connections()
        with Interrupt() as interrupt:
            result = Run(wanted, json_dir, interrupt, _say, command=_command()).go()
        _finish(result, json_file, html_file)
    except ConfigError as error:
        click.echo(report(error.problems, lambda path: click.style(path, bold=True)), err=True)
        ctx.exit(_UNUSABLE)
    except (ReportError, OSError) as error:
        raise click.ClickException(str(error)) from error
    ctx.exit(_STOPPED if not result.whole else _FAILED if result.missed else 0)


def _allow_connections() -> None:
    """For the daemon, which inherits it: overload holds thousands of connections."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


def _finish(result: Result, json_file: Path | None, html_file: Path | None) -> None:
    """The files first: a terminal that has gone is no reason to lose them."""
    if json_file is not None:
        write_json(json_file, data(result))
    if html_file is not None:
        write_text(html(result), html_file)
    show(result, Console(width=None if sys.stdout.isatty() else 170))
    for path in (json_file, html_file):
        if path is not None:
            click.echo(f"written to {path}")


def _say(line: str) -> None:
    click.echo(line, err=True)


def _command() -> list[str]:
    return ["python", "-m", "benchmarks.overload", *sys.argv[1:]]


if __name__ == "__main__":
    main()
