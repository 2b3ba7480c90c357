"""`transform` steps: values into other values, without a model.

| operation | input | comes to |
|---|---|---|
| `concat` | a list of texts and numbers, or lists; null is left out | one text, with `separator` (""), or list |
| `merge` | a list of objects, or of lists; null is left out | one object, of two equal names the later; or list |
| `filter` | a list | the items for which `where` is true |
| `map` | a list | what `value` is for each item |
| `split` | a text | its parts between `separator`s, or without one its words |
| `join` | a list of texts and numbers; null is left out | one text, with `separator` (a newline) between |
| `pick` | an object, or a list of them | the same with only `fields`; one that is not there is an error |
| `json_parse` | a text | the JSON in it, perhaps in a fenced block or with text around |
| `json_path` | anything | the list of what `path` leads to, or with `first` one of them or null |
| `regex` | a text | the list of what `pattern` matches, `first`: one or null; or the text, matches replaced |
| `template` | none | `template`, filled in |
| `chunk` | a text | its pieces of `size` characters, words or tokens, `overlap` of which repeat |

A match of `regex` is its `group`; without that: all its text where the pattern has no groups, the group's where it has
one, a list of them where it has several, an object where they have names.

Small inputs are worked on at once, large ones in a thread, in steps that let others run, and no longer than
`SECONDS`, a `regex` no longer than `REGEX_SECONDS`. All raise `StepFailed`: `invalid_input` for a wrong type,
`too_large` and `timeout` for the limits.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

from pipeline.workflow.definition import TransformStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.ports import Result, StepContext
from pipeline.workflow.steps import transform_json, transform_lists, transform_texts
from pipeline.workflow.steps.transform_checks import check_transform
from pipeline.workflow.steps.transform_meter import BRIEF, REGEX_SECONDS, SECONDS, Work, apart, is_small
from pipeline.workflow.steps.values import invalid

__all__ = ["check_transform", "transform"]

_OPERATIONS: dict[str, Callable[[TransformStep, Any, Work], Any]] = {
    "concat": transform_lists.concat,
    "merge": transform_lists.merge,
    "split": transform_lists.split,
    "join": transform_lists.join,
    "pick": transform_lists.pick,
    "json_parse": transform_json.parse,
    "json_path": transform_json.query,
    "regex": transform_texts.search,
    "chunk": transform_texts.chunk,
}


async def transform(step: TransformStep, context: StepContext) -> Result:
    for field, message in check_transform(step):
        raise StepFailed("invalid_input", f"{field}: {message}" if field else message, details={"field": field})
    if step.operation == "template":
        return Result(context.value("template"))
    value = context.value("input")
    if step.operation == "filter":
        return Result([item for item, chosen in await _each(value, "where", context) if chosen])
    if step.operation == "map":
        return Result([made for _, made in await _each(value, "value", context)])
    operation = _OPERATIONS[step.operation]
    if is_small(value):
        try:
            return Result(operation(step, value, Work(BRIEF)))
        except StepFailed as failed:
            if failed.kind != "timeout":
                raise
    return Result(await apart(context.run_id, partial(operation, step, value), _seconds(step)))


def _seconds(step: TransformStep) -> float:
    return REGEX_SECONDS if step.operation == "regex" else SECONDS


async def _each(items: Any, field: str, context: StepContext) -> list[tuple[Any, Any]]:
    """Items with what the field comes to for each. Templates are filled in on the event loop, in short turns."""
    if not isinstance(items, list):
        raise invalid("input", "a list", items)
    made: list[tuple[Any, Any]] = []
    for index, item in enumerate(items):
        await context.turn()
        made.append((item, context.value(field, item=item, index=index)))
    return made
