"""What the engine needs of the world, and what steps need of the engine."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import msgspec

from pipeline.workflow.definition import Definition
from pipeline.workflow.journal import Numbered
from workers.base import ChatMessage, Parameters, Passage


class Result(msgspec.Struct, frozen=True):
    """What a step came to: `value` is JSON (dict, list, str, int, float, bool, None), `fields` the step's other fields
    (`pipeline.workflow.definition.FIELDS`) by name, JSON as well."""

    value: Any = None
    fields: dict[str, Any] = {}


# Prompts: the pipeline's own door.


class Asking(msgspec.Struct, frozen=True, kw_only=True):
    """A prompt of a step. `session_id` is the run's id; `underway` tells that the run has begun: such prompts outrank
    the first ones of new runs. `caller` is the name of the key that made the run, `priority` its class. `timeout` in
    seconds."""

    request_id: str
    session_id: str
    route: str
    messages: tuple[ChatMessage, ...]
    parameters: Parameters
    caller: str
    priority: int
    underway: bool
    timeout: float | None = None
    json_answer: bool = False  # the answer should be JSON: backends that can are told so


class Answered(msgspec.Struct, frozen=True, kw_only=True):
    """`usage`: prompt_tokens, completion_tokens, total_tokens, None where nobody counted. `passages`: what the route's
    collection gave."""

    text: str
    model: str
    finish_reason: str = "stop"
    usage: dict[str, int] | None = None
    passages: list[dict[str, Any]] = []
    metadata: dict[str, Any] = {}


class Prompts(Protocol):
    """Raises `Postponed` where the prompt was shed or its caller's limit is reached, `StepFailed` for anything else
    that ends it. Safe to cancel: the request then counts as one whose client has gone."""

    async def ask(self, asking: Asking, on_text: Callable[[str], None] | None = None) -> Answered:
        """`on_text` is called with each piece of the answer as it comes."""
        ...

    async def embed(self, asking: Asking, texts: Sequence[str]) -> tuple[list[list[float]], str, dict[str, int] | None]:
        """Vectors in the texts' order, the model's name, and the usage. `asking.messages` is empty."""
        ...


class Knowledge(Protocol):
    """Collections. Raises `StepFailed`."""

    async def search(self, collection: str, query: str, limit: int) -> Sequence[Passage]: ...

    async def embed(self, collection: str, text: str) -> list[float]:
        """By the collection's embedder."""
        ...

    async def upsert(self, collection: str, source: str, title: str, text: str) -> int:
        """Replaces the document; returns how many chunks it was cut into."""
        ...


class Outside(Protocol):
    """Hosts and files, as far as the configuration allows them, and the log. Raises `StepFailed` (kind `not_allowed`
    for what is not)."""

    async def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None, seconds: float | None
    ) -> tuple[int, dict[str, str], bytes]:
        """Status, headers (names in lower case) and body."""
        ...

    async def write(self, path: str, content: bytes, *, append: bool, key: str) -> str:
        """Returns the absolute path. Whole or not at all; an append with a `key` that was appended already does
        nothing."""
        ...

    def log(self, level: str, message: str, fields: Mapping[str, Any]) -> None: ...


class Services(msgspec.Struct, frozen=True):
    """All that steps can reach."""

    prompts: Prompts
    knowledge: Knowledge
    outside: Outside


class Catalog(Protocol):
    """What is configured where a workflow is to run, for its validation and for `provider` and `model`."""

    def routes(self) -> Sequence[str]: ...

    def collections(self) -> Sequence[str]: ...

    def embeds(self, route: str) -> bool:
        """Whether the route's worker makes vectors."""
        ...

    def route_of(self, provider: str, model: str | None) -> str | None:
        """The first route whose worker has this kind or name and serves this model; None where there is none."""
        ...

    def allows(self, url: str) -> bool:
        """Whether steps may call this address."""
        ...

    def files(self) -> bool:
        """Whether steps may write files."""
        ...


class Library(Protocol):
    """Where workflows find others. Raises `UnknownWorkflow`, or `DefinitionRefused` for one that is not valid."""

    async def definition(self, reference: str) -> Definition:
        """`name`, `name@version`, or where files are read a path."""
        ...


# Templates see variables through this.


class Names(Protocol):
    """The variables at a place in a run."""

    def lookup(self, name: str) -> Any:
        """`inputs`, `input`, `steps`, `outputs`, a flat name or a local one. Raises KeyError."""
        ...


# Steps.


class StepContext(Protocol):
    """What an attempt of a step is given. All of it may be used from the event loop only."""

    run_id: str
    path: str  # of the step: unique in its run
    attempt: int  # from 1
    caller: str
    priority: int
    underway: bool
    services: Services
    catalog: Catalog

    @property
    def idempotency_key(self) -> str:
        """The same for each attempt and after each restart, and for no other step."""
        ...

    @property
    def remaining(self) -> float | None:
        """Seconds until this attempt, or the run, is cancelled."""
        ...

    def value(self, field: str, **local: Any) -> Any:
        """A field of the step of type `Value` or `Expression`, filled in (dotted for what is inside: `headers`,
        `cases.0.when`); `local` are more variables. Raises `StepFailed`."""
        ...

    async def turn(self) -> None:
        """To be called between values, where there may be many: waits, if others are to have their turn."""
        ...

    def emit(self, text: str) -> None:
        """Streams a piece of the answer to whoever watches the run."""
        ...


class Handler(Protocol):
    """Runs a type of steps that have no steps inside. Raises `StepFailed` or `Postponed`; anything else counts as a
    bug, and fails the step. A result that is not JSON, or larger than allowed, fails it too."""

    async def __call__(self, step: Any, context: StepContext) -> Result: ...


class Kind(msgspec.Struct, frozen=True):
    """A custom type, as an entry point of the group `headgate.steps` gives it. `options`: a JSON schema for the step's
    `options`, True for anything. `problem`: why there is nothing behind it; entry points leave it empty."""

    handler: Handler
    options: dict[str, Any] | bool = True
    problem: str = ""


# Who looks on.


class Watcher(Protocol):
    """Told by the engine, in order. Must not raise and must be quick."""

    def entries(self, run_id: str, entries: Sequence[Numbered]) -> None:
        """They have been written."""
        ...

    def text(self, run_id: str, path: str, attempt: int, text: str) -> None:
        """A piece of an answer. It is not journalled."""
        ...


Clock = Callable[[], float]
