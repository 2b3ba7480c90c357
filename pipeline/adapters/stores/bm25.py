"""BM25 as sparse vectors: for stores that multiply and sum, and count in how many chunks a word occurs, themselves.

A chunk's vector holds the saturated frequency of each of its words, a query's vector 1 for each of its words; the
store weighs each word by its inverse document frequency (Robertson and Zaragoza, The Probabilistic Relevance
Framework: BM25 and Beyond, 2009). The average length is a constant, so that a chunk's vector does not depend on the
other chunks.
"""

import re
from collections import Counter
from typing import NamedTuple
from zlib import crc32

K1 = 1.2  # how fast a word's repetitions stop to count
B = 0.75  # how much long chunks are held back
AVERAGE_WORDS = 200
MAX_QUERY_WORDS = 256

# Scripts without spaces are taken character by character: Hiragana, Katakana, Han, Hangul.
_UNSPACED = r"\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"
_TERM = re.compile(rf"[{_UNSPACED}]|[^\W{_UNSPACED}]+")


class Sparse(NamedTuple):
    """`indices` are distinct and ascending; empty when the text has no word."""

    indices: list[int]
    values: list[float]


def of_chunk(text: str) -> Sparse:
    counts = Counter(_terms(text))
    longness = K1 * (1 - B + B * counts.total() / AVERAGE_WORDS)
    return _sparse({term: count * (K1 + 1) / (count + longness) for term, count in counts.items()})


def of_query(text: str) -> Sparse:
    return _sparse(dict.fromkeys(_terms(text)[:MAX_QUERY_WORDS], 1.0))


def _terms(text: str) -> list[int]:
    """A word is its 32-bit hash: two words of one collection share one about never."""
    return [crc32(term.encode("utf-8", "replace")) for term in _TERM.findall(text.casefold())]


def _sparse(weights: dict[int, float]) -> Sparse:
    indices = sorted(weights)
    return Sparse(indices, [weights[i] for i in indices])
