"""The keys of each type of step, for the builder's callers and their type checkers."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict

OnFailure = Literal["fail", "continue", "fallback"]


class Retry(TypedDict, total=False):
    max_attempts: int
    backoff: Literal["exponential", "linear", "constant"]
    initial_delay_ms: int
    max_delay_ms: int
    jitter: float | bool


class Common(TypedDict, total=False):
    description: str
    depends_on: Sequence[Any]  # ids, or what the builder returned for steps
    condition: Any
    timeout_seconds: float
    retry: Retry
    on_failure: OnFailure
    fallback: Any
    output: str | Sequence[str]
    metadata: Mapping[str, Any]


class Message(TypedDict):
    role: Literal["system", "user", "assistant"]
    content: Any


class Llm(Common, total=False):
    route: Any
    provider: str
    model: str
    prompt: Any
    messages: Sequence[Message]
    system: Any
    temperature: Any
    max_tokens: Any
    top_p: Any
    seed: Any
    stop: Sequence[str]
    output_schema: Mapping[str, Any] | bool
    output_attempts: int


class Embed(Common, total=False):
    input: Any
    route: Any
    collection: Any


class Search(Common, total=False):
    limit: Any
    min_score: Any


class Transform(Common, total=False):
    input: Any
    separator: str
    where: Any
    value: Any
    fields: Sequence[str] | Mapping[str, str]
    path: str
    first: bool
    pattern: str
    replacement: str
    group: int | str
    template: Any
    size: int
    overlap: int
    unit: Literal["characters", "words", "tokens"]


class Action(Common, total=False):
    message: Any
    level: Literal["debug", "info", "warning", "error"]
    url: Any
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
    headers: Mapping[str, Any]
    body: Any
    expect_status: Sequence[int]
    path: Any
    content: Any
    append: bool


class Wait(Common, total=False):
    seconds: Any
    until: Any
    event: Any


class Parallel(Common, total=False):
    max_concurrency: int


class Map(Common, total=False):
    as_: str
    result: Any
    max_concurrency: int


class Reduce(Common, total=False):
    initial: Any
    as_: str
    accumulator: str
    value: Any


class Loop(Common, total=False):
    until: Any
    max_iterations: int
    variables: Mapping[str, Any]
    on_limit: Literal["continue", "fail"]
