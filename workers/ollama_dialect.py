"""Ollama's own chat and embed as bytes: requests from ours. No I/O. Answers are read in `workers.ollama_answers`.

Source: Ollama API reference, "Generate a chat message", "Generate embeddings", "Errors"; for `truncate`, ids of tool
calls and the words of errors, the types and routes of its server.
"""

import base64
import binascii
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, Raw

from config.schema import OllamaWorker
from workers.asked import Asked, Call, Image, Tool, Turn, asked, bad
from workers.base import EmbeddingRequest, GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind
from workers.refusals import message_in, status_error

_CANCELLED = 499
_SAME_NAME = ("frequency_penalty", "presence_penalty", "top_k", "min_p", "repeat_penalty")
_THINK: dict[str, bool | str] = {"none": False, "minimal": "low", "xhigh": "high"}  # the others it calls the same
_NOTHING = Raw(b"{}")
_TOO_LONG = ("longer than the context", "exceeds the context", "available context size")
_BY_WORDS: tuple[tuple[WorkerErrorKind, tuple[str, ...]], ...] = (
    (WorkerErrorKind.CONTEXT_TOO_LONG, _TOO_LONG),
    (WorkerErrorKind.OVERLOADED, ("server busy", "maximum pending requests")),
    (WorkerErrorKind.RATE_LIMITED, ("too many requests", "rate limit", "usage limit")),
    (WorkerErrorKind.AUTH, ("unauthorized",)),
    (WorkerErrorKind.BAD_REQUEST, ("does not support", "try pulling it first")),
)


def encode_request(request: GenerationRequest, section: OllamaWorker) -> bytes:
    """The body of a call to chat. Raises `WorkerError` for what Ollama has no words for."""
    wish = asked(request)
    if wish.choice == "required":
        raise bad("tool_choice: Ollama cannot be made to call a tool")
    fields: dict[str, Any] = {
        "model": section.model or request.model,
        "messages": _messages(wish.turns),
        "stream": request.stream,
        "options": _options(wish, section),
        "truncate": False,  # else it leaves out messages without a word when they are too long
    }
    if wish.tools and wish.choice == "auto":
        fields["tools"] = [_tool(tool) for tool in wish.tools]
    if wish.answer == "json":
        fields["format"] = "json" if wish.schema is None else wish.schema
    if wish.effort is not None:
        fields["think"] = _THINK.get(wish.effort, wish.effort)
    return msgspec.json.encode({**fields, **_keeping(section)})


def encode_embed(request: EmbeddingRequest, texts: Sequence[str], section: OllamaWorker) -> bytes:
    """The body of a call to embed. What a client sends has to fit, as in OpenAI's dialect; of what is embedded for a
    collection, the beginning counts."""
    fields: dict[str, Any] = {
        "model": section.model or request.model,
        "input": texts,
        "options": {"num_ctx": section.context_tokens},
        "truncate": request.purpose is not None,
    }
    if request.dimensions is not None:
        fields["dimensions"] = request.dimensions
    return msgspec.json.encode({**fields, **_keeping(section)})


def refused(status: int, headers: Mapping[str, str], body: bytes, *, now: float, secrets: Sequence[str]) -> WorkerError:
    """The error for an answer whose status is not 2xx; `body` may be cut."""
    words = message_in(body)
    if words.startswith("{"):  # what the server of the model said, as it was
        body, words = words.encode(), message_in(words.encode())
    kind = WorkerErrorKind.UNAVAILABLE if status == _CANCELLED else None  # not by us: we do not listen any more then
    if any(sign in words.lower() for sign in _TOO_LONG):
        kind = WorkerErrorKind.CONTEXT_TOO_LONG
    return status_error(status, headers, body, now=now, secrets=secrets, kind=kind)


def error_kind(words: str) -> WorkerErrorKind | None:
    """What an error says that came without a status."""
    words = words.lower()
    return next((kind for kind, signs in _BY_WORDS if any(sign in words for sign in signs)), None)


def _messages(turns: Sequence[Turn]) -> list[dict[str, Any]]:
    names: dict[str, str] = {}  # of the tools that were called, by the calls' ids: their results are told by name
    messages = []
    for at, turn in enumerate(turns):
        message: dict[str, Any] = {"role": turn.role, "content": turn.text}
        if turn.images:
            message["images"] = [_image(image, f"messages[{at}]") for image in turn.images]
        if turn.calls:
            message["tool_calls"] = [_call(call, f"messages[{at}]") for call in turn.calls]
            names.update({call.id: call.function.name for call in turn.calls})
        if turn.reasoning:
            message["thinking"] = turn.reasoning
        if turn.role == "tool":
            message["tool_call_id"] = turn.call_id
            if turn.call_id in names:
                message["tool_name"] = names[turn.call_id]
        messages.append(message)
    return messages


def _image(image: Image, where: str) -> str:
    """An image's bytes in base64, which Ollama takes without what a data: URL says about them."""
    about, comma, data = image.url.partition(",")
    if not (comma and about.startswith("data:") and about.endswith(";base64")):
        raise bad(f"{where}: Ollama takes images only as data: URLs in base64")
    try:
        base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise bad(f"{where}: an image is not in base64") from error
    return data


def _call(call: Call, where: str) -> dict[str, Any]:
    """Ollama wants the arguments as the object that OpenAI's dialect has the text of."""
    text = call.function.arguments.strip().encode()
    arguments = Raw(text) if text else _NOTHING
    try:
        msgspec.json.decode(arguments, type=dict[str, Raw])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise bad(f"{where}: the arguments of the call of {call.function.name!r} are not a JSON object") from error
    told = {"function": {"name": call.function.name, "arguments": arguments}}
    return {"id": call.id, **told} if call.id else told


def _options(wish: Asked, section: OllamaWorker) -> dict[str, Any]:
    """Without `num_ctx` the window is Ollama's default, whatever the model could read."""
    given = wish.parameters
    found = {
        "num_ctx": section.context_tokens,
        "num_predict": given.max_tokens,
        "temperature": given.temperature,
        "top_p": given.top_p,
        "stop": given.stop or None,
        "seed": given.seed,
    }
    return {**wish.given(_SAME_NAME), **{name: value for name, value in found.items() if value is not None}}


def _tool(tool: Tool) -> dict[str, Any]:
    function = tool.function
    found: dict[str, Any] = {"name": function.name}
    if function.description is not None:
        found["description"] = function.description
    if function.parameters is not UNSET:
        found["parameters"] = function.parameters
    return {"type": "function", "function": found}


def _keeping(section: OllamaWorker) -> dict[str, Any]:
    """A bare number has to be one: seconds, or for ever below zero. As a text, Ollama wants a unit after it."""
    value = section.keep_alive
    if value is None:
        return {}
    number = value.strip()
    return {"keep_alive": int(number) if number.removeprefix("-").isdecimal() else value}
