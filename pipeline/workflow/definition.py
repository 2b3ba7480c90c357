"""What a workflow can say, as frozen structs. `source` reads them from YAML and JSON, `builder` makes them in Python.

A field of type `Value` is a *value*: any JSON, whose texts are templates (`pipeline.workflow.templates`). A field of
type `Expression` is one expression, with or without `{{ }}` around it. Everything else is taken literally.

Durations are in the unit that their name says. Ids and output names are identifiers, so that expressions can name them.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType, field

MAX_STEPS = 10_000  # nested ones counted
MAX_BYTES = 10 << 20  # of a definition's text
MAX_DEPTH = 32  # of steps within steps, and of workflows within workflows

Identifier = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z_][A-Za-z0-9_-]{0,127}(?!\n)$",
        description="an identifier: at most 128 letters, digits, _ and -, that begins with a letter or _",
    ),
]
WorkflowName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,127}(?!\n)$",
        description="a name of at most 128 letters, digits and . _ - that begins with a letter or digit",
    ),
]
Version = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}(?!\n)$",
        description="a version of at most 64 letters, digits and . + _ -",
    ),
]
Seconds = Annotated[float, Meta(gt=0, le=31_536_000)]
Delay = Annotated[int, Meta(ge=0, le=86_400_000, description="milliseconds, up to a day")]
Concurrency = Annotated[int, Meta(ge=1, le=10_000)]
Value = Any
Expression = str
OnFailure = Literal["fail", "continue", "fallback"]


class Part(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, omit_defaults=True):
    """Root of everything that is declared: unknown keys are errors."""


class Retry(Part, frozen=True, kw_only=True):
    """A step that fails is tried again, `max_attempts` times in all, after a delay that grows: `initial_delay_ms` times
    2ⁿ (exponential), times n + 1 (linear), or the same each time. `jitter` takes away up to this share of it."""

    max_attempts: Annotated[int, Meta(ge=1, le=100)] = 3
    backoff: Literal["exponential", "linear", "constant"] = "exponential"
    initial_delay_ms: Delay = 500
    max_delay_ms: Delay = 30_000
    jitter: Annotated[float, Meta(ge=0, le=1)] | bool = 0.5  # true: 0.5; false: none


class Step(Part, frozen=True, kw_only=True):
    """What every step has.

    `depends_on`: steps that must have ended, besides those that it refers to. `condition`: skipped where it is false.
    `output`: the flat name of the step's value, or a list of names for its fields in order (see `FIELDS`).
    `on_failure`: what a failure, after the last attempt, does: `fail` ends the run (or, where the workflow says
    `on_failure: continue`, skips what depends on it), `continue` goes on with null for its value, `fallback` goes on
    with `fallback` for its value. None: the workflow's.
    """

    id: Identifier
    description: str = ""
    depends_on: list[Identifier] = field(default_factory=list)
    condition: Expression | bool | None = None
    timeout_seconds: Seconds | None = None  # of each attempt
    retry: Retry | None = None
    on_failure: OnFailure | None = None
    fallback: Value | UnsetType = UNSET
    # One name is an identifier too, which `flat` checks: of `Identifier | list[…]` msgspec corrupts memory when it
    # is freed, and processes end with a segmentation fault.
    output: str | list[Identifier] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


class Message(Part, frozen=True, kw_only=True):
    role: Literal["system", "user", "assistant"]
    content: Value


class LlmStep(Step, frozen=True, kw_only=True, tag="llm"):
    """A prompt through the pipeline. Either `route` or `provider` (the kind or name of a worker) and `model`; either
    `prompt` or `messages`. With an `output_schema` (JSON schema) the answer must be JSON that fits; one that does not
    is asked for again, with what was wrong, up to `output_attempts` times in all; the value is then what was parsed."""

    route: Value | None = None
    provider: str | None = None
    model: str | None = None
    prompt: Value | None = None
    messages: list[Message] | None = None
    system: Value | None = None
    temperature: Value | None = None
    max_tokens: Value | None = None
    top_p: Value | None = None
    seed: Value | None = None
    stop: list[str] | None = None
    output_schema: dict[str, Any] | bool | None = None
    output_attempts: Annotated[int, Meta(ge=1, le=10)] = 3


class EmbedStep(Step, frozen=True, kw_only=True, tag="embed"):
    """Vectors of a text (its value: one vector) or of a list of texts (a list of vectors), by a route whose worker
    embeds or by a collection's embedder."""

    input: Value
    route: Value | None = None
    collection: Value | None = None


class VectorSearchStep(Step, frozen=True, kw_only=True, tag="vector_search"):
    """Its value: a list of objects with `text source title score`, best first."""

    collection: Value
    query: Value
    limit: Value = 5
    min_score: Value | None = None


class VectorUpsertStep(Step, frozen=True, kw_only=True, tag="vector_upsert"):
    """`documents`: a text, an object with `text` and perhaps `source` and `title`, or a list of those. One without a
    source gets one made of its content, so that storing it again replaces it. Its value: `{documents, chunks}`,
    counts."""

    collection: Value
    documents: Value


class TransformStep(Step, frozen=True, kw_only=True, tag="transform"):
    """See `pipeline.workflow.steps.transform` for what each operation takes."""

    operation: Literal[
        "concat",
        "merge",
        "filter",
        "map",
        "split",
        "join",
        "pick",
        "json_parse",
        "json_path",
        "regex",
        "template",
        "chunk",
    ]
    input: Value | UnsetType = UNSET
    separator: str | None = None  # concat, split, join
    where: Expression | None = None  # filter: over `item` and `index`
    value: Value | UnsetType = UNSET  # map: over `item` and `index`
    fields: list[str] | dict[str, str] | None = None  # pick: names (dotted paths), or new name -> path
    path: str | None = None  # json_path (RFC 9535)
    first: bool = False  # json_path, regex: the first match instead of all
    pattern: str | None = None  # regex
    replacement: str | None = None  # regex: replaces matches instead of listing them
    group: int | str | None = None  # regex
    template: Value | None = None  # template
    size: Annotated[int, Meta(ge=1, le=1_000_000)] | None = None  # chunk
    overlap: Annotated[int, Meta(ge=0, le=1_000_000)] = 0  # chunk
    unit: Literal["characters", "words", "tokens"] = "characters"  # chunk


class Case(Part, frozen=True, kw_only=True):
    """`then`: ids of steps beside the branch, or steps written out, which then stand beside it too."""

    when: Expression | bool
    then: Any = field(default_factory=list)  # id, or list of ids and steps; after `source`: list[str]


class BranchStep(Step, frozen=True, kw_only=True, tag="branch"):
    """The first case whose `when` is true is taken, else `default`. Steps that only cases not taken name are skipped.
    Its value: the index of the case taken, or "default"."""

    cases: Annotated[list[Case], Meta(min_length=1)]
    default: Any = field(default_factory=list)  # as `Case.then`


class ParallelStep(Step, frozen=True, kw_only=True, tag="parallel"):
    """Steps of its own, at most `max_concurrency` at once. Its value: an object of their values by id. Their output
    names are known outside of it too."""

    steps: Annotated[list["AnyStep"], Meta(min_length=1)]
    max_concurrency: Concurrency | None = None


class MapStep(Step, frozen=True, kw_only=True, tag="map"):
    """Runs its steps once for each of `items`, at most `max_concurrency` at once. Inside, `item` (or what `as` says) is
    the item, `index` its number from 0. Its value: the list of what each came to, in the items' order: `result`, else
    the value of the last step."""

    items: Value
    steps: Annotated[list["AnyStep"], Meta(min_length=1)]
    as_: Identifier = field(default="item", name="as")
    result: Value | UnsetType = UNSET
    max_concurrency: Concurrency = 8


class ReduceStep(Step, frozen=True, kw_only=True, tag="reduce"):
    """Goes over `items` in order; inside, `accumulator` is what there is so far, at first `initial`. Each turn's result
    is `value` (an expression over them), else the value of the last of its `steps`; the last one is the step's
    value."""

    items: Value
    initial: Value | None = None
    as_: Identifier = field(default="item", name="as")
    accumulator: Identifier = "accumulator"
    value: Value | UnsetType = UNSET
    steps: list["AnyStep"] = field(default_factory=list)


class LoopStep(Step, frozen=True, kw_only=True, tag="loop"):
    """Runs its steps until `until` is true after an iteration, `max_iterations` times at most. Inside, `iteration`
    counts from 0, and each of `variables` is what the step of that output name came to in the iteration before, at
    first what is written here. Its value: the last iteration's last step's; the names of its variables and of its
    steps' outputs are known outside, as the last iteration left them. `metadata`: `{iterations, satisfied}`."""

    steps: Annotated[list["AnyStep"], Meta(min_length=1)]
    until: Expression | bool | None = None
    max_iterations: Annotated[int, Meta(ge=1, le=10_000)] = 10
    variables: dict[Identifier, Value] = field(default_factory=dict)
    on_limit: Literal["continue", "fail"] = "continue"


class ActionStep(Step, frozen=True, kw_only=True, tag="action"):
    """`log` writes `message` to the daemon's log. `http_request` and `webhook` reach only hosts that the configuration
    allows, with an `Idempotency-Key` that is the same for each attempt. `file_write` writes under the configured
    folder."""

    action: Literal["log", "http_request", "webhook", "file_write"]
    message: Value | None = None  # log
    level: Literal["debug", "info", "warning", "error"] = "info"  # log
    url: Value | None = None  # http_request, webhook
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] | None = None  # http_request: GET; webhook: POST
    headers: dict[str, Value] = field(default_factory=dict)
    body: Value | UnsetType = UNSET  # text as it is, anything else as JSON
    expect_status: list[int] | None = None  # http_request, webhook: else any 2xx
    path: Value | None = None  # file_write
    content: Value | UnsetType = UNSET  # file_write
    append: bool = False  # file_write


class WorkflowStep(Step, frozen=True, kw_only=True, tag="workflow"):
    """Another workflow: `name`, `name@version`, or in a file run without a daemon the path of another file. Its value:
    that one's outputs. The version is fixed when the run is made."""

    workflow: str
    inputs: dict[str, Value] = field(default_factory=dict)


class WaitStep(Step, frozen=True, kw_only=True, tag="wait"):
    """For `seconds`, `until` a moment (RFC 3339), or for a signal named `event`, whose payload is then its value. A run
    of which only waits are left is *waiting* and costs no memory. With `event`, `timeout_seconds` says how long at
    most."""

    seconds: Value | None = None
    until: Value | None = None
    event: Value | None = None


class CustomStep(Step, frozen=True, kw_only=True):
    """A type from an entry point (`headgate.steps`): `type` names it, `options` are what it takes."""

    type: str
    options: dict[str, Value] = field(default_factory=dict)


AnyStep = (
    LlmStep
    | EmbedStep
    | VectorSearchStep
    | VectorUpsertStep
    | TransformStep
    | BranchStep
    | ParallelStep
    | MapStep
    | ReduceStep
    | LoopStep
    | ActionStep
    | WorkflowStep
    | WaitStep
)

# What `output: [a, b, …]` names, in order; the first is the value. Expressions know them as `steps.id.field` too.
FIELDS: dict[str, tuple[str, ...]] = {
    "llm": ("text", "model", "usage", "metadata"),
    "embed": ("vectors", "model", "usage", "metadata"),
}
OTHER_FIELDS = ("value", "metadata")


class Definition(Part, frozen=True, kw_only=True):
    """`inputs` is a JSON schema of an object; or, for short, an object of name -> schema, each of which must be given
    unless it has a `default`. `outputs`: name -> value, or names of steps and outputs; none: the values of the steps
    that nothing depends on. `on_failure: continue`: a step that fails does not stop the others."""

    name: WorkflowName
    steps: list[AnyStep]
    version: Version = "1"
    description: str = ""
    inputs: dict[str, Any] = field(default_factory=dict)
    outputs: dict[str, Value] | list[Identifier] = field(default_factory=dict)
    timeout_seconds: Seconds | None = None
    on_failure: Literal["fail", "continue"] = "fail"
    metadata: dict[str, Any] = field(default_factory=dict)
