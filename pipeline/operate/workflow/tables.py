"""Runs and workflows as people see them."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

from rich.console import Group, RenderableType
from rich.text import Text

from pipeline.operate.fitted import Fitted, Kind, Shown
from pipeline.operate.tables import duration
from pipeline.operate.workflow.progress import preview, reason
from pipeline.operate.workflow.shown import STYLES, as_json
from pipeline.workflow.views import RunSummary, RunView, StepView, WorkflowSummary


def listed(workflows: Sequence[WorkflowSummary], runs: Sequence[RunSummary], name: str | None = None) -> RenderableType:
    """With a name: of this workflow only."""
    none_of_them = "No workflow" if name is None else f"No workflow {name!r}"
    nothing = Text(f"{none_of_them} is registered: `headgate workflow register FILE` does that.", "dim")
    none = Text("There are no such runs.", "dim")
    return Group(_workflows(workflows) if workflows else nothing, "", _runs(runs) if runs else none)


def run(view: RunView) -> RenderableType:
    """A run in full."""
    parts: list[RenderableType] = [_headline(view)]
    if view.error:
        parts.append(Text(reason(view.error), "red"))
    if view.steps:
        parts += ["", _steps(view.steps)]
    if view.outputs is not None:
        parts += ["", Text(as_json(view.outputs))]
    return Group(*parts)


def _workflows(workflows: Sequence[WorkflowSummary]) -> Fitted:
    table = Fitted(
        Shown("workflow", Kind.NAME),
        Shown("version", Kind.NOTE),
        Shown("registered", Kind.NOTE),
        Shown("description", Kind.WORDS),
    )
    for workflow in workflows:
        table.add(workflow.name, workflow.version, _moment(workflow.created_at), workflow.description)
    return table


def _runs(runs: Sequence[RunSummary]) -> Fitted:
    table = Fitted(
        Shown("run", Kind.NAME),
        Shown("workflow", Kind.NOTE),
        Shown("state", Kind.NOTE),
        Shown("begun", Kind.NOTE),
        Shown("age"),
    )
    for found in runs:
        ended = found.updated_at if found.state.final else time.time()
        table.add(
            found.id,
            f"{found.workflow}@{found.version}",
            _state(found.state.value),
            _moment(found.created_at),
            duration(max(0.0, ended - found.created_at)),
        )
    return table


def _steps(steps: Sequence[StepView]) -> Fitted:
    table = Fitted(
        Shown("step", Kind.NAME), Shown("state", Kind.NOTE), Shown("attempts"), Shown("took"), Shown("", Kind.WORDS)
    )
    for step in steps:
        took = "" if step.started_at is None or step.ended_at is None else duration(step.ended_at - step.started_at)
        table.add(step.path, _state(step.state.value), str(step.attempt or ""), took, _said(step))
    return table


def _said(step: StepView) -> Text:
    if step.error and not step.fallback:
        return Text(reason(step.error), "red")
    if step.event or step.wake_at:
        return Text(f"for the signal {step.event!r}" if step.event else f"until {_moment(step.wake_at or 0.0)}", "dim")
    return Text(step.because or preview(step.value), "dim")


def _headline(view: RunView) -> Text:
    text = Text("run ").append(view.id, "bold").append(f" of {view.workflow}@{view.version}: ")
    text.append_text(_state(view.state.value)).append(f", begun {_moment(view.created_at)}")
    if view.state.final:
        text.append(f", took {duration(max(0.0, view.updated_at - view.created_at))}")
    if view.wake_at:
        text.append(f", goes on {_moment(view.wake_at)}")
    return text


def _state(state: str) -> Text:
    return Text(state, STYLES.get(state, ""))


def _moment(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
