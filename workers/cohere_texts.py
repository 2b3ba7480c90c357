"""Cohere's calls that are about texts alone, as bytes: embed (version 2) and tokenize. No I/O.

Source: Cohere API reference, "Embed" (v2), "Tokenize" (v1, which version 2 still uses).
"""

from collections.abc import Sequence
from typing import Any

import msgspec

from workers.asked import asked
from workers.base import EmbeddingRequest, GenerationRequest
from workers.cohere_dialect import told_tool, usage_of
from workers.embedding import Vectors, checked
from workers.reading import decoded

MAX_TEXTS = 96  # of one call to embed
_MAX_TOKENIZED = 65_536  # characters of one call to tokenize
_MAX_CALLS = 8  # to tokenize, for one prompt
_INPUT_TYPES = {"query": "search_query", "document": "search_document", None: "search_document"}


class _Vectors(msgspec.Struct):
    float: list[tuple[float, ...]]


class _Embedded(msgspec.Struct):
    embeddings: _Vectors
    meta: Any = None


class _Tokenized(msgspec.Struct):
    tokens: list[int]


_decode_embedded = msgspec.json.Decoder(_Embedded)
_decode_tokenized = msgspec.json.Decoder(_Tokenized)


def encode_embed(request: EmbeddingRequest, texts: Sequence[str], *, model: str | None) -> bytes:
    """The body of a call to embed, for at most `MAX_TEXTS` texts."""
    fields: dict[str, Any] = {
        "model": model or request.model,
        "texts": texts,
        "input_type": _INPUT_TYPES[request.purpose],
        "embedding_types": ["float"],
    }
    if request.dimensions is not None:
        fields["output_dimension"] = request.dimensions
    return msgspec.json.encode(fields)


def decode_embedded(body: bytes, texts: Sequence[str]) -> tuple[Vectors, int]:
    """The vectors of a call to embed, and the tokens that it read. Raises `WorkerError`."""
    answer = decoded(_decode_embedded, body)
    usage = usage_of(answer.meta)
    return checked(answer.embeddings.float, texts), 0 if usage is None else usage.prompt_tokens


def encode_tokenize(request: GenerationRequest, *, model: str | None) -> list[bytes] | None:
    """The bodies of the calls that count a prompt's tokens together; None where they could not. Raises `WorkerError`.

    They count the words; the marks that the model's template sets around messages it does not tell.
    """
    wish = asked(request)
    if any(turn.images for turn in wish.turns):
        return None
    texts = [turn.text for turn in wish.turns]
    texts += [call.function.arguments for turn in wish.turns for call in turn.calls]
    texts += [msgspec.json.encode(told_tool(tool)).decode() for tool in wish.tools]
    text = "\n".join(texts)
    if len(text) > _MAX_CALLS * _MAX_TOKENIZED:
        return None
    pieces = [text[at : at + _MAX_TOKENIZED] for at in range(0, len(text), _MAX_TOKENIZED)]
    return [msgspec.json.encode({"text": piece, "model": model or request.model}) for piece in pieces]


def decode_tokenized(body: bytes) -> int:
    """How many tokens a text has. Raises `WorkerError`."""
    return len(decoded(_decode_tokenized, body).tokens)
