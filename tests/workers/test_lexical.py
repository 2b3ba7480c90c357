"""What only the lexical embedder does."""

from operator import mul

from workers.lexical import Lexical


async def vectors(*texts: str) -> list[list[float]]:
    return await Lexical().embed(texts)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(map(mul, a, b))


async def test_the_hash_is_stable_across_processes_and_releases():
    """A collection outlives the process that made it: the same word must always fall into the same place."""
    (vector,) = await vectors("queue")
    largest = max(range(len(vector)), key=lambda i: abs(vector[i]))
    assert (largest, round(vector[largest], 4)) == (99, -0.6402)


async def test_inflected_words_are_near():
    stem, inflected, other = await vectors("lighthouse keeper", "the lighthouses' keepers", "ferry timetable")
    assert cosine(stem, inflected) > 0.4 > 0.2 > abs(cosine(stem, other))


async def test_case_and_short_words_matter_little():
    plain, dressed = await vectors("channel depth", "The CHANNEL's depth is at a")
    assert cosine(plain, dressed) > 0.8


async def test_texts_without_words_share_one_neutral_vector():
    empty, dots = await vectors("", "...")
    assert empty == dots
    assert sum(x * x for x in empty) == 1.0
