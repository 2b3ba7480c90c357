"""A run as people are shown it: bounded, whatever it has come to."""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from pipeline.workflow.history import StepRecord, fold
from pipeline.workflow.journal import Left, Numbered, RunRecord, StepCompleted
from pipeline.workflow.views import RunSummary, RunView, StepView

VALUE_MAX = 1 << 16  # bytes of what a step came to, as the journal has it: larger ones are shown one by one
ANSWER_MAX = 8 << 20  # bytes of a run with its steps
_GIVEN_MAX = 6 << 20  # of which are inputs and outputs
_BARE = 512  # bytes of a step without what it came to, about
_STEP = tuple(name for name in StepView.__struct_fields__ if name not in {"value", "fields", "truncated", "size"})

_GIVEN: tuple[Literal["outputs", "inputs"], ...] = ("outputs", "inputs")

_encode = msgspec.json.Encoder().encode


def shared(record: RunRecord) -> dict[str, Any]:
    """What a run's list entry and its own page have in common."""
    return {
        "id": record.id,
        "workflow": record.workflow,
        "version": record.version,
        "state": record.state,
        "created_at": record.created_at,
        "updated_at": record.updated_at,
        "error": record.error,
        "wake_at": record.wake_at,
        "metadata": record.options.get("metadata", {}),
        "last": record.last,
    }


def summary(record: RunRecord) -> RunSummary:
    return RunSummary(**shared(record))


def step_view(step: StepRecord) -> StepView:
    known = {name: getattr(step, name) for name in _STEP}
    if isinstance(step.value, Left):
        return StepView(**known, truncated=True, size=step.value.size)
    return StepView(**known, value=step.value, fields=step.fields)


def shown(record: RunRecord, entries: Sequence[Numbered], *, whole: bool = False) -> RunView:
    """`entries` as `Journal.outline` gives them. `whole`: inputs and outputs are, whatever their size. Takes long for
    large runs: not to be called in the event loop for those."""
    views = [step_view(step) for step in fold(entries).steps.values()]
    room = ANSWER_MAX
    given: dict[str, Any] = {"outputs": record.outputs, "inputs": record.inputs}
    truncated: list[Literal["inputs", "outputs"]] = []
    for name in _GIVEN:
        size = 0 if whole else len(_encode(given[name]))
        if size > room - (ANSWER_MAX - _GIVEN_MAX):
            given[name] = None
            truncated.append(name)
        else:
            room -= size
    steps = _fitting(views, room)
    return RunView(**shared(record), **given, steps=steps, truncated=truncated, steps_missing=len(views) - len(steps))


def _fitting(views: Sequence[StepView], room: int) -> list[StepView]:
    """The first of them; what they came to only where that leaves room for the others."""
    for_values = room - min(len(views) * _BARE, room // 2)
    steps: list[StepView] = []
    for one in views:
        view, size = one, len(_encode(one))
        more = max(size - _BARE, 0)
        if more > for_values:
            view, more = msgspec.structs.replace(one, value=None, fields={}, truncated=True, size=one.size or size), 0
            size = len(_encode(view))
        for_values -= more
        room -= size
        if room < 0:
            break
        steps.append(view)
    return steps


def place(entries: Sequence[Numbered], path: str) -> int | None:
    """The number of the entry that has what a step came to."""
    numbers = (
        one.number for one in reversed(entries) if isinstance(one.entry, StepCompleted) and one.entry.path == path
    )
    return next(numbers, None)
