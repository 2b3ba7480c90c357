"""What OpenAI's embeddings look like on the wire, as far as Headgate makes or reads them.

Source: OpenAI API reference, "Embeddings".
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from pipeline.edge import decode

INPUTS_MAX = 2048
TOKEN_MAX = 2**31 - 1

Text = Annotated[str, Meta(min_length=1)]
Token = Annotated[int, Meta(ge=0, le=TOKEN_MAX)]
Tokens = Annotated[list[Token], Meta(min_length=1)]
Dimensions = Annotated[int, Meta(ge=1, le=65_536)]


class EmbeddingFields(msgspec.Struct, kw_only=True, frozen=True):
    model: decode.Name
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Dimensions | None = None


class EmbeddingBody(EmbeddingFields, kw_only=True, frozen=True):
    """A request as it is decoded: the input has more forms than its type can tell apart."""

    input: str | list[Any]


class EmbeddingsRequest(EmbeddingFields, kw_only=True, frozen=True):
    """A request for embeddings. `input` may be a list of token ids too, or a list of such lists. Fields that are not
    described here reach an OpenAI-compatible backend as they are."""

    input: Text | Annotated[list[Text], Meta(min_length=1, max_length=INPUTS_MAX)]


class EmbeddingUsage(msgspec.Struct, frozen=True):
    prompt_tokens: int
    total_tokens: int


class Embedding(msgspec.Struct, kw_only=True, frozen=True):
    """One input's vector; as text it is base64 of 32-bit numbers, the lowest byte first."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingList(msgspec.Struct, kw_only=True, frozen=True):
    """The vectors, in the order of the inputs."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingUsage
