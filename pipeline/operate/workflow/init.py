"""`headgate workflow init`: a file to begin with."""

import re
from pathlib import Path

import click

from pipeline.operate.workflow import exits

_HERE = Path(__file__).resolve().parent
_STARTER = _HERE / "starter.yaml"
_EXAMPLES = (_HERE / "examples", _HERE.parents[2] / "examples" / "workflows")  # installed, or a clone
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@click.command()
@click.argument("name", required=False)
@click.option("--example", metavar="EXAMPLE", help="Begin with this example instead; --list names them.")
@click.option("--list", "listed", is_flag=True, help="Name the examples, and write nothing.")
@click.option("--force", is_flag=True, help="Replace the file if it is there.")
def init(name: str | None, example: str | None, *, listed: bool, force: bool) -> None:
    """Write NAME.yaml, a workflow with comments to begin with.

    Without NAME: workflow.yaml, or the example's name.
    """
    if listed:
        _list()
        return
    found = (name or example or "workflow").removesuffix(".yaml")
    if not _NAME.fullmatch(found):
        raise click.UsageError(f"{found!r} is no name: letters, digits and . _ -, beginning with a letter or digit")
    file = Path(f"{found}.yaml")
    text = _named(_STARTER.read_text() if example is None else _example(example), found, example)
    try:
        with file.open("w" if force else "x") as opened:
            opened.write(text)
    except FileExistsError as error:
        raise exits.Ended(f"{file} is there already: --force replaces it", exits.FAILED) from error
    except OSError as error:
        raise exits.Ended(f"cannot write {file}: {error.strerror}", exits.FAILED) from error
    click.echo(f"Wrote {file}. Try it: headgate workflow run {file}")


def examples() -> dict[str, Path]:
    """By name. Empty where they were not installed."""
    return {path.stem: path for folder in reversed(_EXAMPLES) for path in sorted(folder.glob("*.yaml"))}


def _list() -> None:
    found = examples()
    if not found:
        raise exits.Ended("the examples are not installed: they are in a clone's examples/workflows", exits.FAILED)
    width = max(map(len, found))
    for name, path in found.items():
        said = re.search(r"^description: (.+)$", path.read_text(), re.MULTILINE)
        click.echo(f"{name:{width}}  {said[1] if said else ''}".rstrip())


def _example(name: str) -> str:
    found = examples()
    if name not in found:
        known = ", ".join(found) or "none is installed"
        raise click.UsageError(f"there is no example {name!r} (there are: {known})")
    return found[name].read_text()


def _named(text: str, name: str, example: str | None) -> str:
    """With this name in it, and with commands that name its file."""
    own = text.replace(f"examples/workflows/{example}.yaml", f"{name}.yaml").replace(" FILE", f" {name}.yaml")
    return re.sub(r"^name: .*$", f"name: {name}", own, count=1, flags=re.MULTILINE)
