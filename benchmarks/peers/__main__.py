"""`python -m benchmarks.peers`: the same load over several gateways, and a page that compares them."""

import resource
import sys
from pathlib import Path

import click
from rich.console import Console

from benchmarks.peers.gateway import Gateway
from benchmarks.peers.interrupt import Interrupt
from benchmarks.peers.known import gateways
from benchmarks.peers.plan import planned
from benchmarks.peers.run import Run
from benchmarks.report.ablation import PATH, AblationLine, read_ablation
from benchmarks.report.comparison import comparison, comparison_terminal
from benchmarks.report.errors import CannotRead, ReportError
from benchmarks.report.files import check_writable, write_text
from config.errors import ConfigError, report

SCENARIOS = ("throughput", "streaming", "overload")
_OPEN_FILES = 65_536
_FAILED, _UNUSABLE, _STOPPED = 1, 2, 130


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenarios", nargs=-1, metavar="[SCENARIO]...")
@click.option("--gateways", "names", metavar="A,B,C", help=f"Of: {', '.join(gateways())}.  [default: all of them]")
@click.option(
    "--json-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench-results/peers"),
    show_default=True,
    help="Where the reports go.",
)
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the page here.")
@click.option(
    "--duration",
    type=click.FloatRange(0, 86_400, min_open=True),
    metavar="S",
    help="Seconds of each point, its warm-up included.",
)
@click.option("--rounds", type=click.IntRange(1, 100), default=1, show_default=True, help="Run everything so often.")
@click.option(
    "--headgate-config",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    metavar="FILE",
    help="Further settings for Headgate, as TOML.",
)
@click.option("--check", is_flag=True, help="Exit with 1 unless all were measured and everything adds up.")
@click.pass_context
def main(
    ctx: click.Context,
    /,
    scenarios: tuple[str, ...],
    names: str | None,
    json_dir: Path,
    html_file: Path | None,
    duration: float | None,
    rounds: int,
    headgate_config: Path | None,
    *,
    check: bool,
) -> None:
    """Put the same load on several gateways in turn, each before a fresh simulated backend, and compare them.

    SCENARIO is a name from `headgate bench --list` or a TOML file; by default throughput, streaming and overload.
    """
    chosen = _chosen(names, headgate_config)
    try:
        plans = planned(scenarios or SCENARIOS, duration)
        if html_file is not None:
            html_file.parent.mkdir(parents=True, exist_ok=True)
            check_writable(html_file)
        _allow_connections()
        with Interrupt() as interrupt:
            run = Run(chosen, plans, json_dir, interrupt, _say, command=_command(), rounds=rounds, check=check)
            whole = run.go()
        _show(run, html_file)
    except ConfigError as error:
        click.echo(report(error.problems, lambda path: click.style(path, bold=True)), err=True)
        ctx.exit(_UNUSABLE)
    except (ReportError, OSError) as error:
        raise click.ClickException(str(error)) from error
    if not whole:
        ctx.exit(_STOPPED)
    ctx.exit(_FAILED if check and (run.missing or run.problems) else 0)


def _chosen(names: str | None, headgate_config: Path | None) -> list[Gateway]:
    every = gateways(headgate_config)
    wanted = list(every) if names is None else list(dict.fromkeys(name.strip() for name in names.split(",")))
    unknown = [name for name in wanted if name not in every]
    if unknown:
        raise click.UsageError(f"--gateways: no gateway {', '.join(map(repr, unknown))}; there are {', '.join(every)}")
    return [every[name] for name in wanted]


def _allow_connections() -> None:
    """For the gateways, which inherit it: overload holds thousands of connections. Not more, because some programs
    close all that they might have at their start."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = _OPEN_FILES if most == resource.RLIM_INFINITY else min(most, _OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (enough, most))


def _show(run: Run, html_file: Path | None) -> None:
    reports = run.reports()
    comparison_terminal(reports, run.missing, Console(width=None if sys.stdout.isatty() else 100))
    if html_file is not None:
        write_text(comparison(reports, run.missing, _steps()), html_file)
        click.echo(f"written to {html_file}")


def _steps() -> list[AblationLine]:
    """A broken file of them is no reason to lose a page that took half an hour."""
    try:
        return read_ablation() if PATH.exists() else []
    except CannotRead as error:
        _say(f"the page has no steps: {error}")
        return []


def _say(line: str) -> None:
    click.echo(line, err=True)


def _command() -> list[str]:
    return ["python", "-m", "benchmarks.peers", *sys.argv[1:]]


if __name__ == "__main__":
    main()
