"""Around a measurement: what it needs before it can begin, its signals, its files, and how it exits."""

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import click
import msgspec
from rich.console import Console

from benchmarks.load.answer import End
from benchmarks.load.backend_client import BackendError
from benchmarks.load.processes import NoProcess
from benchmarks.load.progress import Progress
from benchmarks.load.scenario import Scenario
from benchmarks.load.session import Plan, Session
from benchmarks.load.target import NoModel, first_model
from benchmarks.load.wire import BadHeader, BadUrl, Wire
from benchmarks.report.errors import ReportError
from benchmarks.report.files import check_writable, write
from benchmarks.report.model import Report
from benchmarks.report.page import write_html
from benchmarks.report.terminal import show
from benchmarks.service import Service
from benchmarks.simulated.starting import NotStarted, started

FAILED, STOPPED = 1, 130
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Options(msgspec.Struct, kw_only=True, frozen=True):
    """The command line, checked as far as it can be without a connection."""

    scenario_name: str
    scenario: Scenario
    target: str | None
    model: str | None
    api_key: str | None
    headers: dict[str, str]
    backend: str | None
    pids: list[int]
    capacity: float | None
    name: str | None
    command: list[str]
    json_file: Path | None
    html_file: Path | None
    check: bool
    quiet: bool


async def run(options: Options) -> int:
    """Measure, show and write the report. Returns the exit status: 0, or 1 when something could not be done, or
    130 after Ctrl-C (the report is written all the same). Raises click.ClickException for what a user can mend."""
    progress = Progress(quiet=options.quiet)
    try:
        for path in (options.json_file, options.html_file):
            if path is not None:
                check_writable(path)
        with _target(options, progress) as (target, backend):
            report = await _measure(options, target, backend, progress)
    except (BadHeader, BadUrl, NoModel, BackendError, NoProcess, NotStarted, ReportError) as error:
        raise click.ClickException(str(error)) from error
    return _finish(options, report)


@contextmanager
def _target(options: Options, progress: Progress) -> Iterator[tuple[str, str | None]]:
    """The target's base URL and the backend's. Without a target, a simulated backend is started and measured alone."""
    if options.target is not None:
        yield options.target, options.backend
        return
    if options.backend is not None:
        raise click.UsageError("--backend says what stands behind --target, which is missing")
    service = options.scenario.backend or Service()
    with started(service) as url:
        progress.say(f"No --target: measuring a simulated backend alone ({url}, {service.slots} slots).")
        yield f"{url}/v1", url


async def _measure(options: Options, target: str, backend: str | None, progress: Progress) -> Report:
    model = options.model or await first_model(target, options.api_key, options.headers)
    plan = Plan(
        scenario_name=options.scenario_name,
        scenario=options.scenario,
        target=target,
        model=model,
        api_key=options.api_key,
        headers=options.headers,
        backend=backend,
        pids=options.pids,
        capacity=options.capacity,
        name=options.name or target,
        command=options.command,
    )
    wire = Wire(target, api_key=options.api_key, headers=options.headers)
    try:
        session = Session(plan, wire, progress)
        with _signals(session):
            return await session.measure()
    finally:
        await wire.aclose()


@contextmanager
def _signals(session: Session) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM ends the run with its report, the second ends the process."""
    loop = asyncio.get_running_loop()
    seen = 0

    def stop(number: signal.Signals) -> None:
        nonlocal seen
        seen += 1
        if seen > 1:
            os._exit(128 + number)
        session.stop("interrupted")
        session.progress.say(f"{number.name}: ending the run; once more to end without a report")

    for number in _ENDING:
        loop.add_signal_handler(number, stop, number)
    try:
        yield
    finally:
        for number in _ENDING:
            loop.remove_signal_handler(number)


def _finish(options: Options, report: Report) -> int:
    status = 0 if report.ended == "done" else STOPPED if report.ended == "interrupted" else FAILED
    written, lost = _written(options, report)
    wrong = failures(report) if options.check else []
    with suppress(OSError, ValueError):  # nobody reads it any more; the files are there all the same
        show(report, Console(width=None if sys.stdout.isatty() else 100))
        for line in written:
            click.echo(line)
        for line in (*lost, *(f"check: {sentence}" for sentence in wrong)):
            click.echo(line, err=True)
        sys.stdout.flush()
    if wrong:
        return FAILED
    return status or (FAILED if lost else 0)


def _written(options: Options, report: Report) -> tuple[list[str], list[str]]:
    """The files that were asked for: which were written, and what went wrong with others."""
    written, lost = [], []
    for path, writer in ((options.json_file, write), (options.html_file, write_html)):
        if path is None:
            continue
        try:
            writer(report, path)
            written.append(f"written to {click.format_filename(path)}")
        except ReportError as error:
            lost.append(f"Error: {error}")
    return written, lost


def failures(report: Report) -> list[str]:
    """What `--check` finds wrong: a broken identity, a request that hung or went astray, an answer that was none,
    counts that are missing. Clients that went away by themselves are no failure, nor is a refusal."""
    found = [*report.accounting.problems, *report.faults]
    if report.ended != "done":
        found.append(f"The run ended early: {report.ended}.")
    if not any(phase.counts.offered for phase in report.phases):
        found.append("Nothing was sent.")
    for name, words in _NO_ANSWER.items():
        number = sum(getattr(phase.counts, name) for phase in report.phases)
        if number:
            found.append(f"{number} requests {words}.")
    none = sum(entry.count for phase in report.phases for entry in phase.refusals if entry.code in _NO_ANSWERS)
    if none:
        found.append(f"{none} attempts got no answer, or half of one, or one that makes no sense.")
    found += _too_little(report)
    if report.backend is not None:
        found += report.backend.problems
        if report.backend.left_running:
            found.append(f"{report.backend.left_running} requests still run at the backend.")
    return found


def _too_little(report: Report) -> Iterator[str]:
    for phase in report.phases:
        least, share = phase.least_share, phase.oracle.share if phase.oracle is not None else None
        if least is not None and share is None:
            yield f"Phase {phase.name}: its share of the oracle's goodput is not known, and {least:.0%} are wanted."
        elif least is not None and share is not None and share < least:
            yield f"Phase {phase.name} reached {share:.1%} of the oracle's goodput; at least {least:.0%} are wanted."


_NO_ANSWER = {"unreachable": "found no connection", "unsent": "were not sent"}
_NO_ANSWERS = frozenset({str(End.BROKEN), str(End.NONSENSE)})
