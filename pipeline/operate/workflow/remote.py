"""`headgate workflow list`, `status`, `watch`, `pause`, `resume`, `cancel`, `retry` and `signal`: runs of a daemon."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import click
import msgspec

from pipeline.operate.asking import print_json, show
from pipeline.operate.workflow import exits, tables
from pipeline.operate.workflow.daemon import ask, reaching
from pipeline.operate.workflow.shown import Show, as_json, showing
from pipeline.workflow.client import WorkflowApiError, WorkflowClient
from pipeline.workflow.states import RunState
from pipeline.workflow.views import RunSummary, RunView, Token, WorkflowSummary

_INTERRUPTED = 130

run_argument = click.argument("run_id", metavar="RUN")


@click.command("list")
@click.option("--workflow", metavar="NAME", help="Only runs of this workflow.")
@click.option(
    "--state", "states", multiple=True, type=click.Choice([state.value for state in RunState]), help="Only runs in it."
)
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, help="So many runs at most.")
@reaching
def list_(
    workflow: str | None,
    states: Sequence[str],
    limit: int,
    url: str | None,
    config_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """List a daemon's registered workflows and its newest runs."""

    async def question(client: WorkflowClient) -> tuple[list[WorkflowSummary], list[RunSummary]]:
        found = [run async for run in client.runs(workflow=workflow, states=states, limit=limit)]
        return [known for known in await client.workflows() if workflow in {None, known.name}], found

    workflows, runs = ask(url, config_file, question)
    if as_json:
        print_json(msgspec.json.encode({"workflows": workflows, "runs": runs}))
    else:
        show(tables.listed(workflows, runs, workflow))


@click.command()
@run_argument
@reaching
@click.pass_context
def status(ctx: click.Context, run_id: str, url: str | None, config_file: Path | None, *, as_json: bool) -> None:
    """Show a run: its state, its steps, its outputs.

    Exit status as that of `run`; 0 for a run that has not ended.
    """
    view = ask(url, config_file, lambda client: client.run(run_id))
    print_json(msgspec.json.encode(view)) if as_json else show(tables.run(view))
    ctx.exit(exits.status_of(view.state))


@click.command()
@run_argument
@click.option("--quiet", is_flag=True, help="Show no progress; wait for the end.")
@reaching
@click.pass_context
def watch(
    ctx: click.Context, run_id: str, url: str | None, config_file: Path | None, *, as_json: bool, quiet: bool
) -> None:
    """Show a run until it ends, then print its outputs.

    The run goes on when this is interrupted. With --json its events are printed instead, one a line.
    """
    try:
        view = ask(url, config_file, lambda client: _watched(client, run_id, lines=as_json, quiet=quiet))
    except KeyboardInterrupt:
        goes_on(ctx, run_id)
    if not as_json:
        report(view)
    ctx.exit(exits.status_of(view.state))


def goes_on(ctx: click.Context, run_id: str) -> None:
    click.echo(f"The run {run_id} goes on. To see it again: headgate workflow watch {run_id}", err=True)
    ctx.exit(_INTERRUPTED)


async def _watched(client: WorkflowClient, run_id: str, *, lines: bool, quiet: bool) -> RunView:
    view = await client.run(run_id)
    return await _lines(client, view) if lines else await watched(client, view, quiet=quiet)


async def _lines(client: WorkflowClient, view: RunView) -> RunView:
    async with aclosing(client.events(view.id)) as events:
        async for event in events:
            click.echo(msgspec.json.encode({"number": event.number, "event": event.entry}))
    return await client.run(view.id)


async def watched(client: WorkflowClient, view: RunSummary, *, quiet: bool) -> RunView:
    """The run when it has ended."""
    with showing(quiet=quiet, expected=iter(await _expected(client, view))) as shown:
        async with aclosing(client.events(view.id)) as events:
            async for event in events:
                _pass(event.entry, shown)
    return await client.run(view.id)


def _pass(entry: Any, shown: Show) -> None:
    if isinstance(entry, Token):
        shown.text(entry.path, entry.attempt, entry.text)
    else:
        shown.entry(entry)


async def _expected(client: WorkflowClient, view: RunSummary) -> list[str]:
    """The steps by id, where the workflow is registered."""
    try:
        definition = msgspec.json.decode((await client.workflow(view.workflow, view.version)).definition)
        return [str(step["id"]) for step in definition["steps"]]
    except (WorkflowApiError, KeyError, TypeError, msgspec.DecodeError):
        return []


def report(view: RunView) -> None:
    """The outputs on standard output, the rest on standard error."""
    if view.outputs is not None:
        click.echo(as_json(view.outputs))
    message = "" if view.error is None else f": {view.error.get('message', view.error)}"
    click.echo(f"run {view.id} {view.state.value}{message}", err=True)


def _change(command: str, question: Callable[[WorkflowClient], Awaitable[RunSummary]], **options: Any) -> None:
    view = ask(options["url"], options["config_file"], question)
    if options["as_json"]:
        print_json(msgspec.json.encode(view))
    else:
        click.echo(f"{command}: run {view.id} is {view.state.value}")


@click.command()
@run_argument
@reaching
def pause(run_id: str, **options: Any) -> None:
    """Let a run start no more steps; those under way end."""
    _change("pause", lambda client: client.pause(run_id), **options)


@click.command()
@run_argument
@reaching
def resume(run_id: str, **options: Any) -> None:
    """Let a paused run go on."""
    _change("resume", lambda client: client.resume(run_id), **options)


@click.command()
@run_argument
@click.option("--because", default="", metavar="TEXT", help="Stands in the run's events.")
@reaching
def cancel(run_id: str, because: str, **options: Any) -> None:
    """End a run; its steps under way are cancelled."""
    _change("cancel", lambda client: client.cancel(run_id, because), **options)


@click.command()
@run_argument
@click.option("--step", metavar="PATH", help="From this step on, and all that depends on it.")
@reaching
def retry(run_id: str, step: str | None, **options: Any) -> None:
    """Let a run that has ended run again: its failed, skipped and abandoned steps, or those from one step on."""
    _change("retry", lambda client: client.retry(run_id, step), **options)


@click.command()
@run_argument
@click.argument("event")
@click.argument("payload", required=False)
@reaching
def signal(run_id: str, event: str, payload: str | None, **options: Any) -> None:
    """Send a run the signal EVENT, which one of its `wait` steps waits for.

    PAYLOAD is JSON, or else a text; it becomes the step's value.
    """
    view = ask(options["url"], options["config_file"], lambda client: client.signal(run_id, event, parsed(payload)))
    if options["as_json"]:
        print_json(msgspec.json.encode(view))
    else:
        click.echo(f"signal: run {view.id} has been sent {event!r}")


def parsed(text: str | None) -> Any:
    """JSON, where it is that."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text
