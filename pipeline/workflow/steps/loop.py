"""`loop`: its steps again and again, until that is enough."""

from typing import Any

from pipeline.workflow.composite import Composite
from pipeline.workflow.endings import exported
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.filling import render
from pipeline.workflow.frame import Frame
from pipeline.workflow.history import StepRecord
from pipeline.workflow.plan import Graph, Node
from pipeline.workflow.ports import Result
from pipeline.workflow.states import StepState
from pipeline.workflow.templates import compile_expression


class Loop(Composite):
    """Variables hold what the steps of their names came to in the iteration before; a step that was skipped, or failed,
    leaves its variable as it was."""

    __slots__ = ("_done", "_inner", "_last", "_satisfied", "_variables")

    def __init__(self, frame: Frame, node: Node, record: StepRecord | None) -> None:
        super().__init__(frame, node, record)
        self._done = 0
        self._satisfied = False
        self._last: Any = None
        self._inner: dict[str, Any] = {}
        self._variables: dict[str, Any] = {}

    def open(self) -> None:
        self._variables = {name: self.value(f"variables.{name}") for name in self.node.step.variables}

    def advance(self) -> bool:
        if self.frames:
            return False
        step = self.node.step
        if self._satisfied or self._done == step.max_iterations:
            self._finish()
            return False
        body = self.node.body
        assert body is not None  # noqa: S101 - the plan of such a step has one
        self.enter(body, self._done, local={**self._variables, "iteration": self._done}).begin()
        return True

    def took(self, frame: Frame) -> None:
        graph = frame.graph
        self._inner = exported(frame)
        last = frame.outcomes[-1]
        self._last = None if last is None else last.value
        for name in self._variables:
            if name in self._inner and _came_to_something(graph, frame, name):
                self._variables[name] = self._inner[name]
        self._satisfied = self._enough(frame)
        self._done += 1

    def _enough(self, frame: Frame) -> bool:
        """`until`, with the variables as the next iteration would see them. Raises `StepFailed`."""
        until = self.node.step.until
        if until is None or isinstance(until, bool):
            return bool(until)
        compiled = self.node.values.get("until") or compile_expression(until)
        return bool(render(compiled, frame, self._variables, self.run.shared.limits))

    def _finish(self) -> None:
        step = self.node.step
        if not self._satisfied and step.until is not None and step.on_limit == "fail":
            raise StepFailed("limit", f"after {self._done} iterations the loop's end was not reached")
        metadata = {"iterations": self._done, "satisfied": self._satisfied}
        self.finish(Result(self._last, {**self._inner, **self._variables, "metadata": metadata}))


def _came_to_something(graph: Graph, frame: Frame, name: str) -> bool:
    outcome = frame.outcomes[graph.names[name].node]
    return outcome is not None and outcome.state is StepState.COMPLETED
