"""`headgate status`, `drain`, `reload` and `log-level`."""

from typing import Any

import click
from rich.console import RenderableType

from pipeline.observe.overview import StageOverview
from pipeline.operate import tables
from pipeline.operate.asking import as_json, ask, change, decoded, print_json, reaching, show
from pipeline.operate.client import Daemon, named
from pipeline.operate.watch import watch as watching
from pipeline.process.admin_types import DaemonStatus, WorkerStatus


@click.command()
@reaching
@as_json
@click.option("--watch", is_flag=True, help="Again every second, until Ctrl-C.")
@click.pass_context
def status(ctx: click.Context, /, *, as_json: bool, watch: bool, **_: Any) -> None:
    """Show what a running daemon does: its processes, its requests, its queues."""

    async def once(daemon: Daemon) -> RenderableType:
        if as_json:
            return (await daemon.get("/status")).decode()
        stages = decoded(await daemon.get("/stages"), list[StageOverview])
        workers = decoded(await daemon.get("/workers"), list[WorkerStatus])
        return tables.status(decoded(await daemon.get("/status"), DaemonStatus), stages, workers)

    async def forever(daemon: Daemon) -> None:
        await watching(lambda: once(daemon), lines=as_json)

    if watch:
        ask(ctx, forever)
    elif as_json:
        print_json(ask(ctx, lambda daemon: daemon.get("/status")))
    else:
        show(ask(ctx, once))


@click.command()
@click.option("--worker", metavar="NAME", help="Only this worker: it gets no new requests, the daemon goes on.")
@reaching
@click.pass_context
def drain(ctx: click.Context, /, worker: str | None, **_: Any) -> None:
    """End a running daemon in good order, as SIGTERM does: what is under way is finished."""
    if worker is not None:
        change(ctx, "POST", named("workers", worker) + "/drain")
        return
    ask(ctx, lambda daemon: daemon.change("POST", "/drain"))
    click.echo("The daemon finishes what is under way, and ends.")


@click.command()
@click.option("--replace", is_flag=True, help="Then start a new process for each shard, one after another.")
@reaching
@click.pass_context
def reload(ctx: click.Context, /, *, replace: bool, **_: Any) -> None:
    """Make a running daemon read its configuration file again, and show what is different.

    Exit status 2 when the file is refused: then nothing has changed.
    """
    change(ctx, "POST", "/reload")
    if not replace:
        return
    try:
        ask(ctx, lambda daemon: daemon.change("POST", "/replace"))
    except click.ClickException as error:
        raise click.ClickException(f"the reload is done, but not the replacement: {error.message}") from error
    click.echo("All shards run in new processes.")


@click.command("log-level")
@click.argument("level", type=click.Choice(["debug", "info", "warning", "error"]))
@reaching
@click.pass_context
def log_level(ctx: click.Context, /, level: str, **_: Any) -> None:
    """Log this level and above, until the configuration is read again."""
    ask(ctx, lambda daemon: daemon.change("PUT", "/log-level", {"level": level}))
    click.echo(f"Logging from {level} on.")
