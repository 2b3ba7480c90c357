"""Chunks: bounded, never empty, nothing lost, the same every time, along the structure of the document."""

import time
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.knowledge.chunking import MAX_TITLE_CHARS, chunk

SENTENCES = " ".join(f"Sentence number {i} says one thing." for i in range(200))


def texts(suffix: str, content: str, size: int = 400, overlap: int = 60) -> list[str]:
    return [part.text for part in chunk(suffix, content, size, overlap)]


prose = st.lists(
    st.text("abc défg灯。.!?\n\t \"'", max_size=120)
    | st.sampled_from(["# Head\n", "```\ncode\n```\n", "\n\n", "- x\n"]),
    max_size=40,
).map("".join)


@given(prose, st.sampled_from([".md", ".txt", ".html"]), st.integers(200, 500), st.integers(0, 600))
@settings(max_examples=300, deadline=None)
def test_bounded_never_empty_and_the_same_every_time(content: str, suffix: str, size: int, overlap: int):
    parts = chunk(suffix, content, size, overlap)
    assert parts == chunk(suffix, content, size, overlap)
    assert all(0 < len(part.text) <= size and part.text == part.text.strip("\n") for part in parts)
    assert bool(parts) or not any(c.isalnum() for c in content)


@given(prose, st.integers(200, 500), st.integers(0, 600))
@settings(max_examples=300, deadline=None)
def test_of_plain_text_nothing_is_lost_and_the_order_stays(content: str, size: int, overlap: int):
    """Walking through the document, every chunk is found, and leaves nothing but white space between itself and the one
    before (which it may overlap)."""
    flat = "".join(content.split())
    reached = 0
    for text in texts(".txt", content, size, overlap):
        squeezed = "".join(text.split())
        at = flat.find(squeezed, max(0, reached - len(squeezed)))
        assert 0 <= at <= reached
        reached = at + len(squeezed)
    assert reached == len(flat)


def test_long_text_is_cut_after_sentences_and_overlaps_by_whole_sentences():
    parts = texts(".txt", SENTENCES)
    assert len(parts) > 10
    assert all(part.endswith("thing.") and part.startswith("Sentence") for part in parts)
    for before, after in pairwise(parts):
        shared = after[: after.index("thing.") + 6]
        assert before.endswith(shared)
        assert len(shared) <= 60


def test_without_overlap_parts_meet_exactly():
    assert " ".join(texts(".txt", SENTENCES, 400, 0)) == SENTENCES


def test_words_are_kept_where_there_are_no_sentences_and_cut_where_there_are_no_words():
    assert all(set(part.split()) == {"word"} for part in texts(".txt", "word " * 500))
    assert [len(part) for part in texts(".txt", "x" * 1000, 400, 0)] == [400, 400, 200]


def test_paragraphs_stay_together_where_they_fit():
    parts = texts(".txt", f"{'a ' * 90}\n\n{'b ' * 90}\n\n{'c ' * 90}", 400, 0)
    assert parts == [f"{('a ' * 90).strip()}\n\n{('b ' * 90).strip()}", ("c " * 90).strip()]


def test_sections_are_chunks_with_their_heading_path():
    parts = chunk(".md", "intro\n# A\none\n## B `x` [l](u)\ntwo\n\nthree\n### C\n#### D\nfour\n# E\n", 400, 60)
    assert [(p.title, p.text) for p in parts] == [
        ("", "intro"),
        ("A", "one"),
        ("A > B x l", "two\n\nthree"),
        ("A > B x l > C > D", "four"),
        ("E", "E"),
    ]


def test_headings_alone_are_not_lost():
    assert [p.text for p in chunk(".md", "# Buy\n## Milk\n## Bread\n", 400, 60)] == ["Milk", "Bread"]


def test_code_stays_whole_where_it_fits_and_is_cut_at_lines_where_not():
    code = "```python\n" + "\n".join(f"line_{i} = {i}" for i in range(18)) + "\n```"
    assert len(code) < 400
    parts = texts(".md", f"{'Before. ' * 30}\n\n{code}\n\n{'After. ' * 30}")
    assert sum(code in part for part in parts) == 1
    long = "```\n" + "\n".join(f"line_{i} = {i}" for i in range(200)) + "\n```"
    for part in texts(".md", long):
        assert all(line.startswith("line_") or line == "```" for line in part.split("\n"))


def test_tables_stay_whole_where_they_fit():
    table = "| a | b |\n|---|---|\n" + "\n".join(f"| {i} | {i * i} |" for i in range(20))
    assert sum(table in part for part in texts(".md", f"{'Before. ' * 40}\n\n{table}\n\n{'After. ' * 40}")) == 1


def test_an_overlap_as_large_as_the_chunk_still_ends():
    assert 5 < len(texts(".txt", SENTENCES, 200, 5000)) < 200


def test_a_title_is_bounded():
    (part,) = chunk(".md", f"# {'long ' * 1000}\ntext", 400, 60)
    assert len(part.title) == MAX_TITLE_CHARS


@pytest.mark.parametrize("content", ["", " \n\t\n", "\ufeff".strip("\ufeff"), "\n" * 1000])
@pytest.mark.parametrize("suffix", [".md", ".txt", ".html"])
def test_nothing_in_nothing_out(suffix: str, content: str):
    assert chunk(suffix, content, 400, 60) == []


@pytest.mark.parametrize("suffix", [".md", ".txt", ".html"])
@pytest.mark.parametrize(
    "content", ["x" * 4_000_000, "word sentence. " * 250_000, "a\n" * 150_000, "```\nx\n```\n" * 60_000]
)
def test_time_is_linear_in_the_document(suffix: str, content: str):
    began = time.process_time()
    chunk(suffix, content, 1200, 150)
    assert time.process_time() - began < 8
