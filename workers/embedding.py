"""What the workers have in common whose backends embed so many texts in one call."""

from collections.abc import Awaitable, Callable, Sequence

from workers.asked import bad
from workers.base import EmbeddingRequest, Embeddings, Usage
from workers.reading import malformed

Vectors = list[tuple[float, ...]]


async def in_batches(
    request: EmbeddingRequest,
    size: int,
    embed: Callable[[Sequence[str]], Awaitable[tuple[Vectors, int]]],
    *,
    model: str | None,
) -> Embeddings:
    """`request` in calls of `embed` with at most `size` texts, one after the other: it gives their vectors, and how
    many tokens they had. `model` is the backend's name of the model, where that is not the client's. Raises
    `WorkerError` for inputs that are tokens."""
    texts = [text for text in request.inputs if isinstance(text, str)]
    if len(texts) != len(request.inputs):
        raise bad("input: this backend embeds texts, not tokens")
    vectors: Vectors = []
    tokens = 0
    for at in range(0, len(texts), size):
        found, read = await embed(texts[at : at + size])
        vectors += found
        tokens += read
    return Embeddings(tuple(vectors), Usage(tokens, 0), model=model or "")


def checked(vectors: Vectors, texts: Sequence[str]) -> Vectors:
    """Raises `WorkerError` where there is not one vector for each text, or they differ in length."""
    if len(vectors) != len(texts):
        raise malformed(f"it has {len(vectors)} vectors for {len(texts)} texts")
    if len({len(vector) for vector in vectors}) > 1 or not all(vectors):
        raise malformed("its vectors are not of one length")
    return vectors
