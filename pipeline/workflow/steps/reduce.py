"""`reduce`: over items in order, with what there is so far."""

from typing import Any

from pipeline.workflow.composite import Composite
from pipeline.workflow.definition import ReduceStep
from pipeline.workflow.frame import Frame
from pipeline.workflow.history import StepRecord
from pipeline.workflow.plan import Node
from pipeline.workflow.ports import Result, StepContext
from pipeline.workflow.steps.items import listed, turn_value
from pipeline.workflow.values import checked


async def reduce(step: ReduceStep, context: StepContext) -> Result:
    """Without steps inside: an expression for each item."""
    items = listed(context.value("items"))
    accumulator = context.value("initial")
    for index, item in enumerate(items):
        local = {step.as_: item, "index": index, step.accumulator: accumulator}
        await context.turn()
        accumulator = context.value("value", **local)
    return Result(accumulator)


class Reduced(Composite):
    """With steps inside: a turn for each item."""

    __slots__ = ("_accumulator", "_items", "_next")

    def __init__(self, frame: Frame, node: Node, record: StepRecord | None) -> None:
        super().__init__(frame, node, record)
        self._items: list[Any] = []
        self._accumulator: Any = None
        self._next = 0

    def open(self) -> None:
        self._items = listed(self.value("items"))
        self._accumulator = self.value("initial")

    def advance(self) -> bool:
        if self.frames:
            return False
        if self._next == len(self._items):
            self.finish(Result(self._accumulator))
            return False
        index = self._next
        self._next += 1
        body, step = self.node.body, self.node.step
        assert body is not None  # noqa: S101 - the plan of such a step has one
        local = {step.as_: self._items[index], "index": index, step.accumulator: self._accumulator}
        self.enter(body, index, local=local).begin()
        return True

    def took(self, frame: Frame) -> None:
        shared = self.run.shared
        result = checked(Result(turn_value(self, frame, "value")), shared.section.max_value_bytes)
        self._accumulator = result.value
