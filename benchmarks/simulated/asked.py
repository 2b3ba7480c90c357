"""What a client asks, and how it is told that it cannot have it."""

import re
from collections.abc import Mapping
from typing import Annotated

import msgspec
from aiohttp import web
from msgspec import Meta

MODEL = "simulated"
_MARK = re.compile(rb"#([0-9a-f]{8})\.(\d{1,9})\b")

Tokens = Annotated[int, Meta(ge=1, le=1_000_000)]


class Part(msgspec.Struct):
    text: str = ""


class Message(msgspec.Struct):
    role: str
    content: str | list[Part] | None = None


class StreamOptions(msgspec.Struct):
    include_usage: bool | None = None


class Asked(msgspec.Struct):
    """The fields of a chat completion that make a difference here; others are allowed and ignored."""

    messages: Annotated[list[Message], Meta(min_length=1)]
    model: str = MODEL
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    n: Annotated[int, Meta(ge=1, le=1)] | None = None

    @property
    def tokens(self) -> int | None:
        return self.max_completion_tokens if self.max_tokens is None else self.max_tokens

    @property
    def usage(self) -> bool:
        """Whether a stream is to end with a chunk of usage."""
        return self.stream_options is not None and bool(self.stream_options.include_usage)

    def words(self) -> int:
        return sum(_words(message.content) for message in self.messages)


def _words(content: str | list[Part] | None) -> int:
    if isinstance(content, str):
        return len(content.split())
    return sum(len(part.text.split()) for part in content or ())


_decoder = msgspec.json.Decoder(Asked)


def decode(body: bytes) -> Asked:
    """Raises msgspec.DecodeError, which says what is wrong and where."""
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise msgspec.DecodeError(f"the body is no JSON: {error}") from error


def mark(body: bytes) -> tuple[str, int] | None:
    """The run and number that a load generator wrote into a prompt (`#0123abcd.17`), wherever a gateway left it."""
    found = _MARK.search(body)
    return (found[1].decode(), int(found[2])) if found else None


def error(status: int, message: str, code: str, headers: Mapping[str, str] | None = None) -> web.Response:
    """An error as OpenAI's clients expect it."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    body = {"error": {"message": message, "type": kind, "param": None, "code": code}}
    return web.Response(body=msgspec.json.encode(body), status=status, headers=headers, content_type="application/json")
