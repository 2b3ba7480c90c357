import time

import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.stages.filters import MaxLength, Redact, Stop, TextChain, TextFilter

PATTERNS = [
    r"\d{3}-\d{4}",
    r"\d+",
    r"\d+(?:-\d+)?",
    r"secret",
    r"\bab?\b",
    r"a.c|b",
    r"(?<=x)y+",
    r"a(?!b)",
    r"[ab]{2,4}?",
    r"ab*c?",
    r"^a",
    r"\d+$",
    r"b(?=\n)|1$",
]


def stream(filter_: TextFilter, pieces: list[str]) -> tuple[str, list[str]]:
    out = []
    for piece in pieces:
        out.append(filter_.feed(piece))
        if filter_.finish_reason is not None:
            return "".join(out), out
    out.append(filter_.flush())
    return "".join(out), out


def redact(pattern: str, max_match: int = 64) -> Redact:
    return Redact(regex.compile(pattern), "#", max_match)


@settings(max_examples=400)
@given(st.sampled_from(PATTERNS), st.lists(st.text("abcxy1-5 secrt\n", max_size=6), max_size=10))
def test_redacting_pieces_equals_redacting_the_whole(pattern: str, pieces: list[str]):
    assert stream(redact(pattern), pieces)[0] == regex.sub(pattern, "#", "".join(pieces))


def test_a_match_across_deltas_is_redacted():
    assert stream(redact(r"\d{3}-\d{4}"), ["call 55", "5-0", "123 now"])[0] == "call # now"


def test_redaction_waits_no_longer_than_its_pattern_needs():
    filter_ = redact(r"\d{3}-\d{4}")
    assert filter_.feed("no digits here") == "no digits here"
    assert filter_.feed(" 12") == " "
    assert filter_.feed("x") == "12x"


def test_what_is_held_back_is_bounded():
    filter_ = redact(r"a.*z", max_match=16)
    given_out = "".join(filter_.feed("a" * 10) for _ in range(100))
    assert len(given_out) >= 1000 - 2 * 16


def test_a_long_text_takes_linear_time():
    pattern = r"\b[\w.+-]+@[\w-]+\.[\w.-]+\b"
    text = "hello world " * 20_000 + "mail me@example.org now"
    began = time.monotonic()
    assert stream(redact(pattern, 256), [text])[0].endswith("mail # now")
    assert time.monotonic() - began < 5


def test_memory_is_bounded():
    filter_ = redact(r"secret", max_match=16)
    for _ in range(1000):
        filter_.feed("nothing to see here ")
    assert len(filter_._text) < 1000


def test_a_pattern_that_backtracks_for_ever_is_stopped():
    filter_ = redact(r"(?:a|a)*(?:a|a)*(?:a|a)*(?:a|a)*b", max_match=4096)
    began = time.monotonic()
    with pytest.raises(TimeoutError):
        stream(filter_, ["a" * 400 + "c" * 30])
    assert time.monotonic() - began < 5


@given(st.lists(st.text("abc", max_size=4), max_size=10))
def test_stop_ends_before_the_first_sequence(pieces: list[str]):
    whole = "".join(pieces)
    found = [at for at in (whole.find("abc"), whole.find("cc")) if at >= 0]
    out, _ = stream(Stop(["abc", "cc"]), pieces)
    if not found:
        assert out == whole
    else:
        assert out == whole[: len(out)]
        assert len(out) <= max(found)
        assert "abc" not in out
        assert "cc" not in out


def test_stop_holds_back_only_what_could_begin_a_sequence():
    filter_ = Stop(["END"])
    assert filter_.feed("hello E") == "hello "
    assert filter_.feed("N") == ""
    assert filter_.feed("x") == "ENx"
    assert filter_.feed("END and more") == ""
    assert filter_.finish_reason == "stop"


def test_max_length_ends_with_length():
    filter_ = MaxLength(5)
    assert stream(filter_, ["abc", "def", "ghi"])[0] == "abcde"
    assert filter_.finish_reason == "length"


def test_an_answer_of_exactly_the_maximum_is_complete():
    filter_ = MaxLength(6)
    assert stream(filter_, ["abc", "def"])[0] == "abcdef"
    assert filter_.finish_reason is None


def test_a_chain_runs_in_order_and_flushes_what_an_ending_leaves_behind():
    chain = TextChain([lambda: Stop(["STOP"]), lambda: redact(r"\d{4}")])
    assert chain.feed("pin 12") == "pin "
    assert chain.feed("34 and 5S") == "# and "
    assert chain.feed("TOP never") == "5"
    assert chain.finish_reason == "stop"
