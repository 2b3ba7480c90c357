"""Server-sent events (WHATWG HTML, section 9.2), and writing without a task."""

import types
from collections.abc import Awaitable, Coroutine, Generator
from typing import Any, Protocol

import msgspec

from pipeline.core.errors import HeadgateError
from pipeline.core.messages import PostOutput
from pipeline.core.ports import Answer
from workers.base import Usage

COMMENT = b": keep-alive\n\n"


class Encoder(Protocol):
    """A dialect's stream of one answer, as bytes. Methods may return b"" for nothing."""

    def begin(self, message: PostOutput) -> None:
        """The first delta has come; what is to be told now goes out with it."""
        ...

    def deltas(self, answer: Answer) -> bytes: ...

    def finish(self, usage: Usage | None) -> bytes: ...

    def error(self, error: HeadgateError) -> bytes: ...


def data(json: bytes) -> bytes:
    """A frame without a name. JSON may span lines, a frame's field may not."""
    if b"\n" in json or b"\r" in json:
        json = msgspec.json.format(json, indent=-1)
    return b"data: " + json + b"\n\n"


def event(name: bytes, json: bytes) -> bytes:
    """A named frame with JSON of our own, which is one line."""
    return b"event: " + name + b"\ndata: " + json + b"\n\n"


def eager(coroutine: Coroutine[Any, Any, Any]) -> Awaitable[None] | None:
    """Runs a coroutine up to where it has to wait: None when it is done, else what to await for the rest of it.

    aiohttp's writes are coroutines that wait only when the client is behind; most need no task to run in.
    """
    try:
        waiting_for = coroutine.send(None)
    except StopIteration:
        return None
    return _rest(coroutine, waiting_for)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, Any], waiting_for: Any) -> Generator[Any, None, None]:
    """Gives the event loop the future that `coroutine` is waiting for, then goes on with it."""
    try:
        yield waiting_for
    except BaseException:  # cancelled: as if it had been awaited all along
        coroutine.close()
        raise
    yield from coroutine
