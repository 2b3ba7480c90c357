"""A transform step with its templates filled in for real."""

from collections.abc import Awaitable, Callable
from typing import Any

from msgspec import UNSET

from pipeline.workflow.definition import TransformStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.steps.transform import transform
from pipeline.workflow.templates import Compiled, Failed, compile_expression, compile_value
from tests.workflow.names import NAMES
from tests.workflow.steps.context import Context


class Filled(Context):
    """Its templates are compiled when it is made, as a plan's are."""

    def __init__(self, step: TransformStep) -> None:
        super().__init__(step)
        self._compiled = {
            field: (compile_expression if field == "where" else compile_value)(value)
            for field in ("input", "where", "value", "template")
            if (value := getattr(step, field)) is not UNSET and value is not None
        }

    def value(self, field: str, **local: Any) -> Any:
        made = self._compiled.get(field)
        try:
            return made.render(NAMES, local) if isinstance(made, Compiled) else made
        except Failed as failed:
            raise StepFailed("template", failed.message) from failed


def prepared(operation: str, **fields: Any) -> Callable[[], Awaitable[Any]]:
    step = TransformStep(id="t", operation=operation, **fields)  # type: ignore[arg-type]
    context = Filled(step)

    async def go() -> Any:
        result = await transform(step, context)
        assert result.fields == {}
        return result.value

    return go


async def run(operation: str, **fields: Any) -> Any:
    return await prepared(operation, **fields)()


async def worked(operation: str, given: Any, **fields: Any) -> Any:
    """Over an input that is no template, whatever is in it."""
    step = TransformStep(id="t", operation=operation, input=None, **fields)  # type: ignore[arg-type]
    return (await transform(step, Context(step, filled={"input": given}))).value
