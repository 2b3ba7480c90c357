"""The command line: `headgate bench`, and the same as `python -m benchmarks.load`."""

import asyncio
import io
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
import msgspec
import uvloop

from benchmarks.load import reading
from benchmarks.load.reading import only, with_clients, with_rate, with_seconds
from benchmarks.load.scenario import Scenario
from config.errors import ConfigError, report
from config.secrets import resolve

DEFAULT = "first"
_MISSING = "needs packages that are not installed: pip install 'headgate[bench]'"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("scenario", required=False)
@click.option(
    "--target", metavar="URL", help="What to measure, as an OpenAI client's base_url. Default: a simulated backend."
)
@click.option("--model", metavar="NAME", help="Model to ask for. Default: the first that the target names.")
@click.option("--api-key", metavar="REF", help="env:NAME or file:PATH of the target's API key.")
@click.option("--header", "headers", metavar="NAME:VALUE", multiple=True, help="Further header line; may be repeated.")
@click.option(
    "--rate", type=float, metavar="R", help="Requests per second, Poisson, in place of the scenario's phases."
)
@click.option(
    "--clients", type=int, metavar="N", help="So many clients that wait for their answers, in place of the phases."
)
@click.option("--duration", type=float, metavar="S", help="Seconds that requests arrive; the phases are scaled to it.")
@click.option("--phase", metavar="NAME", help="This phase of the scenario alone (and the warm-ups before it).")
@click.option("--capacity", type=float, metavar="R", help="Requests per second that `load = 1` means, if you know it.")
@click.option("--backend", metavar="URL", help="The simulated backend behind the target: its counts enter the report.")
@click.option(
    "--pid", "pids", type=int, multiple=True, help="A process of the target; default: who listens on its port."
)
@click.option("--seed", type=int, help="Of arrivals and requests. Default: the scenario's.")
@click.option("--name", metavar="TEXT", help="What the report calls the target. Default: its URL.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the report here.")
@click.option("--html", "html_file", type=click.Path(path_type=Path), metavar="FILE", help="Write the page here.")
@click.option(
    "--check", is_flag=True, help="Exit with 1 unless all adds up, and nobody who waited got no answer, or half of one."
)
@click.option("--quiet", is_flag=True, help="No progress.")
@click.option("--list", "listed", is_flag=True, help="The scenarios that come with Headgate.")
@click.option(
    "--compare",
    nargs=2,
    type=click.Path(path_type=Path),
    metavar="A.json B.json",
    help="Set two reports side by side instead of measuring.",
)
@click.pass_context
def bench(ctx: click.Context, /, scenario: str | None, **options: Any) -> None:
    """Put load on any OpenAI-compatible server and report what it did with it.

    SCENARIO is a name from --list or a TOML file.
    """
    _standard_streams()
    try:
        ctx.exit(_bench(scenario, options))
    except ConfigError as error:
        click.echo(report(error.problems, lambda path: click.style(path, bold=True)), err=True)
        ctx.exit(2)
    except ImportError as error:
        if error.name not in {"httptools", "plotly", "psutil"}:
            raise
        raise click.ClickException(f"headgate bench {_MISSING}") from error


def _bench(name: str | None, options: dict[str, Any]) -> int:
    if options["listed"]:
        return _list()
    if options["compare"] is not None:
        if options["json_file"] is not None:
            raise click.UsageError("--compare writes no --json; it takes --html")
        first, second = options["compare"]
        return _compare(first, second, options["html_file"])
    return _measure(name or DEFAULT, options)


def _standard_streams() -> None:
    """As they should be: there (a socket that takes the number of one confuses libuv), and able to say everything."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115 - as long as the process
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _list() -> int:
    for name, description in reading.names():
        click.echo(f"{name:<16} {description.splitlines()[0] if description else ''}")
    return 0


def _compare(first: Path, second: Path, html_file: Path | None) -> int:
    from rich.console import Console  # noqa: PLC0415 - not needed to measure

    from benchmarks.report.compare import compare_html, compare_terminal  # noqa: PLC0415 - the same
    from benchmarks.report.errors import ReportError  # noqa: PLC0415 - the same
    from benchmarks.report.files import check_writable, read, write_bytes  # noqa: PLC0415 - the same

    try:
        if html_file is not None:
            check_writable(html_file)
        a, b = read(first), read(second)
        compare_terminal(a, b, Console(width=None if sys.stdout.isatty() else 100))
        if html_file is not None:
            write_bytes(compare_html(a, b).encode(), html_file)
            click.echo(f"written to {html_file}")
    except ReportError as error:
        raise click.ClickException(str(error)) from error
    return 0


def chosen(name: str, options: dict[str, Any]) -> tuple[str, Scenario]:
    """The scenario with what the command line changes in it. Raises ConfigError, click.UsageError."""
    label, scenario = reading.read(name)
    if options["rate"] is not None and options["clients"] is not None:
        raise click.UsageError("--rate or --clients, not both")
    if options["phase"] is not None:
        if options["rate"] is not None or options["clients"] is not None:
            raise click.UsageError("--phase takes a phase of the scenario, --rate and --clients replace all of them")
        scenario = only(scenario, options["phase"])
    seconds = options["duration"]
    for option in ("rate", "clients", "duration", "capacity"):
        value = options[option]
        if value is not None and not 0.001 <= value <= 1_000_000:
            raise click.UsageError(f"--{option} {value}: expected a number from 0.001 to 1,000,000")
    if options["rate"] is not None:
        scenario = with_rate(scenario, options["rate"], seconds or 30.0)
    elif options["clients"] is not None:
        scenario = with_clients(scenario, options["clients"], seconds or 30.0)
    elif seconds is not None:
        scenario = with_seconds(scenario, seconds)
    if options["seed"] is not None:
        scenario = msgspec.structs.replace(scenario, seed=options["seed"])
    return label, scenario


def header_fields(lines: Sequence[str]) -> dict[str, str]:
    """`Name: value` lines. Raises click.UsageError."""
    fields = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name.strip() or not line.isascii() or not line.isprintable():
            raise click.UsageError(f"--header {line!r}: expected NAME:VALUE in printable ASCII")
        fields[name.strip()] = value.strip()
    return fields


def _measure(name: str, options: dict[str, Any]) -> int:
    from benchmarks.load.running import Options, run  # noqa: PLC0415 - needs the extra packages

    for option in ("target", "model", "name", "backend"):
        value = options[option]
        if value is not None and not value.isprintable():
            raise click.UsageError(f"--{option} {value!r}: expected printable text")
    label, scenario = chosen(name, options)
    secret = options["api_key"]
    settings = Options(
        scenario_name=label,
        scenario=scenario,
        target=options["target"],
        model=options["model"],
        api_key=resolve(secret, path="--api-key") if secret is not None else None,
        headers=header_fields(options["headers"]),
        backend=options["backend"],
        pids=list(options["pids"]),
        capacity=options["capacity"],
        name=options["name"],
        command=_command(sys.argv),
        json_file=options["json_file"],
        html_file=options["html_file"],
        check=options["check"],
        quiet=options["quiet"],
    )
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(run(settings))


def _command(arguments: Sequence[str]) -> list[str]:
    """What was typed, without the values of headers: they may be secrets."""
    program = ["headgate"] if arguments[0].endswith(("headgate", "cli.py")) else ["python", "-m", "benchmarks.load"]
    shown = [argument.encode("utf-8", "replace").decode() for argument in arguments[1:]]
    for index, argument in enumerate(shown):
        if argument.startswith("--header=") or (index and shown[index - 1] == "--header"):
            shown[index] = argument.partition(":")[0] + ":…"
    return program + shown
