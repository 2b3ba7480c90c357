"""The names that a step's templates see: what has come of the steps around it, variables, inputs.

A flat name is looked for in the graph that the step is in, then in the one around that one, and so on: each time among
the local variables (`item`, `index`, …) first, then among output names and ids. Inputs come last.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

from pipeline.workflow.definition import FIELDS, OTHER_FIELDS
from pipeline.workflow.plan import Graph, Named, Node
from pipeline.workflow.states import StepState

_NOTHING: Mapping[str, Any] = {}


class Outcome:
    """How a step of a frame ended. `failed`: what needs it cannot run (it failed, or was skipped because of such a
    one)."""

    __slots__ = ("error", "failed", "fields", "state", "value")

    def __init__(
        self,
        state: StepState,
        value: Any = None,
        fields: Mapping[str, Any] = _NOTHING,
        error: Mapping[str, Any] | None = None,
        *,
        failed: bool = False,
    ) -> None:
        self.state = state
        self.value = value
        self.fields = fields
        self.error = error
        self.failed = failed


class Place(Protocol):
    """Where in a run something is filled in: a frame."""

    graph: Graph
    outer: "Place | None"
    local: Mapping[str, Any]
    inputs: Mapping[str, Any]
    outcomes: list[Outcome | None]


class Scope:
    """`Names` at a place. `local`: more variables, before those of the place."""

    __slots__ = ("_local", "_place")

    def __init__(self, place: Place, local: Mapping[str, Any] = _NOTHING) -> None:
        self._place = place
        self._local = local

    def lookup(self, name: str) -> Any:
        if name in self._local:
            return self._local[name]
        made = _ROOTS.get(name)
        if made is not None:
            return made(self._place)
        place: Place | None = self._place
        while place is not None:
            if name in place.local:
                return place.local[name]
            named = place.graph.names.get(name)
            if named is not None:
                return resolve(place, named)
            place = place.outer
        return self._place.inputs[name]


def resolve(place: Place, named: Named) -> Any:
    """What a flat name stands for. Raises KeyError for a step that has not ended."""
    outcome = place.outcomes[named.node]
    if outcome is None:
        raise KeyError(place.graph.nodes[named.node].step.id)
    if named.inner is not None:
        return _inner(outcome, named.inner)
    if named.field is None:
        return outcome.value
    return _field(outcome, named.field)


def _field(outcome: Outcome, name: str) -> Any:
    """A field, or null of a step that came to nothing. Raises KeyError."""
    if name in {"value", "output"}:
        return outcome.value
    if name in outcome.fields:
        return outcome.fields[name]
    if outcome.state is not StepState.COMPLETED or outcome.error is not None:  # skipped, failed, or a fallback
        return None
    if name == "metadata":
        return {}
    raise KeyError(name)


def _inner(outcome: Outcome, name: str) -> Any:
    """A name inside of a parallel or a loop: its output names are among its fields, a parallel's ids in its value."""
    if name not in outcome.fields and isinstance(outcome.value, Mapping) and name in outcome.value:
        return outcome.value[name]
    return _field(outcome, name)


class _View(Mapping[str, Any]):
    """A mapping that templates look into; nothing of it is made before it is asked for."""

    __slots__ = ("_place",)

    def __init__(self, place: Place) -> None:
        self._place = place

    def __iter__(self) -> Iterator[str]:
        """Of the innermost graph: its steps that have ended."""
        graph, outcomes = self._place.graph, self._place.outcomes
        return (name for name, index in graph.ids.items() if outcomes[index] is not None)

    def __len__(self) -> int:
        return sum(outcome is not None for outcome in self._place.outcomes)

    def _find(self, name: str) -> tuple[Place, int] | None:
        place: Place | None = self._place
        while place is not None:
            if name in place.graph.ids:
                return place, place.graph.ids[name]
            place = place.outer
        return None


class Steps(_View):
    """`steps`: steps by their ids, those of the graphs around among them."""

    def __getitem__(self, name: str) -> "StepView":
        found = self._find(name)
        if found is None:
            raise KeyError(name)
        place, index = found
        outcome = place.outcomes[index]
        if outcome is None:
            raise KeyError(name)
        return StepView(place.graph.nodes[index], outcome)


class Outputs(_View):
    """`outputs`: values by the step's id, or by an output name."""

    def __getitem__(self, name: str) -> Any:
        found = self._find(name)
        if found is not None:
            place, index = found
            outcome = place.outcomes[index]
            if outcome is None:
                raise KeyError(name)
            return outcome.value
        around: Place | None = self._place
        while around is not None:
            if name in around.graph.names:
                return resolve(around, around.graph.names[name])
            around = around.outer
        raise KeyError(name)


class StepView(Mapping[str, Any]):
    """`steps.id`: the fields of a step that has ended, its own output names, `state` and `error`."""

    __slots__ = ("_node", "_outcome")

    def __init__(self, node: Node, outcome: Outcome) -> None:
        self._node = node
        self._outcome = outcome

    def __getitem__(self, name: str) -> Any:
        if name == "state":
            return self._outcome.state.value
        if name == "error":
            return self._outcome.error
        own = own_field(self._node.step, name)
        if own is not None:
            return _field(self._outcome, own)
        return _inner(self._outcome, name)

    def __iter__(self) -> Iterator[str]:
        yield from dict.fromkeys(("value", *self._outcome.fields, "state", "error"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


_ROOTS: Mapping[str, Callable[[Place], Any]] = {
    "steps": Steps,
    "outputs": Outputs,
    "inputs": lambda place: place.inputs,
    "input": lambda place: place.inputs,
}


def own_field(step: Any, name: str) -> str | None:
    """The field that the step's `output` calls `name`."""
    output = step.output
    if output == name:
        return "value"
    if isinstance(output, list) and name in output:
        position = output.index(name)
        return "value" if position == 0 else fields_of(step)[position]
    return None


def fields_of(step: Any) -> tuple[str, ...]:
    """What a list for `output` names, in order."""
    return FIELDS.get(type_of(step), OTHER_FIELDS)


def type_of(step: Any) -> str:
    tag = step.__struct_config__.tag
    return tag if isinstance(tag, str) else str(step.type)
