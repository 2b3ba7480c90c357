"""`headgate workers`."""

import tomllib
from typing import Any

import click
import msgspec

from pipeline.operate import tables
from pipeline.operate.asking import as_json, ask, change, decoded, print_json, reaching, show
from pipeline.operate.client import named
from pipeline.process.admin_types import WorkerStatus

_MAX_TABLE_BYTES = 1 << 20


@click.group(invoke_without_command=True)
@reaching
@as_json
@click.pass_context
def workers(ctx: click.Context, /, *, as_json: bool, **_: Any) -> None:
    """Show a running daemon's workers, or add, swap, drain and remove one.

    What is changed here lasts until the configuration is read again: write it there as well.
    """
    if ctx.invoked_subcommand is None:
        answer = ask(ctx, lambda daemon: daemon.get("/workers"))
        print_json(answer) if as_json else show(tables.workers(decoded(answer, list[WorkerStatus])))


@workers.command()
@click.argument("file", type=click.File("rb"))
@reaching
@click.pass_context
def add(ctx: click.Context, /, file: Any, **_: Any) -> None:
    """Add a worker.

    FILE holds one [[workers]] table in TOML, or its keys as JSON; - is standard input.
    """
    table = _table_in(file)
    name = table.get("name")
    if not isinstance(name, str):
        raise click.ClickException("the worker's table has no name")
    change(ctx, "PUT", named("workers", name), table, {"If-None-Match": "*"})


@workers.command()
@click.argument("name")
@click.argument("file", type=click.File("rb"))
@reaching
@click.pass_context
def swap(ctx: click.Context, /, name: str, file: Any, **_: Any) -> None:
    """Replace a worker.

    New requests go to the one in FILE (see `add`), those let in are finished where they are.
    """
    table = {"name": name} | _table_in(file)
    if table["name"] != name:
        raise click.ClickException(
            f"a swap keeps the worker's name, {name!r}; in {_source(file)} it is {table['name']!r}: leave it out there"
        )
    change(ctx, "PUT", named("workers", name), table, {"If-Match": "*"})


@workers.command("drain")
@click.argument("name")
@reaching
@click.pass_context
def drain_worker(ctx: click.Context, /, name: str, **_: Any) -> None:
    """Give a worker no new requests; those let in are finished."""
    change(ctx, "POST", named("workers", name) + "/drain")


@workers.command()
@click.argument("name")
@reaching
@click.pass_context
def undrain(ctx: click.Context, /, name: str, **_: Any) -> None:
    """Give a worker requests again."""
    change(ctx, "POST", named("workers", name) + "/undrain")


@workers.command()
@click.argument("name")
@click.option("--force", is_flag=True, help="Take it out of routes that have other workers, and out of fallbacks.")
@reaching
@click.pass_context
def remove(ctx: click.Context, /, name: str, *, force: bool, **_: Any) -> None:
    """Remove a worker; those of its requests that were let in are finished."""
    change(ctx, "DELETE", named("workers", name) + ("?force=true" if force else ""))


def _table_in(file: Any) -> dict[str, Any]:
    """A worker's table, on its own or as the one of an array [[workers]]."""
    source = _source(file)
    data: bytes = file.read(_MAX_TABLE_BYTES + 1)
    if len(data) > _MAX_TABLE_BYTES:
        raise click.ClickException(f"{source} is larger than {_MAX_TABLE_BYTES:,} bytes")
    try:
        tree = msgspec.json.decode(data) if data.lstrip()[:1] == b"{" else tomllib.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise click.ClickException(f"{source} is neither TOML nor JSON: {error}") from error
    tables_in = tree.get("workers", [tree])
    if (set(tree) - {"workers"} and "workers" in tree) or not isinstance(tables_in, list) or len(tables_in) != 1:
        raise click.ClickException(f"{source} must hold one [[workers]] table, and nothing else")
    if not isinstance(tables_in[0], dict):
        raise click.ClickException(f"{source}: workers must be a table")
    return dict(tables_in[0])


def _source(file: Any) -> str:
    name = str(getattr(file, "name", "<stdin>"))
    return "standard input" if name == "<stdin>" else name
