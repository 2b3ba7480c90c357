"""`map`: its steps once for each item, some items at a time."""

from typing import Any

from pipeline.workflow.composite import Composite
from pipeline.workflow.frame import Frame
from pipeline.workflow.history import StepRecord
from pipeline.workflow.plan import Node
from pipeline.workflow.ports import Result
from pipeline.workflow.steps.items import listed, turn_value
from pipeline.workflow.values import checked


class Mapped(Composite):
    """Of an item that is done only its result is kept."""

    __slots__ = ("_items", "_next", "_results")

    def __init__(self, frame: Frame, node: Node, record: StepRecord | None) -> None:
        super().__init__(frame, node, record)
        self._items: list[Any] = []
        self._results: list[Any] = []
        self._next = 0

    def open(self) -> None:
        self._items = listed(self.value("items"))
        self._results = [None] * len(self._items)

    def advance(self) -> bool:
        if self._next == len(self._items):
            if not self.frames:
                self.over()
            return False
        if len(self.frames) >= self.node.step.max_concurrency:
            return False
        index = self._next
        self._next += 1
        body, step = self.node.body, self.node.step
        assert body is not None  # noqa: S101 - the plan of such a step has one
        self.enter(body, index, local={step.as_: self._items[index], "index": index}).begin()
        return True

    def took(self, frame: Frame) -> None:
        shared = self.run.shared
        result = checked(Result(turn_value(self, frame, "result")), shared.section.max_value_bytes)
        self._results[frame.local["index"]] = result.value

    def over(self) -> None:
        self.finish(Result(self._results))
