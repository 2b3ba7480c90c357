"""What a run, or a workflow called by one, has come to when all of its steps have ended."""

from collections.abc import Callable, Generator
from typing import Any, NamedTuple

from pipeline.workflow.doing import Error, described
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

_FAULTS = 20  # outputs that could not be made, in the error of a run


class Ending(NamedTuple):
    """`state`: completed, partial or failed. `error`: why it failed, or which outputs could not be made."""

    state: RunState
    outputs: dict[str, Any] | None = None
    error: Error | None = None


Making = Generator[None, None, Ending]


def made(making: Making, enough: Callable[[], bool]) -> Ending | None:
    """None where it is to go on later: `enough` is asked after each output."""
    try:
        while True:
            next(making)
            if enough():
                return None
    except StopIteration as stop:
        ending: Ending = stop.value
        return ending


def of_run(plan: Plan, frame: Frame, shared: Shared) -> Making:
    """Partial where steps failed or an output could not be made; failed where nothing was completed at all. To be gone
    through: it stops after each output, as there may be many."""
    failed = [outcome for outcome in frame.outcomes if outcome is not None and outcome.state is StepState.FAILED]
    done = any(outcome is not None and outcome.state is StepState.COMPLETED for outcome in frame.outcomes)
    if not done and any(outcome.failed for outcome in failed):
        first = next(outcome for outcome in failed if outcome.failed)
        return Ending(RunState.FAILED, error=dict(first.error or {}))
    outputs, error = yield from _outputs(plan, frame, shared)
    whole = error is None and not frame.blemished
    return Ending(RunState.COMPLETED if whole else RunState.PARTIAL, outputs, error)


def _outputs(plan: Plan, frame: Frame, shared: Shared) -> Generator[None, None, tuple[dict[str, Any], Error | None]]:
    """One that could not be made is null; the error then says why."""
    if not plan.outputs:
        return _last_values(frame), None
    outputs: dict[str, Any] = {}
    faults: dict[str, str] = {}
    for name, value in plan.outputs.items():
        try:
            outputs[name] = _output(value, frame, shared)
        except StepFailed as failure:
            outputs[name], faults[name] = None, failure.message
        yield
    return outputs, _lacking(faults)


def _lacking(faults: dict[str, str]) -> Error | None:
    if not faults:
        return None
    told = [{"where": f"outputs.{name}", "message": message} for name, message in list(faults.items())[:_FAULTS]]
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    message = f"{told[0]['where']}: {told[0]['message']}{more}"
    return described(StepFailed("outputs", message, details={"errors": told}), "")


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
