"""The `lexical` embedder: hashed words and parts of words. No model, nothing to install.

It finds texts that share words or word stems with the question, in any language; it knows nothing of meaning.
"""

import asyncio
import math
import re
from collections import Counter
from collections.abc import Sequence
from zlib import crc32

DIMENSION = 384
GRAM = 4  # characters of a part of a word, counted with a mark at both ends of the word
GRAM_WEIGHT = 1.2  # of all parts of a word together, the word itself being 1
SHORT_WORD = 3  # words up to this length are mostly articles and prepositions
SHORT_WEIGHT = 0.25
MAX_CHARS = 32_768  # of a text; the rest is not looked at

_WORD = re.compile(r"\w+")


class Lexical:
    """An `Embedder` by the hashing trick: every word and every part of one adds its damped count, with a sign, to a
    dimension chosen by a stable hash."""

    name = "lexical"
    dimension = DIMENSION
    fingerprint = f"lexical.1.{DIMENSION}"

    async def warm(self) -> None:
        return None

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]:  # noqa: ARG002 - the same
        return await asyncio.to_thread(lambda: [_vector(text) for text in texts])

    async def aclose(self) -> None:
        return None


def _vector(text: str) -> list[float]:
    words = Counter(_WORD.findall(text[:MAX_CHARS].casefold()))
    vector = [0.0] * DIMENSION
    for word, count in words.items():
        weight = math.sqrt(count) * (SHORT_WEIGHT if len(word) <= SHORT_WORD else 1.0)
        _add(vector, word, weight)
        marked = f"^{word}$"
        grams = {marked[i : i + GRAM] for i in range(len(marked) - GRAM + 1)}
        for gram in sorted(grams):
            _add(vector, "#" + gram, weight * GRAM_WEIGHT / math.sqrt(len(grams)))
    length = math.sqrt(sum(x * x for x in vector))
    if not length:  # no word in it, or all cancelled out: a direction of its own
        return [1.0] + [0.0] * (DIMENSION - 1)
    return [x / length for x in vector]


def _add(vector: list[float], feature: str, weight: float) -> None:
    hashed = crc32(feature.encode("utf-8", "replace"))
    vector[hashed % DIMENSION] += weight if hashed >> 31 else -weight
