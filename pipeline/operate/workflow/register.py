"""`headgate workflow register`."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import click
import msgspec

from pipeline.operate.asking import print_json
from pipeline.operate.workflow.daemon import ask, reaching
from pipeline.operate.workflow.files import Checked, read_only
from pipeline.workflow.calls import calls
from pipeline.workflow.client import WorkflowClient
from pipeline.workflow.views import WorkflowView


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@reaching
def register(files: tuple[Path, ...], url: str | None, config_file: Path | None, *, as_json: bool) -> None:
    """Register workflow files at a daemon, and run nothing.

    What a workflow calls must be registered before it: files that call each other may come in any order. A version that
    is registered never changes; the same content again changes nothing.
    """
    views: list[WorkflowView] = []
    for file in _in_order({file: read_only(file) for file in files}):
        views.append(ask(url, config_file, partial(_registered, file), str(file)))
        if not as_json:
            click.echo(f"{file}: {views[-1].name}@{views[-1].version} is registered")
    if as_json:
        print_json(msgspec.json.encode(views))


async def _registered(file: Path, client: WorkflowClient) -> WorkflowView:
    return await client.register(file)


def _in_order(files: Mapping[Path, Checked]) -> list[Path]:
    """Those that are called come before those that call them, as far as there is such an order."""
    known = {name: file for file, found in files.items() for name in _names(found)}
    ordered: list[Path] = []
    entered: set[Path] = set()
    stack = [iter(files)]
    way: list[Path] = []
    while stack:
        file = next(stack[-1], None)
        if file is None:
            stack.pop()
            ordered += [way.pop()] if way else []
        elif file not in entered:
            entered.add(file)
            way.append(file)
            definition = files[file].definition
            called = [] if definition is None else calls(definition)
            stack.append(iter([known[name] for name in called if name in known]))
    return ordered


def _names(found: Checked) -> list[str]:
    definition = found.definition
    return [] if definition is None else [definition.name, f"{definition.name}@{definition.version}"]
