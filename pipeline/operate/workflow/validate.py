"""`headgate workflow validate` and `schema`."""

from pathlib import Path

import click
import msgspec

from pipeline.operate.workflow import exits
from pipeline.operate.workflow.drawing.sketch import Sketch, sketch
from pipeline.operate.workflow.files import Checked, catalog_for, checked
from pipeline.workflow.errors import Fault


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--no-routes", is_flag=True, help="Leave out whether routes and collections are configured.")
@click.option("--json", "as_json", is_flag=True, help="All faults as one JSON list.")
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Whose routes and collections. Default: HEADGATE_CONFIG, else the built-in ones that `run` has.",
)
@click.pass_context
def validate(
    ctx: click.Context, files: tuple[Path, ...], config_file: Path | None, *, no_routes: bool, as_json: bool
) -> None:
    """Check workflow files, and print every fault there is as FILE:LINE:COLUMN. Nothing is run.

    Exit status 2 when there is one.
    """
    found = [(file, _checked(file, config_file, no_routes=no_routes)) for file in files]
    if as_json:
        faults = [{"file": str(file), **msgspec.to_builtins(fault)} for file, one in found for fault in one.faults]
        click.echo(msgspec.json.format(msgspec.json.encode(faults)))
    else:
        for file, one in found:
            _tell(file, one)
    ctx.exit(exits.REFUSED if any(one.faults for _, one in found) else exits.OK)


@click.command()
def schema() -> None:
    """Print a JSON schema of workflow files, for editors."""
    from pipeline.workflow.schema import json_schema  # noqa: PLC0415 - no other command needs it

    click.echo(msgspec.json.format(msgspec.json.encode(json_schema())))


def _checked(file: Path, config_file: Path | None, *, no_routes: bool) -> Checked:
    """A file that cannot be read is one with a fault."""
    try:
        return checked(file, None if no_routes else catalog_for(config_file, file))
    except exits.Ended as ended:
        return Checked(b"", None, [Fault("", ended.message)], None)


def _tell(file: Path, one: Checked) -> None:
    if one.faults and not one.faults[0].where:  # the file cannot be read
        click.echo(f"Error: {one.faults[0].message}", err=True)
    elif one.faults:
        click.echo("\n".join(exits.told(one.faults, file)), err=True)
        click.echo(f"{file}: {_counted(len(one.faults), 'problem')}", err=True)
    elif one.plan is not None:
        drawn = sketch(one.plan)
        counts = f"{_counted(one.plan.steps, 'step')} in {_counted(_levels(drawn), 'level')}"
        click.echo(f"{file}: no problems ({one.plan.definition.name}@{one.plan.definition.version}, {counts})")


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"


def _levels(drawn: Sketch) -> int:
    """So many must be done one after another, those inside of others not counted."""
    levels = [0] * len(drawn.shapes)
    feeds: dict[int, list[int]] = {}
    missing = [0] * len(levels)
    for link in drawn.links:
        feeds.setdefault(link.start, []).append(link.end)
        missing[link.end] += 1
    ready = [place for place, count in enumerate(missing) if not count]
    for place in ready:  # grows
        levels[place] += 1
        for end in feeds.get(place, ()):
            levels[end] = max(levels[end], levels[place])
            missing[end] -= 1
            if not missing[end]:
                ready.append(end)
    return max(levels, default=0)
