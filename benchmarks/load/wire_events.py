"""The bodies of answers: completions, streams of them, and errors."""

from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import Meta


class Nonsense(Exception):
    """Raised when a body is not what its kind of answer has; the message says in which way."""


class Problem(NamedTuple):
    """What an error says of itself: its `code` (at most 60 characters), and in words (at most 200)."""

    code: str
    text: str


class _Usage(msgspec.Struct, gc=False):
    completion_tokens: Annotated[int, Meta(ge=0)] | None = None


class _Message(msgspec.Struct, gc=False):
    pass


class _Choice(msgspec.Struct, gc=False):
    message: _Message


class _Completion(msgspec.Struct, gc=False):
    choices: Annotated[list[_Choice], Meta(min_length=1)]
    usage: _Usage | None = None


class _Delta(msgspec.Struct, gc=False):
    content: str | list[Any] | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None


class _Part(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class _Chunk(msgspec.Struct, gc=False):
    choices: list[_Part] | None = None
    error: Any = None


_completion = msgspec.json.Decoder(_Completion)
_chunk = msgspec.json.Decoder(_Chunk)
_anything = msgspec.json.Decoder()
_UNREADABLE = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)


def completion_tokens(body: bytes) -> int:
    """Tokens of an unstreamed answer, 1 where it does not say. Raises Nonsense if it is no chat completion."""
    try:
        usage = _completion.decode(body).usage
    except _UNREADABLE as error:
        raise Nonsense(f"no chat completion: {_said(body) or error}") from error
    return 1 if usage is None or usage.completion_tokens is None else usage.completion_tokens


def problem(body: bytes) -> Problem:
    """What an error's body says, in OpenAI's shape or as near to it as it comes."""
    try:
        data = _anything.decode(body)
    except _UNREADABLE:
        return Problem("", body[:400].decode("utf-8", "replace").strip()[:200])
    return _problem(data)


def _problem(data: Any) -> Problem:
    if not isinstance(data, dict):
        return Problem("", _words(data)[:200])
    error = data.get("error")
    fields = error if isinstance(error, dict) else data
    text = fields.get("message") or fields.get("detail") or error
    code = fields.get("code") or fields.get("type") or text
    return Problem(_words(code)[:60] if code else "", _words(text or data)[:200])


def _said(body: bytes) -> str:
    """The error that is there in an answer's place, if it is one."""
    try:
        data = _anything.decode(body)
    except _UNREADABLE:
        return ""
    if not isinstance(data, dict) or not data.get("error"):
        return ""
    found = _problem(data)
    return f"error {found.code}: {found.text}"


def _words(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


class Events:
    """Server-sent events of a chat completion, cut anywhere. Lines end as the HTML standard allows.

    `done`: `[DONE]` came. `finished`: a finish reason came. `begun`: a chunk with a choice came. `error`: the error
    that came; nothing counts after it.
    """

    __slots__ = ("_limit", "_parts", "_return", "_size", "begun", "done", "error", "finished")

    def __init__(self, limit: int) -> None:
        self.done = False
        self.finished = False
        self.begun = False
        self.error: Problem | None = None
        self._limit = limit
        self._parts: list[bytes] = []  # of an event that is not whole
        self._size = 0
        self._return = False  # the last byte was a carriage return: a line feed after it is the same line's end

    def feed(self, data: bytes) -> int:
        """How many tokens came with it. Raises Nonsense."""
        if self._return or b"\r" in data:
            data = self._with_line_feeds(data)
        if self._parts:
            if b"\n\n" not in data and not (data[:1] == b"\n" and self._parts[-1][-1:] == b"\n"):
                return self._keep(data)
            data = b"".join((*self._parts, data))
            self._parts.clear()
            self._size = 0
        *events, rest = data.split(b"\n\n")
        if rest:
            self._keep(rest)
        return sum([self._event(event) for event in events])

    def _keep(self, data: bytes) -> int:
        if data:
            self._parts.append(data)
            self._size += len(data)
            if self._size > self._limit:
                raise Nonsense(f"an event of more than {self._limit} bytes")
        return 0

    def _with_line_feeds(self, data: bytes) -> bytes:
        if self._return and data.startswith(b"\n"):
            data = data[1:]
            self._return = False
        if data:
            self._return = data.endswith(b"\r")
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

    def _event(self, event: bytes) -> int:
        name = b""
        if event.startswith(b"data: ") and b"\n" not in event:  # as nearly all are
            payload = event[6:]
        else:
            name, payload = _fields(event)
        if not payload or self.done or self.error is not None:
            return 0
        if payload.startswith(b"[DONE]"):
            self.done = True
            return 0
        try:
            chunk = _chunk.decode(payload)
        except _UNREADABLE as error:
            raise Nonsense(f"an event that is no chunk of a chat completion: {error}") from error
        if chunk.error or name == b"error":
            self.error = problem(payload)
            return 0
        return self._tokens(chunk.choices) if chunk.choices else 0

    def _tokens(self, choices: list[_Part]) -> int:
        self.begun = True
        first = choices[0]
        if first.finish_reason:
            self.finished = True
        delta = first.delta
        if delta is not None and (delta.content or delta.reasoning_content or delta.reasoning or delta.tool_calls):
            return 1
        return 1 if first.text else 0


def _fields(event: bytes) -> tuple[bytes, bytes]:
    """An event's name and data, as the HTML standard reads them."""
    name, data = b"", []
    for line in event.split(b"\n"):
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            data.append(value)
        elif field == b"event":
            name = value
    return name, b"\n".join(data)
