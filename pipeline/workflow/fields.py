"""Which fields of a step hold values and expressions, and what they can see."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from msgspec import UNSET

from pipeline.workflow.definition import (
    ActionStep,
    BranchStep,
    CustomStep,
    EmbedStep,
    LlmStep,
    LoopStep,
    MapStep,
    ParallelStep,
    ReduceStep,
    TransformStep,
    VectorSearchStep,
    VectorUpsertStep,
    WaitStep,
    WorkflowStep,
)
from pipeline.workflow.problems import Path

_NONE: frozenset[str] = frozenset()
_ITEM = frozenset({"item", "index"})


class Field(NamedTuple):
    """`key` names it as `StepContext.value` does; `path` leads to it from the step. `inner`: it sees what the steps
    inside see. `local`: variables of its own."""

    key: str
    path: Path
    value: Any
    expression: bool = False
    inner: bool = False
    local: frozenset[str] = _NONE


_PLAIN: dict[type, tuple[str, ...]] = {
    LlmStep: ("route", "prompt", "system", "temperature", "max_tokens", "top_p", "seed"),
    EmbedStep: ("input", "route", "collection"),
    VectorSearchStep: ("collection", "query", "limit", "min_score"),
    VectorUpsertStep: ("collection", "documents"),
    TransformStep: ("input", "template"),
    BranchStep: (),
    ParallelStep: (),
    MapStep: ("items",),
    ReduceStep: ("items", "initial"),
    LoopStep: (),
    ActionStep: ("message", "url", "body", "path", "content"),
    WorkflowStep: (),
    WaitStep: ("seconds", "until", "event"),
    CustomStep: (),
}


def fields(step: Any) -> Iterator[Field]:
    """Those that are there and may hold a template: texts, lists and objects."""
    kind = type(step)
    for name in _PLAIN[kind]:
        value = getattr(step, name)
        if value.__class__ is str or value.__class__ is list or value.__class__ is dict:
            yield Field(name, (name,), value)
    if kind in _MORE:
        yield from _MORE[kind](step)
    if step.condition.__class__ is str:
        yield Field("condition", ("condition",), step.condition, expression=True)
    if step.fallback is not UNSET:
        yield Field("fallback", ("fallback",), step.fallback)


def _of_llm(step: LlmStep) -> Iterator[Field]:
    for number, message in enumerate(step.messages or ()):
        yield Field(f"messages.{number}.content", ("messages", number, "content"), message.content)


def _of_transform(step: TransformStep) -> Iterator[Field]:
    if step.where is not None:
        yield Field("where", ("where",), step.where, expression=True, local=_ITEM)
    if step.value is not UNSET:
        yield Field("value", ("value",), step.value, local=_ITEM)


def _of_branch(step: BranchStep) -> Iterator[Field]:
    for number, case in enumerate(step.cases):
        if isinstance(case.when, str):
            yield Field(f"cases.{number}.when", ("cases", number, "when"), case.when, expression=True)


def _of_map(step: MapStep) -> Iterator[Field]:
    if step.result is not UNSET:
        yield Field("result", ("result",), step.result, inner=True)


def _of_reduce(step: ReduceStep) -> Iterator[Field]:
    if step.value is not UNSET:
        yield Field("value", ("value",), step.value, inner=True)


def _each(name: str, values: dict[str, Any]) -> Iterator[Field]:
    for key, value in values.items():
        yield Field(f"{name}.{key}", (name, key), value)


def _of_action(step: ActionStep) -> Iterator[Field]:
    return _each("headers", step.headers)


def _of_workflow(step: WorkflowStep) -> Iterator[Field]:
    return _each("inputs", step.inputs)


def _of_custom(step: CustomStep) -> Iterator[Field]:
    return _each("options", step.options)


def _of_loop(step: LoopStep) -> Iterator[Field]:
    yield from _each("variables", step.variables)
    if isinstance(step.until, str):
        yield Field("until", ("until",), step.until, expression=True, inner=True)


_MORE: dict[type, Any] = {
    LlmStep: _of_llm,
    TransformStep: _of_transform,
    BranchStep: _of_branch,
    MapStep: _of_map,
    ReduceStep: _of_reduce,
    LoopStep: _of_loop,
    ActionStep: _of_action,
    WorkflowStep: _of_workflow,
    CustomStep: _of_custom,
}
