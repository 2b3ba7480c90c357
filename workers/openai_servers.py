"""What some servers of OpenAI's dialect tell beside it, at their root: vLLM's and llama.cpp's tokenizers, llama.cpp's
slots. No I/O.

Sources: vLLM, "OpenAI-Compatible Server" (Tokenizer API); llama.cpp, the server's README (`/tokenize`,
`/apply-template`, `/props`, `/slots`).
"""

import re
from typing import Any, Literal, NamedTuple

import msgspec

from workers.base import GenerationRequest
from workers.openai_dialect import message_json
from workers.openai_fields import UNDECODABLE, decode_fields

Tokenizer = Literal["vllm", "llama.cpp", "none"]

# Statuses by which a server says that it serves nothing there: known for good.
ABSENT = frozenset({401, 403, 404, 405, 410, 421, 501})
_SHAPING = ("tools", "chat_template", "chat_template_kwargs")  # fields of a request that make its prompt longer
_version = re.compile(r"/v\d+[a-z]*\d*$").search


class Capacity(NamedTuple):
    slots: int | None = None
    context_tokens: int | None = None


class _Count(msgspec.Struct):
    count: int


class _Tokens(msgspec.Struct):
    tokens: list[msgspec.Raw]


class _Prompt(msgspec.Struct):
    prompt: str


class _Generation(msgspec.Struct):
    n_ctx: int | None = None


class _Props(msgspec.Struct):
    total_slots: int | None = None
    default_generation_settings: _Generation | None = None


class _Slot(msgspec.Struct):
    n_ctx: int | None = None


class _Meta(msgspec.Struct):
    n_ctx: int | None = None


class _Model(msgspec.Struct):
    id: str = ""
    max_model_len: int | None = None  # vLLM's
    meta: _Meta | None = None  # llama.cpp's


class _Models(msgspec.Struct):
    data: list[_Model]


def root(url: str) -> str:
    """The server's address without the version of the API."""
    found = _version(url)
    return url[: found.start()] if found else url


def conversation(request: GenerationRequest, model: str) -> bytes:
    """What is to be counted, as both servers take it: a conversation and what its template looks at. Raises what
    `UNDECODABLE` names."""
    fields = decode_fields(request.body) if request.body else {}
    asked: dict[str, Any] = {name: fields[name] for name in _SHAPING if name in fields}
    asked["model"] = model
    if request.rewritten or "messages" not in fields:
        asked["messages"] = [message_json(message) for message in request.messages]
    else:
        asked["messages"] = fields["messages"]
    return msgspec.json.encode(asked)


def text(prompt: str, model: str) -> bytes:
    """A prompt that is no conversation: each server takes its own one of the two fields."""
    return msgspec.json.encode(
        {"model": model, "prompt": prompt, "content": prompt, "add_special": True, "parse_special": True}
    )


def counted(body: bytes) -> int | None:
    """vLLM's count of tokens; None where that is no such answer."""
    found = _decoded(body, _Count)
    return None if found is None else found.count


def listed(body: bytes) -> int | None:
    """How many tokens llama.cpp gave; None where that is no such answer."""
    found = _decoded(body, _Tokens)
    return None if found is None else len(found.tokens)


def templated(body: bytes) -> str | None:
    found = _decoded(body, _Prompt)
    return None if found is None else found.prompt


def props(body: bytes) -> Capacity:
    """llama.cpp's `/props`."""
    found = _decoded(body, _Props)
    if found is None:
        return Capacity()
    settings = found.default_generation_settings or _Generation()
    return Capacity(_positive(found.total_slots), _positive(settings.n_ctx))


def slots(body: bytes) -> Capacity:
    """llama.cpp's `/slots`."""
    found = _decoded(body, list[_Slot])
    return Capacity(len(found), _positive(found[0].n_ctx)) if found else Capacity()


def models(body: bytes, model: str | None) -> int | None:
    """The window of `model`, or of the only one, where the list of models tells."""
    found = _decoded(body, _Models)
    known = [] if found is None else found.data
    for entry in known:
        if entry.id == model or len(known) == 1:
            return _positive(entry.max_model_len) or _positive((entry.meta or _Meta()).n_ctx)
    return None


def _decoded(body: bytes, kind: Any) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except UNDECODABLE:
        return None


def _positive(value: int | None) -> int | None:
    return value if value is not None and value > 0 else None
