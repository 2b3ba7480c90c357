"""How a protocol server of one kind of backend answers: what the conformance suite knows about a kind.

There is one file a kind beside this one (`openai.py`, `anthropic.py`, `cohere.py`, `ollama.py`, `grpc.py`, `python.py`,
`llama_cpp.py`) with a constant `SPEAKER`. It is written from the provider's reference, not from our worker, and imports
nothing of `workers` but `workers.base`, `workers.errors` and the means to build the worker.

A kind over HTTP extends `HttpSpeaker` and says only how bytes look; `serving` is there already. A sketch of `openai`::

    class OpenAISpeaker(HttpSpeaker):
        kind = "openai"
        reasons = {"stop": "stop", "length": "length", "tool_calls": "tool_calls", "content_filter": "content_filter"}

        def section(self, address, *, scheme="http", **fields):
            return given("openai", base_url=f"{scheme}://{address}/v1", **fields)

        def hear(self, path, headers, body) -> Heard:
            if path != "/v1/chat/completions": raise Rejected("path")
            if headers.get("authorization") != f"Bearer {SECRET}": raise Rejected("credentials")
            for message in body["messages"]: ...  # Rejected for a role that the reference does not know
            return Heard(model=body["model"], messages=..., stream=body.get("stream", False), max_tokens=..., ...)

        def stream(self, script) -> list[bytes]:
            chunks = [delta(role="assistant"), *[delta(content=piece) for text … in script.parts], finish, usage]
            return [*[b"data: %s\\n\\n" % json for chunk in chunks], b"data: [DONE]\\n\\n"]

        def whole(self, script) -> bytes: ...                       # the chat completion
        def refusals(self, words) -> list[Refusal]: ...             # the reference's table of errors
        def in_band(self, kind, words) -> bytes | None: ...         # data: {"error": {"message": words, …}}

Other kinds implement `Speaker` with a `serving` of their own.
"""

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, cast

import msgspec

from config.schema import AnyWorker
from tests.certificates import Files
from workers import registry
from workers.base import ModelWorker, Usage
from workers.errors import WorkerErrorKind

SECRET = "sk-planted-5eC2et-0f-the-backend"  # the api_key of every worker that has one
KEY = "env:HEADGATE_TEST_KEY"  # the reference to it

# What a model says.


class Text(msgspec.Struct, frozen=True):
    text: str


class Reasoning(msgspec.Struct, frozen=True):
    """Reasoning before the answer; canonical: `reasoning_content`."""

    text: str


class ToolCall(msgspec.Struct, frozen=True):
    """`arguments` is JSON text; a stream sends it in pieces (`pieces`). Calls that follow each other are parallel."""

    call_id: str
    name: str
    arguments: str


Part = Text | Reasoning | ToolCall
Finish = Literal["stop", "length", "tool_calls", "content_filter"]


class Script(msgspec.Struct, frozen=True):
    """One answer.

    `finish` is in OpenAI's words: a speaker says it in its provider's. `wire_finish` is said instead, as it stands.
    `usage` None: the answer has none, where the protocol lets it be left out. With `unknown` every object has fields
    that no reference knows, and the stream an event of an unknown type where events have types. `n`: the same answer as
    so many choices. Each Text is one delta of a stream.
    """

    parts: tuple[Part, ...] = (Text("Full "), Text("queues "), Text("shed."))
    finish: Finish = "stop"
    wire_finish: str | None = None
    usage: Usage | None = Usage(prompt_tokens=11, completion_tokens=4)
    unknown: bool = False
    n: int = 1

    @property
    def text(self) -> str:
        return "".join([part.text for part in self.parts if isinstance(part, Text)])

    @property
    def reasoning(self) -> str:
        return "".join([part.text for part in self.parts if isinstance(part, Reasoning)])

    @property
    def calls(self) -> tuple[ToolCall, ...]:
        return tuple([part for part in self.parts if isinstance(part, ToolCall)])


def pieces(text: str, size: int = 7) -> list[str]:
    """`text` in pieces of `size` characters, at least one piece."""
    return [text[at : at + size] for at in range(0, len(text), size)] or [""]


# What a backend does instead, or on top. Wire pieces are what `stream` gives, counted from the first.


class Refuses(msgspec.Struct, frozen=True):
    """It refuses the call with an error of `kind` before any delta (HTTP: by status). `words` is its message. Where the
    provider has several errors of that kind, `which` of them. `retry_after`: it asks to be left alone so long (s), by
    the means that the protocol has for it."""

    kind: WorkerErrorKind
    words: str = "no"
    which: int = 0
    retry_after: int | None = None


class ErrorInside(msgspec.Struct, frozen=True):
    """After `after` wire pieces an error of `kind` comes in the stream, which then ends."""

    kind: WorkerErrorKind
    after: int = 2
    words: str = "no"


class Ends(msgspec.Struct, frozen=True):
    """The stream ends cleanly after `after` pieces, before the answer is complete."""

    after: int


class Stalls(msgspec.Struct, frozen=True):
    """After `after` pieces it says nothing more, until the call is gone. 0: not even that it got the request."""

    after: int


class Dies(msgspec.Struct, frozen=True):
    """After `after` pieces the server is gone: the connection is reset, its process killed."""

    after: int


class Endless(msgspec.Struct, frozen=True):
    """The text of the script, again and again, until the call is gone, as fast as it is taken."""


# Of HTTP only, made by the suite itself: no speaker has to know these.


class BreaksAt(msgspec.Struct, frozen=True):
    """The connection ends after `byte` bytes of the answer, its head included; `reset`: by RST, else by FIN."""

    byte: int
    reset: bool = True


class Dribbles(msgspec.Struct, frozen=True):
    """The answer comes in segments of `size` bytes."""

    size: int


class Answers(msgspec.Struct, frozen=True):
    """This answer, whatever the question. `content_type` None: as it should be; "": none."""

    body: bytes
    status: int = 200
    content_type: str | None = None


Fault = Refuses | ErrorInside | Ends | Stalls | Dies | Endless | BreaksAt | Dribbles | Answers

# What a backend heard.


class HeardMessage(msgspec.Struct, frozen=True):
    """`images` are the pictures' bytes, or addresses. A tool's result has role `tool` and the `call_id` it answers."""

    role: Literal["system", "user", "assistant", "tool"]
    text: str = ""
    images: tuple[bytes | str, ...] = ()
    calls: tuple[ToolCall, ...] = ()
    call_id: str = ""


class Heard(msgspec.Struct, frozen=True):
    """A request in plain terms, however the protocol puts it: a system prompt outside of the messages is the first of
    them here. `tools` are names with their parameters' JSON schema; `tool_choice` is auto, none, required or a tool's
    name; `schema` is that of the structured output asked for. None: not said.
    """

    model: str
    messages: tuple[HeardMessage, ...]
    stream: bool
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = ()
    seed: int | None = None
    n: int = 1
    tools: Mapping[str, Any] = {}
    tool_choice: str | None = None
    schema: Any = None
    reasoning_effort: str | None = None


class Rejected(Exception):
    """Raised by `hear`: the provider's reference does not allow this request. Says what is wrong with it."""


# The speakers.

Feature = Literal[
    # of requests: a worker of a kind that has no word for one refuses it as bad_request (`refuses`), or leaves it out
    # where the answer is still what was asked for (`ignores`, as a seed)
    "tools", "tool_choice", "parallel_tools", "tool_call_id", "images", "image_urls", "json_schema", "reasoning",
    "n", "seed", "stop", "top_p", "reasoning_effort",
    # of answers and servers: tests that need one are not run for a kind whose `lacks` has it; say why in a comment
    "script",       # answers can be scripted (not where a real model runs)
    "unstreamed",   # an answer can come as one whole
    "unknown",      # a peer can send fields and finish reasons that we do not know
    "refusals",     # it can refuse a call by an error of each kind
    "in_band",      # errors within a stream
    "retry_after",
    "credentials",  # the worker sends a secret
    "ends",         # a stream can end before the answer does
    "dies",
    "network",      # there is an address: refused connections, DNS
    "tls",
    "usage_details",  # cached and reasoning tokens
    "no_usage",     # an answer may be without usage
    "renamed",      # the section has `model`
]  # fmt: skip


Health = Literal["well", "down", "missing", "hanging"]  # answers, with an error, not there (404), not at all


class Served(Protocol):
    """A backend that runs. `script`, `fault` and `health` may be changed between calls."""

    worker: ModelWorker
    script: Script
    fault: Fault | None
    heard: list[Heard]  # requests that it understood, oldest first
    rejected: list[str]  # what was wrong with those it did not; the suite wants none
    headers: list[dict[str, str]]  # of each request, names in lower case; empty where there are none
    health: Health
    open: int  # connections, or where those are shared, calls, that the worker holds open
    sent: int  # bytes (or what is nearest) that left, so that the suite sees when a backend is no longer read

    async def until(self, condition: Callable[[], bool], limit: float = 5.0) -> None:
        """Waits until `condition()` holds; raises `TimeoutError` after `limit` s."""
        ...


class Speaker(Protocol):
    kind: str
    http: bool
    refuses: frozenset[Feature]
    ignores: frozenset[Feature]
    lacks: frozenset[Feature]
    never: frozenset[WorkerErrorKind]  # of the eight error kinds, those that the provider has no error for
    reasons: Mapping[str, Finish]  # every finish reason that the reference names → its meaning

    def serving(self, folder: Path, *, tls: Files | None = None, **fields: Any) -> AbstractAsyncContextManager[Served]:
        """A backend and the worker for it. `folder` is empty and for this backend alone; `fields` are keys of the
        worker's section. Leaving the block closes both; what it then raises fails the test."""
        ...

    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        """The section of a worker for the backend at `address` (host:port); `scheme` https: over TLS."""
        ...


class Refusal(msgspec.Struct, frozen=True):
    """An error by status, as the provider's reference shows it. `lasting`: of a kind that is worth another try, but
    this one is not, as a quota that is used up."""

    kind: WorkerErrorKind
    status: int
    body: bytes
    headers: Mapping[str, str] = {}
    content_type: str = "application/json"
    lasting: bool = False


class HttpSpeaker(ABC):
    """A kind over HTTP: `serving` is `tests.conformance.backends.server`."""

    kind: ClassVar[str]
    http: ClassVar[bool] = True
    refuses: ClassVar[frozenset[Feature]] = frozenset()
    ignores: ClassVar[frozenset[Feature]] = frozenset()
    lacks: ClassVar[frozenset[Feature]] = frozenset()
    never: ClassVar[frozenset[WorkerErrorKind]] = frozenset()
    reasons: ClassVar[Mapping[str, Finish]]
    content_type: ClassVar[str] = "text/event-stream"  # of a stream; a whole answer is application/json
    statuses: ClassVar[Mapping[int, WorkerErrorKind]] = {}  # that mean something else here than elsewhere

    @abstractmethod
    def section(self, address: str, *, scheme: str = "http", **fields: Any) -> AnyWorker:
        """As `Speaker.section`. `fields` has `api_key`."""

    @abstractmethod
    def hear(self, path: str, headers: Mapping[str, str], body: Any) -> Heard:
        """What a POST asks for; `body` is decoded JSON, `headers` have names in lower case. Raises `Rejected` for
        everything that the provider would refuse: a wrong path, missing or wrong credentials (`SECRET`), a version
        header, a field that is missing, a role or a block that the reference does not know, messages in an order that
        it does not allow."""

    @abstractmethod
    def stream(self, script: Script) -> list[bytes]:
        """A streamed answer as wire pieces, one an event or line, each complete; the last ends the answer."""

    @abstractmethod
    def whole(self, script: Script) -> bytes:
        """The same answer as one body."""

    @abstractmethod
    def refusals(self, words: str) -> list[Refusal]:
        """Every error of the reference that is told by status; `words` is the provider's message in it. At least one
        of each kind but those in `never`. `Retry-After` is added by the server."""

    @abstractmethod
    def in_band(self, kind: WorkerErrorKind, words: str) -> bytes | None:
        """The event or line by which an error of `kind` comes within a stream; None where the protocol has none."""

    def get(self, path: str) -> bytes | None:
        """The JSON that `GET path` answers when all is well (what health looks at); None: 404."""
        return b"{}"

    def build(self, section: AnyWorker) -> ModelWorker:
        return built(section)

    @asynccontextmanager
    async def serving(self, folder: Path, *, tls: Files | None = None, **fields: Any) -> AsyncIterator[Served]:
        from tests.conformance.backends.server import serving  # noqa: PLC0415 - it imports this module

        async with serving(self, tls=tls, **fields) as served:
            yield served


def given(kind: str, **fields: Any) -> AnyWorker:
    """A section; `api_key` is a reference to SECRET where nothing else is said. For kinds without: `api_key=None`."""
    fields = {"api_key": KEY, **fields}
    kept = {name: value for name, value in fields.items() if value is not None}
    return cast(AnyWorker, msgspec.convert({"kind": kind, "name": "w", **kept}, AnyWorker))


def built(section: AnyWorker, data_dir: Path = Path()) -> ModelWorker:
    """The worker of a section, with SECRET behind the reference."""
    return registry.build(section, resolve={KEY: SECRET}.__getitem__, data_dir=data_dir)


async def until(condition: Callable[[], bool], limit: float = 5.0) -> None:
    """A bounded poll; see `Served.until`."""
    async with asyncio.timeout(limit):
        while not condition():
            await asyncio.sleep(0.002)


def encoded(value: Any) -> bytes:
    """JSON with spaces and escapes, as most servers write it: unlike what our own encoder makes."""
    return json.dumps(value).encode()
