"""`parallel`: steps of its own, side by side."""

from pipeline.workflow.composite import Composite
from pipeline.workflow.endings import exported, values_of
from pipeline.workflow.frame import Frame
from pipeline.workflow.ports import Result


class Parallel(Composite):
    """Its value is the object of its steps' values; the output names inside are its fields, so that they are known
    outside."""

    __slots__ = ()

    def open(self) -> None:
        body = self.node.body
        assert body is not None  # noqa: S101 - the plan of such a step has one
        self.enter(body, limit=self.node.step.max_concurrency).begin()

    def advance(self) -> bool:
        return False

    def took(self, frame: Frame) -> None:
        self.finish(Result(values_of(frame), exported(frame)))
