"""`headgate workflow graph`: a picture of a workflow, and of a run of it."""

from pathlib import Path

import click

from pipeline.operate.workflow import exits
from pipeline.operate.workflow.daemon import ask, config_option, url_option
from pipeline.operate.workflow.drawing import mermaid, sketch, svg
from pipeline.operate.workflow.files import checked
from pipeline.workflow.definition import Definition
from pipeline.workflow.states import StepState


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "form", type=click.Choice(["mermaid", "svg"]), default="mermaid", show_default=True)
@click.option("--run", "run_id", metavar="RUN", help="Colour the steps as this run of a daemon left them.")
@url_option
@config_option
def graph(file: Path, form: str, run_id: str | None, url: str | None, config_file: Path | None) -> None:
    """Draw the workflow in FILE: its steps, what leads where, and what is inside of what.

    Mermaid is for Markdown pages, SVG for all else.
    """
    found = checked(file, None)
    if found.plan is None:
        raise exits.refused(found.faults, file)
    states = None if run_id is None else _states(found.plan.definition, run_id, url, config_file)
    drawn = sketch(found.plan, states)
    click.echo(mermaid(drawn) if form == "mermaid" else svg(drawn, found.plan.definition.name), nl=False)


def _states(drawn: Definition, run_id: str, url: str | None, config_file: Path | None) -> dict[str, StepState]:
    view = ask(url, config_file, lambda client: client.run(run_id))
    if view.workflow != drawn.name:
        raise exits.Ended(f"run {view.id} is one of {view.workflow}@{view.version}, not of {drawn.name}", exits.REFUSED)
    if view.version != drawn.version:
        click.echo(f"run {view.id} is of version {view.version}, the file is version {drawn.version}", err=True)
    return {step.path: step.state for step in view.steps}
