"""The types of steps that are the engine's own: which class executes them."""

from typing import TYPE_CHECKING

from pipeline.workflow.doing import Doing
from pipeline.workflow.history import StepRecord
from pipeline.workflow.leaf import Leaf
from pipeline.workflow.plan import Node
from pipeline.workflow.ports import Handler
from pipeline.workflow.scope import type_of
from pipeline.workflow.steps.branch import branch
from pipeline.workflow.steps.called import Called
from pipeline.workflow.steps.loop import Loop
from pipeline.workflow.steps.mapped import Mapped
from pipeline.workflow.steps.parallel import Parallel
from pipeline.workflow.steps.reduce import Reduced, reduce
from pipeline.workflow.wait import Wait

if TYPE_CHECKING:
    from pipeline.workflow.frame import Frame

_INSIDE: dict[str, type[Doing]] = {"parallel": Parallel, "map": Mapped, "loop": Loop, "workflow": Called, "wait": Wait}

HANDLERS: dict[str, Handler] = {"branch": branch, "reduce": reduce}


def doing_of(frame: "Frame", node: Node, record: StepRecord | None) -> Doing:
    kind = type_of(node.step)
    if kind == "reduce" and node.body is not None and node.body.nodes:
        return Reduced(frame, node, record)
    return _INSIDE.get(kind, Leaf)(frame, node, record)
