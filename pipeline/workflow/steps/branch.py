"""`branch`: the first case whose condition holds."""

from pipeline.workflow.definition import BranchStep
from pipeline.workflow.ports import Result, StepContext


async def branch(step: BranchStep, context: StepContext) -> Result:
    for index, _ in enumerate(step.cases):
        await context.turn()
        if context.value(f"cases.{index}.when"):
            return Result(index)
    return Result("default")
