"""What was probably meant by a name that leads nowhere."""

from itertools import chain
from typing import Any

from pipeline.workflow.definition import ActionStep, LlmStep, LoopStep, ParallelStep, VectorUpsertStep, WorkflowStep
from pipeline.workflow.problems import Problems, listed
from pipeline.workflow.scopes import Scope, inner_names, known_fields
from pipeline.workflow.signature import Declared

_PARTS: dict[type, tuple[str, ...]] = {
    ActionStep: ("status", "headers", "body", "path", "bytes"),
    VectorUpsertStep: ("documents", "chunks"),
}


class Hints:
    """Of one definition."""

    def __init__(self, root: Scope, inputs: Declared, problems: Problems) -> None:
        self._root = root
        self._inputs = inputs
        self._problems = problems
        self._inside: dict[str, str] | None = None

    def of_input(self, name: str, prefix: str) -> str:
        near = self._problems.near(name, self._inputs.names, prefix)
        if near or not self._inputs.names:
            return near or "no inputs are declared"
        return f"declared are {listed(self._inputs.names)}"

    def of_id(self, scope: Scope, name: str, prefix: str = "") -> str:
        inside = self._way_to(name)
        if inside:
            return inside
        for outer in scope.outward():
            if name in outer.names:
                return f"{name} is an output name: the step is {prefix}{outer.steps[outer.names[name].node].id}"
        return self._problems.near(name, (one for outer in scope.outward() for one in outer.ids), prefix)

    def of_name(self, scope: Scope, name: str, prefix: str = "") -> str:
        inside = self._way_to(name)
        if inside:
            return inside
        around = [each for outer in scope.outward() for each in (outer.names, outer.local)]
        names = chain.from_iterable([*around, self._inputs.names] if not prefix else around)
        near = self._problems.near(name, names, prefix)
        if not near and self._inputs.others:
            return f"an input that is not declared is reached by inputs.{name}"
        return near

    def of_own(self, scope: Scope, name: str) -> str:
        if isinstance(scope.holder, LoopStep):
            return "what it came to in the iteration before is reached by one of the loop's variables"
        return f"the input is reached by inputs.{name}" if name in self._inputs.names else ""

    def of_field(self, scope: Scope, index: int, name: str) -> str:
        step = scope.steps[index]
        prefix = f"steps.{step.id}."
        known = [*known_fields(step), *inner_names(scope, index)]
        return (
            _part_of_value(step, name, prefix)
            or self._problems.near(name, known, prefix)
            or f"it has {listed(known, 16)}"
        )

    def _way_to(self, name: str) -> str:
        """For what is inside of a step that keeps it to itself."""
        if self._inside is None:
            self._inside = {}
            _note_inner(self._root, self._inside)
        return self._inside.get(name, "")


def _note_inner(scope: Scope, inside: dict[str, str]) -> None:
    for index, child in scope.children.items():
        step = scope.steps[index]
        reached = inner_names(scope, index)
        for name in child.names:
            if isinstance(step, ParallelStep | LoopStep) and name in reached:
                inside.setdefault(name, f"it is inside of {step.id}: write steps.{step.id}.{name}")
            else:
                whole = f"it is inside of {step.id}, which is known outside as a whole: steps.{step.id}.value"
                inside.setdefault(name, whole)
        _note_inner(child, inside)


def _part_of_value(step: Any, name: str, prefix: str) -> str:
    """`steps.x.score` for what is part of the value."""
    if name in _PARTS.get(type(step), ()):
        return f"it is part of the value: write {prefix}value.{name}"
    schema = step.output_schema if isinstance(step, LlmStep) else None
    properties = schema.get("properties") if isinstance(schema, dict) else None
    if isinstance(properties, dict) and name in properties:
        return f"it is part of the value: write {prefix}value.{name}"
    if isinstance(step, WorkflowStep):
        return f"the outputs of the workflow are its value: {prefix}value.{name}"
    return ""
