import time

import pytest

from workers.tokens import estimate


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("a", 1),
        ("abcd", 1),
        ("abcde", 2),
        ("hello world, how are you", 6),
        ("日本語", 3),
        ("née", 2),  # two ASCII letters and one that is not
        ("\ud800", 1),  # a lone surrogate cannot be encoded
        ("abcd\U0001f600", 2),
    ],
)
def test_four_ascii_characters_or_one_other_is_a_token(text, tokens):
    assert estimate(text) == tokens


@pytest.mark.parametrize("text", ["word " * 1_000_000, "日本" * 1_000_000], ids=["ascii", "han"])
def test_megabytes_take_milliseconds(text):
    started = time.process_time()
    estimate(text)
    assert time.process_time() - started < 0.1
