"""Definitions for others to read: as a JSON schema for editors, as a page of the documentation."""

import json
from collections.abc import Sequence
from inspect import cleandoc
from typing import Any, get_args, get_type_hints

import msgspec
from msgspec import inspect

from config.shape import bare, of
from pipeline.workflow import definition as parts
from pipeline.workflow.definition import FIELDS, MAX_BYTES, MAX_DEPTH, MAX_STEPS, OTHER_FIELDS
from pipeline.workflow.descriptions import description
from pipeline.workflow.flat import AN_IDENTIFIER, BUILT_IN
from pipeline.workflow.markup import MAX_NESTING, MAX_NODES
from pipeline.workflow.states import RunState, StepState
from pipeline.workflow.steps.transform import __doc__ as _OPERATIONS  # noqa: N812 - a constant here
from pipeline.workflow.structure_types import described

_STEP = {"$ref": "#/$defs/Step"}

_INTRODUCTION = f"""\
# Workflows

<!-- Written by `headgate workflow schema --markdown`; a test compares the two. -->

A workflow is a YAML or JSON file. The smallest one that does something:

```yaml
name: hello
inputs:
  who: {{ type: string, default: world }}
steps:
  - id: greet
    type: llm
    route: echo
    prompt: Say hello to {{{{ inputs.who }}}}.
```

- `headgate workflow validate FILE` prints every problem at once, with line and column, and exits with status 2.
- `headgate workflow schema` prints a JSON schema, for editors.

**Values** are any JSON. Texts in them are templates: `{{{{ inputs.who }}}}`. A text that is one whole expression keeps
the expression's type. **Expressions** stand with or without `{{{{ }}}}`. Everything else is taken literally.

**Order.** A step starts when all that it depends on has ended: what `depends_on` names, what its values and expressions
(and those of steps inside of it) refer to, and branches that lead to it. Steps may stand in any order.

## The file

A file is UTF-8. JSON is read as JSON, everything else as YAML, of which this is taken:

- `true` and `false` are booleans; `yes`, `no`, `on`, `off` and dates are texts.
- `010` is refused: some readers take it for 8, others for 10. In quotes it is a text. So is `version: "1.10"`, which
  without quotes would be the number 1.1.
- A text that begins with `{{{{` stands in quotes, or in a block (`|`).
- `&name` and `*name` repeat a value. What they come to counts towards the limits.
- Tags (`!!binary`), merge keys (`<<`), keys that are no texts, keys that are there twice, tabs as indentation, a byte
  order mark, `.inf` and `.nan`, whole numbers of more than 64 bits, and a second document are refused.

| limit | |
|---|---|
| size of a file | {MAX_BYTES:,} bytes |
| steps, those inside of others and of workflows that are called counted | {MAX_STEPS:,} |
| steps within steps, workflows within workflows | {MAX_DEPTH} deep |
| lists and mappings within each other | {MAX_NESTING} deep |
| values in a file | {MAX_NODES:,} |
"""

_NAMES = """\
## Names in expressions

| name | |
|---|---|
| `inputs.x`, `input.x` | an input |
| `steps.id.field` | a field of a step; of an id with a minus `steps["my-id"].field` |
| `outputs.id` | the value of a step, by its id or output name |
| a flat name | a local name (`item`, `accumulator`, a variable, …), else an output name, a step's id, an input |

Inside of a step with steps, the names around it are known too; where two are the same, the inner one counts. Outside of
a `parallel` and of a `loop` the output names inside are known; outside of a `map` and of a `reduce` they are not.

What is not known is an error before the workflow runs. The value and the fields of a step that was skipped are null.
"""


def json_schema() -> dict[str, Any]:
    """A JSON schema (2020-12) of a definition as it is written, with what each key is for."""
    schema = msgspec.json.schema(parts.Definition)
    named: dict[str, Any] = schema["$defs"]
    named["CustomStep"] = msgspec.json.schema(parts.CustomStep)["$defs"]["CustomStep"]
    named["CustomStep"]["properties"]["type"] = {"type": "string", "not": {"enum": list(BUILT_IN)}}
    for name, one in named.items():
        if name != "Step" and "properties" in one:
            _describe(getattr(parts, name), one["properties"])
    named["Step"] = {"anyOf": [{"$ref": f"#/$defs/{name}"} for name in _step_names()]}
    for one in named.values():
        _generalise(one.get("properties", {}))
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Headgate workflow"}
    return {**title, **schema}


def _step_names() -> list[str]:
    return [*(kind.__name__ for kind in get_args(parts.AnyStep)), "CustomStep"]


def _describe(part: type[msgspec.Struct], properties: dict[str, Any]) -> None:
    for key in properties.keys() & set(part.__struct_encode_fields__):
        properties[key]["description"] = description(part, key)


def _generalise(properties: dict[str, Any]) -> None:
    """What the structs leave open, and custom steps wherever there are steps."""
    if "steps" in properties:
        properties["steps"]["items"] = _STEP
    for key in properties.keys() & {"then", "default"} if "cases" in properties or "when" in properties else ():
        one = {"anyOf": [{"type": "string"}, _STEP]}
        properties[key].update({"anyOf": [*one["anyOf"], {"type": "array", "items": one}]})
    if "output" in properties:
        name = json.loads(msgspec.json.encode(msgspec.json.schema(parts.Identifier)))
        properties["output"]["anyOf"] = [name, {"type": "array", "items": name}, {"type": "null"}]


def markdown() -> str:
    """The reference page: every key, in the order of the definition; states, names and limits."""
    kinds = get_args(parts.AnyStep)
    lines = [_INTRODUCTION, *_table("## Workflow", parts.Definition), *_table("## Every step", parts.Step, kind=False)]
    lines += _table("### `retry`", parts.Retry)
    lines += ["## Steps by type", "", "Besides `type` and what every step has, they take:", ""]
    for kind in kinds:
        lines += _kind(kind)
    lines += _table("### Custom types", parts.CustomStep)
    lines += [_NAMES, *_states()]
    return "\n".join(lines)


def _kind(kind: type[msgspec.Struct]) -> list[str]:
    tag = str(kind.__struct_config__.tag)
    lines = _table(f"### `{tag}`", kind)
    lines += [f"Fields, in the order of `output`: {_listed(FIELDS.get(tag, OTHER_FIELDS))}.", ""]
    if kind is parts.TransformStep:
        lines += [*_operations(), ""]
    if kind is parts.LlmStep:
        lines += _table("#### `messages[]`", parts.Message)
    if kind is parts.BranchStep:
        lines += _table("#### `cases[]`", parts.Case)
    return lines


def _operations() -> list[str]:
    """The table in the docstring of the module that does them."""
    told = cleandoc(_OPERATIONS or "").split("\n\n")
    return ["#### Operations", "", told[1], "", told[2]]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _table(title: str, part: type[msgspec.Struct], *, kind: bool = True) -> list[str]:
    info = of(part)
    inherited = set(get_type_hints(parts.Step)) if issubclass(part, parts.Step) and kind else set()
    fields = [field for field in info.fields if field.name not in inherited]
    about = [cleandoc(part.__doc__), ""] if part.__doc__ and part is not parts.TransformStep else []
    head = ["| key | takes | default | |", "|---|---|---|---|"]
    return [title, "", *about, *head, *(_row(part, field) for field in fields), ""]


def _row(part: type[msgspec.Struct], field: inspect.Field) -> str:
    key = field.encode_name
    cells = [f"`{key}`", _takes(part, field), _default(field), description(part, key)]
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _takes(part: type[msgspec.Struct], field: inspect.Field) -> str:
    if field.name == "output":
        return f"{AN_IDENTIFIER}, or a list of those"
    if field.name in ("then", "default") and part in (parts.Case, parts.BranchStep):
        return "an id, a step, or a list of those"
    hint = get_type_hints(part)[field.name]
    if parts.Expression in (hint, *get_args(hint)) and field.name in ("condition", "where", "when", "until"):
        return "an expression" if isinstance(bare(field.type)[0], inspect.StrType) else "an expression, true or false"
    return "a value" if isinstance(bare(field.type)[0], inspect.AnyType) else described(field.type)


def _default(field: inspect.Field) -> str:
    if field.required:
        return "required"
    made = field.default_factory
    default = field.default if made is msgspec.NODEFAULT else made()
    return "not set" if default is None or default is msgspec.NODEFAULT else f"`{json.dumps(default)}`"


_RUN = {
    RunState.PENDING: "not begun",
    RunState.RUNNING: "steps are under way",
    RunState.PAUSED: "no more steps are started, until it is resumed",
    RunState.WAITING: "of it only waits are left",
    RunState.COMPLETED: "every step ended well, was skipped, or fell back",
    RunState.PARTIAL: "it came to its end, but steps failed on the way; what they would have made is missing",
    RunState.FAILED: "a step failed, or its time was up",
    RunState.CANCELLED: "somebody cancelled it",
}
_STEPS = {
    StepState.PENDING: "what it depends on has not ended",
    StepState.RUNNING: "an attempt is under way",
    StepState.RETRYING: "between two attempts",
    StepState.WAITING: "a wait, with a time or a signal that ends it",
    StepState.COMPLETED: "it has a value",
    StepState.SKIPPED: "its condition is false, no branch leads to it, or what it depends on was skipped or failed",
    StepState.FAILED: "after its last attempt",
    StepState.ABANDONED: "it was under way when its run ended",
}


def _states() -> list[str]:
    lines = ["## States of runs", "", "| state | |", "|---|---|", *(f"| `{one}` | {_RUN[one]} |" for one in RunState)]
    lines += ["", "## States of steps", "", "| state | |", "|---|---|"]
    return [*lines, *(f"| `{one}` | {_STEPS[one]} |" for one in StepState), ""]
