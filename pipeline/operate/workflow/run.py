"""`headgate workflow run`: in this process, or at a daemon."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import click

from pipeline.operate.workflow import exits, given
from pipeline.operate.workflow.daemon import ask
from pipeline.operate.workflow.files import Checked, catalog_for, checked, read_only
from pipeline.operate.workflow.remote import goes_on, report, watched
from pipeline.operate.workflow.shown import as_json as indented
from pipeline.operate.workflow.shown import showing
from pipeline.workflow.client import WorkflowClient
from pipeline.workflow.states import RunState
from pipeline.workflow.views import RunView


@click.command()
@click.argument("what", required=False, metavar="FILE|NAME")
@click.option("--input", "pairs", multiple=True, metavar="NAME=VALUE", help="An input; may be repeated.")
@click.option(
    "--input-file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="All inputs as one object, in JSON or YAML; - is standard input. --input goes over it.",
)
@click.option("--output", type=click.Path(path_type=Path), metavar="FILE", help="Write the outputs there instead.")
@click.option("--max-concurrency", type=click.IntRange(1, 10_000), metavar="N", help="So many steps at once at most.")
@click.option("--json", "as_json", is_flag=True, help="The whole run with its steps, not only its outputs.")
@click.option("--quiet", is_flag=True, help="Show no progress.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Configuration file. Default: HEADGATE_CONFIG, else a built-in one with the routes echo and extractive and "
    "any collections in memory.",
)
@click.option("--journal", type=click.Path(path_type=Path), metavar="FILE", help="Keep the run there (SQLite).")
@click.option("--resume", metavar="RUN", help="Go on with this run of the --journal, in place of a FILE.")
@click.option("--url", metavar="URL", help="At this daemon, by its public address: http://127.0.0.1:8080.")
@click.option("--daemon", is_flag=True, help="At the daemon that runs with the configuration.")
@click.option("--detach", is_flag=True, help="With a daemon: print the run's id, and do not wait.")
@click.option("--idempotency-key", metavar="KEY", help="With a daemon: the run that was started with it, if there is.")
@click.pass_context
def run(
    ctx: click.Context,
    /,
    what: str | None,
    pairs: Sequence[str],
    url: str | None,
    *,
    daemon: bool,
    **options: Any,
) -> None:
    """Run a workflow and print its outputs as JSON.

    In this process and from a FILE, unless --url or --daemon sends it to a daemon; there a FILE is registered first,
    and a NAME (or NAME@VERSION) is one that is registered. Ctrl-C cancels a run in this process; at a daemon it goes
    on. Exit status: 0 completed, 1 failed, 2 not started, 3 partial, 4 cancelled, 5 no daemon or journal.
    """
    remote = daemon or url is not None
    _check_usage(what, remote=remote, **options)
    if options["output"] is not None:
        _check_output(options["output"])
    view = _at_daemon(ctx, what or "", pairs, url, options) if remote else _here(what, pairs, options)
    _told(view, options["output"], as_json=options["as_json"], quiet=options["quiet"])
    ctx.exit(exits.status_of(view.state))


def _check_usage(what: str | None, *, remote: bool, resume: str | None, journal: Path | None, **options: Any) -> None:
    if remote and (journal is not None or resume is not None):
        raise click.UsageError("--journal and --resume are for runs in this process: a daemon has its own journal")
    if not remote and (options["detach"] or options["idempotency_key"] is not None):
        raise click.UsageError("--detach and --idempotency-key need a daemon: --url or --daemon")
    if resume is not None and journal is None:
        raise click.UsageError("--resume needs the --journal that has the run")
    if (what is None) == (resume is None):
        raise click.UsageError("name a FILE" if what is None else "--resume goes on with a run: name no FILE with it")
    if resume is not None and options["max_concurrency"] is not None:
        raise click.UsageError("--max-concurrency is set when a run is started")


def _here(what: str | None, pairs: Sequence[str], options: dict[str, Any]) -> RunView:
    from pipeline.operate.workflow import local  # noqa: PLC0415 - the whole pipeline, which a daemon's run needs not

    config_file, definition, file = options["config_file"], None, Path()
    if what is not None:
        file = _file(what)
        definition = _valid(checked(file, catalog_for(config_file, file)), file, config_file).definition
    elif pairs or options["input_file"] is not None:
        raise click.UsageError("a run that goes on has its inputs already")
    wanted = local.Local(
        definition,
        file.parent,
        given.inputs(definition, pairs, options["input_file"]),
        config_file,
        options["journal"],
        options["resume"],
        options["max_concurrency"],
    )
    expected = iter([] if definition is None else [step.id for step in definition.steps])
    return local.run(wanted, showing(quiet=options["quiet"], expected=expected))


def _at_daemon(
    ctx: click.Context, what: str, pairs: Sequence[str], url: str | None, options: dict[str, Any]
) -> RunView:
    file = Path(what) if Path(what).is_file() else None
    found = None if file is None else read_only(file)
    inputs = given.inputs(None if found is None else found.definition, pairs, options["input_file"])
    started: list[str] = []

    async def question(client: WorkflowClient) -> RunView:
        name = what
        if found is not None:
            registered = await client.register(found.text.decode())
            name = f"{registered.name}@{registered.version}"
        key, limit = options["idempotency_key"], options["max_concurrency"]
        run = await client.start(name, inputs, idempotency_key=key, max_concurrency=limit)
        started.append(run.id)
        return await (client.run(run.id) if options["detach"] else watched(client, run, quiet=options["quiet"]))

    try:
        view = ask(url, options["config_file"], question, what if file is not None else "")
    except KeyboardInterrupt:
        if not started:
            raise
        goes_on(ctx, started[0])
    if options["detach"]:
        click.echo(view.id)
        ctx.exit(exits.OK)
    return view


def _file(what: str) -> Path:
    """A name may stand for its file."""
    for path in (Path(what), Path(f"{what}.yaml"), Path(f"{what}.yml"), Path(f"{what}.json")):
        if path.is_file():
            return path
    hint = "a workflow that is registered at a daemon is run with --url or --daemon"
    raise exits.Ended(f"there is no file {what}: {hint}", exits.REFUSED)


def _valid(found: Checked, file: Path, config_file: Path | None) -> Checked:
    if not found.faults:
        return found
    lines = exits.told(found.faults, file)
    if config_file is None and not os.environ.get("HEADGATE_CONFIG"):
        if any(fault.message.startswith(("there is no route", "no route leads to")) for fault in found.faults):
            lines.append("(without --config there are the routes echo and extractive)")
        if any("workflows." in fault.message for fault in found.faults):
            lines.append("(without --config no host may be called and no file written)")
    raise exits.Ended("\n".join(lines), exits.REFUSED)


def _told(view: RunView, output: Path | None, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        _write(indented(view), output)
    elif output is not None:
        _write(indented(view.outputs), output)
        _state(view)
    elif quiet and view.state is RunState.COMPLETED:
        click.echo(indented(view.outputs))
    else:
        report(view)


def _state(view: RunView) -> None:
    click.echo(f"run {view.id} {view.state.value}", err=True)


def _write(text: str, output: Path | None) -> None:
    """Whole or not at all."""
    if output is None:
        click.echo(text)
        return
    beside = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        beside.write_text(text + "\n")
        beside.replace(output)
    except OSError as error:
        _unwritable(output, error)
    finally:
        with contextlib.suppress(OSError):
            beside.unlink()


def _check_output(output: Path) -> None:
    """Before anything is spent."""
    if output.is_dir() or not os.access(output.parent, os.W_OK):
        reason = "it is a folder" if output.is_dir() else f"nothing can be written to {output.parent}"
        raise exits.Ended(f"cannot write {output}: {reason}", exits.REFUSED)


def _unwritable(output: Path, error: OSError) -> NoReturn:
    raise exits.Ended(f"cannot write {output}: {error.strerror}", exits.FAILED) from error
