"""A definition made ready to run: its steps in order, what each waits for, its values compiled.

The plan of a list of steps is a graph; steps that have steps inside (parallel, map, reduce, loop) hold a plan for them.
What `branch` writes out stands beside the branch. A plan is immutable and serves any number of runs.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from pipeline.workflow.definition import Definition
from pipeline.workflow.templates import Compiled


class Gate(msgspec.Struct, frozen=True):
    """The step runs only if the `branch` (index of its node) took one of these cases (the index, or "default")."""

    branch: int
    cases: frozenset[int | str]


class Node(msgspec.Struct, frozen=True, eq=False):
    """A step in its graph. `needs`: the nodes that must have ended before, branches that gate it among them; `feeds`:
    those that need it. `values`: its templates by field, dotted for what is inside (`prompt`, `messages.0.content`,
    `cases.1.when`, `variables.draft`): whatever is a `Value` or `Expression` and holds more than constants;
    `StepContext.value` returns the constant itself for the others. `body` is the plan of the steps inside; `other` the
    plan of the workflow that a `workflow` step calls."""

    index: int
    step: Any  # pipeline.workflow.definition.AnyStep or CustomStep
    needs: tuple[int, ...]
    feeds: tuple[int, ...]
    gates: tuple[Gate, ...]
    values: Mapping[str, Compiled]
    body: "Graph | None" = None
    other: "Plan | None" = None


class Named(msgspec.Struct, frozen=True):
    """Where a flat name leads: a field of a node (None: its value), or, with `inner`, a name inside of its body."""

    node: int
    field: str | None = None
    inner: str | None = None


class Graph(msgspec.Struct, frozen=True, eq=False):
    """`names`: flat names of outputs and steps (outputs win). `first`: nodes that need none."""

    nodes: tuple[Node, ...]
    names: Mapping[str, Named]
    ids: Mapping[str, int]
    first: tuple[int, ...]


class Plan(msgspec.Struct, frozen=True, eq=False):
    """`outputs`: name -> compiled value; what has no templates stands there as it is. `steps` counts all, nested ones
    and those of other workflows too."""

    definition: Definition
    graph: Graph
    outputs: Mapping[str, Any]
    steps: int


def named_routes(graph: Graph) -> Iterator[tuple[str, str]]:
    """The routes that are written out, each with the path of a step that names it, steps inside of others and those of
    called workflows among them."""
    waiting = [("", graph)]
    while waiting:
        above, inside = waiting.pop()
        for node in inside.nodes:
            path = above + node.step.id
            route = getattr(node.step, "route", None)
            if isinstance(route, str) and "route" not in node.values:
                yield path, route
            if (inner := node.body or (node.other.graph if node.other is not None else None)) is not None:
                waiting.append((f"{path}/", inner))
