"""`headgate usage`."""

from collections.abc import Sequence
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.operate import tables
from pipeline.operate.asking import as_json, ask, decoded, print_json, reaching, show
from pipeline.operate.fitted import Fitted, Kind, Shown
from pipeline.process.admin_types import UsageFigures, UsageRow, UsageStatus

_DIMENSIONS = ("key", "route", "worker")
_NUMBERS = (
    Shown("requests", short="reqs"),
    Shown("prompt"),
    Shown("cached", optional=True),
    Shown("completion", short="compl."),
    Shown("reasoning", short="reas.", optional=True),
    Shown("of which estimated", short="estim.", optional=True),
)


@click.command()
@click.option(
    "--by",
    type=click.Choice(_DIMENSIONS),
    multiple=True,
    help="Sum by this; may be given several times. Default: by all three.",
)
@as_json
@reaching
@click.pass_context
def usage(ctx: click.Context, /, by: tuple[str, ...], *, as_json: bool, **_: Any) -> None:
    """Show the tokens that a running daemon's requests have used since its start, by key, route and worker."""
    asked = [name for name in _DIMENSIONS if name in by or not by]
    answer = ask(ctx, lambda daemon: daemon.get(f"/usage?by={','.join(asked)}"))
    print_json(answer) if as_json else show(table(decoded(answer, UsageStatus), asked))


def table(status: UsageStatus, by: Sequence[str]) -> RenderableType:
    """The largest first."""
    headline = Text(f"Since the daemon's start, {tables.duration(status.uptime_s)} ago")
    if not status.rows:
        return Group(headline, Text("No request has reached a worker yet.", style="dim"))
    estimated = status.total.estimated_requests > 0
    made = Fitted(*(Shown(name, Kind.NAME) for name in by), *(_NUMBERS if estimated else _NUMBERS[:-1]))
    for row in sorted(status.rows, key=_tokens, reverse=True):
        made.add(*(getattr(row, name) or "" for name in by), *_numbers(row.figures, estimated=estimated))
    if len(status.rows) > 1:
        total = _numbers(status.total, estimated=estimated)
        made.add("total", *[""] * (len(by) - 1), *total, style="bold")
    return Group(headline, "", made)


def _tokens(row: UsageRow) -> int:
    return row.figures.prompt_tokens + row.figures.completion_tokens


def _numbers(figures: UsageFigures, *, estimated: bool) -> list[str]:
    counts = [
        figures.requests,
        figures.prompt_tokens,
        figures.cached_tokens,
        figures.completion_tokens,
        figures.reasoning_tokens,
    ]
    if estimated:
        counts.append(figures.estimated_tokens)
    return [f"{count:,}" for count in counts]
