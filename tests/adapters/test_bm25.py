"""BM25 as sparse vectors."""

from pipeline.adapters.stores import bm25


def weight(text: str, word: str) -> float:
    (term,) = bm25.of_query(word).indices
    sparse = bm25.of_chunk(text)
    return dict(zip(sparse.indices, sparse.values, strict=True)).get(term, 0.0)


def test_repetition_counts_less_and_less():
    once, twice, often = (weight("ferry " * n + "x " * (200 - n), "ferry") for n in (1, 2, 50))
    assert 0 < once < twice < often < bm25.K1 + 1
    assert twice < 2 * once


def test_a_word_in_a_long_chunk_counts_less_than_in_a_short_one():
    assert weight("ferry " + "x " * 20, "ferry") > weight("ferry " + "x " * 2000, "ferry")


def test_case_and_punctuation_do_not_matter():
    assert bm25.of_query("The FERRY, leaves!") == bm25.of_query("the ferry leaves")


def test_indices_are_distinct_and_ascending():
    sparse = bm25.of_chunk("b a c a b a ü 灯塔")
    assert sparse.indices == sorted(set(sparse.indices))
    assert len(sparse.indices) == 6


def test_scripts_without_spaces_go_by_character():
    assert set(bm25.of_query("塔").indices) < set(bm25.of_chunk("灯塔每天").indices)
    assert len(bm25.of_query("abc灯塔def").indices) == 4


def test_a_long_query_is_bounded_and_an_empty_one_is_empty():
    assert len(bm25.of_query(" ".join(f"w{i}" for i in range(5000))).indices) <= bm25.MAX_QUERY_WORDS
    assert bm25.of_query(" …! \ud800") == bm25.Sparse([], [])


def test_the_hash_is_stable():
    """Vectors are stored on servers: another release must find the same words."""
    assert bm25.of_query("queue").indices == [2147319651]
