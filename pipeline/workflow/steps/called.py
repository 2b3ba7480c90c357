"""`workflow`: another workflow, as a step of this one."""

from functools import partial
from typing import Any

from pipeline.workflow import endings
from pipeline.workflow.composite import Composite
from pipeline.workflow.errors import InputRefused, StepFailed
from pipeline.workflow.frame import Frame
from pipeline.workflow.inputs import check
from pipeline.workflow.plan import Plan
from pipeline.workflow.ports import Result
from pipeline.workflow.states import RunState


class Called(Composite):
    """Its value: the other one's outputs. It sees its own inputs only."""

    __slots__ = ()

    @property
    def plan(self) -> Plan:
        plan = self.node.other
        assert plan is not None  # noqa: S101 - the plan of such a step has one
        return plan

    def seconds(self) -> float | None:
        limits = [self.node.step.timeout_seconds, self.plan.definition.timeout_seconds]
        return min((limit for limit in limits if limit is not None), default=None)

    def open(self) -> None:
        definition = self.plan.definition
        tolerant = definition.on_failure == "continue"
        self.enter(self.plan.graph, inputs=self._inputs(), outer=None, tolerant=tolerant).begin()

    def _inputs(self) -> dict[str, Any]:
        try:
            return check(self.plan.definition, self.value("inputs"))
        except InputRefused as refused:
            faults = [{"where": fault.where, "message": fault.message} for fault in refused.faults]
            raise StepFailed("invalid_inputs", refused.message, details={"errors": faults}) from refused

    def advance(self) -> bool:
        return False

    def took(self, frame: Frame) -> None:
        self._conclude(endings.of_run(self.plan, frame, self.run.shared))

    def _conclude(self, making: endings.Making) -> None:
        if self._over or self.dropped or self.run.hold(partial(self._conclude, making)):
            return
        ending = endings.made(making, lambda: self.run.later(self._conclude, making))
        if ending is not None:
            self._end(ending)

    def _end(self, ending: endings.Ending) -> None:
        if ending.state is RunState.FAILED:
            self.give_up(ending.error or {})
        elif ending.state is RunState.PARTIAL:
            self.blemished = True
            lacking = {} if ending.error is None else {"error": ending.error}
            self.finish(Result(ending.outputs, {"metadata": {"partial": True, **lacking}}))
        else:
            self.finish(Result(ending.outputs))
