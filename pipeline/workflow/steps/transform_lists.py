"""Transforms of lists and objects: concat, merge, split, join, pick."""

from collections.abc import Iterator
from typing import Any

from pipeline.stages.sandbox_parts import ABSENT, Absent, follow, part_of
from pipeline.workflow.definition import TransformStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.steps.transform_meter import MAX_CHARS, Work
from pipeline.workflow.steps.transform_texts import WORD, text_input
from pipeline.workflow.steps.values import invalid
from pipeline.workflow.template_values import text_of


def concat(step: TransformStep, value: Any, work: Work) -> Any:
    parts = _listed(value)
    if any(isinstance(part, list) for part in parts):
        return _chained(parts, work)
    return _joined(value, step.separator or "", work)


def merge(step: TransformStep, value: Any, work: Work) -> Any:
    del step
    parts = _listed(value)
    if any(isinstance(part, list) for part in parts):
        return _chained(parts, work)
    merged: dict[str, Any] = {}
    for at, part in enumerate(work.each(parts)):
        if part is not None and not isinstance(part, dict):
            raise invalid(f"input[{at}]", "an object", part)
        merged.update(part or {})
    return merged


def join(step: TransformStep, value: Any, work: Work) -> str:
    return _joined(value, "\n" if step.separator is None else step.separator, work)


def split(step: TransformStep, value: Any, work: Work) -> list[str]:
    """In steps: Python's own `split` of a large text lets nobody else run."""
    text = text_input(value)
    parts: list[str] = []
    for part in _parts(text, step.separator):
        work.tick()
        work.items(len(parts) + 1)
        parts.append(part)
    return parts


def _parts(text: str, separator: str | None) -> Iterator[str]:
    if separator is None:
        yield from (found[0] for found in WORD.finditer(text))
        return
    at = 0
    while (found := text.find(separator, at)) >= 0:
        yield text[at:found]
        at = found + len(separator)
    yield text[at:]


def pick(step: TransformStep, value: Any, work: Work) -> Any:
    fields = step.fields or []
    named = fields if isinstance(fields, dict) else {path.rpartition(".")[2]: path for path in fields}
    wanted = {name: path.split(".") for name, path in named.items()}
    if isinstance(value, list):
        return [_picked(item, f"input[{at}]", wanted) for at, item in enumerate(work.each(value))]
    return _picked(value, "input", wanted)


def _picked(value: Any, field: str, wanted: dict[str, list[str]]) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise invalid(field, "an object", value)
    try:
        return {name: _reached(value, field, path) for name, path in wanted.items()}
    except Absent as absent:
        raise StepFailed("invalid_input", str(absent), details={"field": field}) from absent


def _reached(value: Any, field: str, path: list[str]) -> Any:
    keys: list[str | int] = []
    found = value
    for part in path:
        keys.append(int(part) if isinstance(found, list) and part.isdecimal() else part)
        found = part_of(found, keys[-1])
        if found is ABSENT:
            return follow(value, field, keys)  # raises, with words for it
    return found


def _chained(parts: list[Any], work: Work) -> list[Any]:
    items: list[Any] = []
    for at, part in enumerate(parts):
        if part is None:
            continue
        if not isinstance(part, list):
            raise invalid(f"input[{at}]", "a list, as others of the input are", part)
        work.items(len(items) + len(part))
        items.extend(part)
    return items


def _joined(value: Any, separator: str, work: Work) -> str:
    texts: list[str] = []
    size = 0
    for at, item in enumerate(work.each(_listed(value))):
        if item is None:
            continue
        if isinstance(item, list | dict):
            raise invalid(f"input[{at}]", "a text or a number", item)
        texts.append(text_of(item, MAX_CHARS, work.tick))
        size += len(texts[-1]) + len(separator)
        work.chars(size - len(separator))
    return separator.join(texts)


def _listed(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise invalid("input", "a list", value)
    return value
