"""What a run, or a workflow called by one, has come to when all of its steps have ended."""

from typing import Any, NamedTuple

from pipeline.workflow.doing import Error
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.filling import render
from pipeline.workflow.frame import Frame
from pipeline.workflow.plan import Plan
from pipeline.workflow.ports import Result
from pipeline.workflow.scope import own_field, resolve
from pipeline.workflow.shared import Shared
from pipeline.workflow.states import RunState, StepState
from pipeline.workflow.templates import Compiled
from pipeline.workflow.values import checked


class Ending(NamedTuple):
    """`state`: completed, partial or failed."""

    state: RunState
    outputs: dict[str, Any] | None = None
    error: Error | None = None


def of_run(plan: Plan, frame: Frame, *, blemished: bool, shared: Shared) -> Ending:
    """Partial where steps failed or an output could not be made; failed where nothing was completed at all."""
    failed = [outcome for outcome in frame.outcomes if outcome is not None and outcome.state is StepState.FAILED]
    done = any(outcome is not None and outcome.state is StepState.COMPLETED for outcome in frame.outcomes)
    if not done and any(outcome.failed for outcome in failed):
        first = next(outcome for outcome in failed if outcome.failed)
        return Ending(RunState.FAILED, error=dict(first.error or {}))
    outputs, whole = _outputs(plan, frame, shared)
    return Ending(RunState.COMPLETED if whole and not (blemished or failed) else RunState.PARTIAL, outputs)


def _outputs(plan: Plan, frame: Frame, shared: Shared) -> tuple[dict[str, Any], bool]:
    """Whether all of them could be made, too. One that could not is null."""
    if not plan.outputs:
        return _last_values(frame), True
    outputs, whole = {}, True
    for name, value in plan.outputs.items():
        try:
            outputs[name] = _output(value, frame, shared)
        except StepFailed:
            outputs[name], whole = None, False
    return outputs, whole


def _output(value: Any, frame: Frame, shared: Shared) -> Any:
    if not isinstance(value, Compiled):
        return value
    rendered = render(value, frame, limits=shared.limits)
    return checked(Result(rendered), shared.section.max_value_bytes).value


def _last_values(frame: Frame) -> dict[str, Any]:
    """Of the steps that nothing depends on, by id; without those that were skipped."""
    values: dict[str, Any] = {}
    for node, outcome in zip(frame.graph.nodes, frame.outcomes, strict=True):
        if not node.feeds and outcome is not None and outcome.state is not StepState.SKIPPED:
            values[node.step.id] = outcome.value
    return values


def exported(frame: Frame) -> dict[str, Any]:
    """What the output names in a frame that has closed stand for: not the ids, and those in steps inside of it as far
    as they are known here."""
    graph = frame.graph
    return {
        name: resolve(frame, named)
        for name, named in graph.names.items()
        if named.inner is not None or own_field(graph.nodes[named.node].step, name) is not None
    }


def values_of(frame: Frame) -> dict[str, Any]:
    """Of all steps of a frame that has closed, by id; of one that came to nothing it is null."""
    return {
        node.step.id: None if outcome is None else outcome.value
        for node, outcome in zip(frame.graph.nodes, frame.outcomes, strict=True)
    }
