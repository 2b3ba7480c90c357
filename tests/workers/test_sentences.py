import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.sentences import LONGEST, sentences, terms

MARKDOWN = """Intro line one
goes on. Second sentence! A third?

# Queues

- First item. With two sentences.
- [Second](docs/a.md) item with `code`
  and a second line
1. Numbered item ![picture](x.png)

> Quoted words.

```python
print("Not a sentence. At all.")
```

| key | value |
|-----|-------|
| port | 8080. |

## Limits of queues ##
Last words [12] here.
~~~
unclosed. code.
"""


def texts(text: str) -> list[str]:
    return [sentence.text for sentence in sentences(text)]


def test_markdown():
    assert list(sentences(MARKDOWN)) == [
        ("Intro line one goes on.", ""),
        ("Second sentence!", ""),
        ("A third?", ""),
        ("First item.", "Queues"),
        ("With two sentences.", "Queues"),
        ("Second item with `code` and a second line", "Queues"),
        ("Numbered item", "Queues"),
        ("Quoted words.", "Queues"),
        ("Last words here.", "Limits of queues"),
    ]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", []),
        (" \n\n ", []),
        ("no full stop", ["no full stop"]),
        ("See e.g. The manual. Then go.", ["See e.g. The manual.", "Then go."]),
        ("By J. Smith, i.e. the author. Yes.", ["By J. Smith, i.e. the author.", "Yes."]),
        ("Version 3.11 is out. It is good.", ["Version 3.11 is out.", "It is good."]),
        ("It waits... then goes. Done.", ["It waits... then goes.", "Done."]),
        ('He said "stop." Then he left.', ['He said "stop."', "Then he left."]),
        ("Quoi ? Oui. Élan.", ["Quoi ?", "Oui.", "Élan."]),
        ("列がいっぱいです。要求は断られます。", ["列がいっぱいです。", "要求は断られます。"]),
        ("कतार भरी है। अनुरोध अस्वीकृत है।", ["कतार भरी है।", "अनुरोध अस्वीकृत है।"]),
        ("هل امتلأ؟ نعم.", ["هل امتلأ؟", "نعم."]),
        ("one\u2028two", ["one two"]),
    ],
)
def test_where_sentences_end(text, found):
    assert texts(text) == found


@pytest.mark.parametrize("text", ["word " * 500, "x" * 2000, "。" * 2000, "字" * 2000])
def test_long_sentences_are_cut_into_pieces(text):
    pieces = texts(text)
    assert len(pieces) > 1
    assert max(map(len, pieces)) <= LONGEST + 4
    assert "".join(pieces).replace("…", "").replace(" ", "") == text.replace(" ", "")


@given(st.text(alphabet="ab.!? \n#|-*`>[]()0。？'\"", max_size=300))
def test_any_text_gives_sentences_of_bounded_size(text):
    for sentence in sentences(text):
        assert 0 < len(sentence.text) <= LONGEST + 4


@pytest.mark.parametrize(
    "words",
    [
        "configure configures configured configuration configuring",
        "use uses used using",
        "queue queues queued queueing",
        "retry retries retried retrying",
        "run runs running",
        "process processes processed processing",
        "embed embeds embedded embedding",
        "create creates created creation creating",
        "limit limits limited limitation",
        "Answer ANSWERS answered",
    ],
)
def test_forms_of_a_word_are_one_term(words):
    assert len(set(terms(words))) == 1


def test_different_words_stay_different():
    words = "shed share shard string strong queue quick port part process proxy thing think bring"
    assert len(set(terms(words))) == len(words.split())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("How do I do it?", []),
        ("drain_timeout_ms = 5", ["drain", "timeout", "ms", "5"]),
        ("`server.port`", ["server", "port"]),
        ("Zürich", ["zürich"]),
        ("हिन्दी भाषा", ["हिन्दी", "भाषा"]),  # vowel signs are parts of words
        ("очередь, заполнена", ["очередь", "заполнена"]),
        ("東京都API", ["東京", "京都", "api"]),
        ("水", ["水"]),
        ("Ｐｏｒｔ", ["port"]),  # full width
        ("…!?。 — ", []),
    ],
)
def test_terms_in_any_script(text, found):
    assert terms(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "a" * 10**6,
        ". " * 500_000,
        "." * 10**6,
        ".'" * 500_000,
        "[" * 10**6,
        "[a](" * 250_000,
        "![" * 500_000,
        "A. " * 300_000,
    ],
)
def test_hostile_texts_take_linear_time(text):
    def seconds(text: str) -> float:
        started = time.process_time()
        for sentence in sentences(text):
            terms(sentence.text)
        return time.process_time() - started

    assert seconds(text) < 10 * seconds(text[: len(text) // 4]) + 0.1
