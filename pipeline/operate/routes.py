"""`headgate routes`."""

from typing import Any

import click

from pipeline.operate import tables
from pipeline.operate.asking import as_json, ask, change, decoded, print_json, reaching, show
from pipeline.operate.client import named
from pipeline.process.admin_types import RouteStatus


@click.group(invoke_without_command=True)
@reaching
@as_json
@click.pass_context
def routes(ctx: click.Context, /, *, as_json: bool, **_: Any) -> None:
    """Show a running daemon's routes, or change the weights of one's workers."""
    if ctx.invoked_subcommand is None:
        answer = ask(ctx, lambda daemon: daemon.get("/routes"))
        print_json(answer) if as_json else show(tables.routes(decoded(answer, list[RouteStatus])))


@routes.command()
@click.argument("route")
@click.argument("shares", nargs=-1, required=True, metavar="WORKER=WEIGHT…")
@reaching
@click.pass_context
def weights(ctx: click.Context, /, route: str, shares: tuple[str, ...], **_: Any) -> None:
    """Change weights of a route's workers.

    One that the route does not have yet is added; the weight 0 gives a worker no sessions, `WORKER=out` takes it out.
    Workers that are not named keep their weights.
    """
    change(ctx, "PATCH", named("routes", route) + "/weights", dict(_weight(share) for share in shares))


def _weight(share: str) -> tuple[str, float | None]:
    worker, equals, weight = share.rpartition("=")
    if not equals or not worker:
        raise click.UsageError(f"{share!r} is no WORKER=WEIGHT")
    if weight == "out":
        return worker, None
    try:
        return worker, float(weight)
    except ValueError:
        raise click.UsageError(f"{share!r}: the weight must be a number, or out") from None
