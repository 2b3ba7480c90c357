import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.helpers import ask, section, told
from workers.base import Passage
from workers.extractive import NOTHING, Extractive, compose

BACKPRESSURE = """Every stage has a bounded queue. When a queue is full the request is shed at once, with a 503 answer.
A shed request never reaches the model. Clients should retry after the time in `Retry-After`."""
SESSIONS = """A session always lands on the same shard. When its owner dies the session moves to another shard.
Rendezvous hashing decides which shard owns a session."""
SETTINGS = """The `port` key sets the port on which the server listens. Its default is 8080.
Change it with the environment variable `HEADGATE__SERVER__PORT`."""


def passages(*texts: str, title: str = "") -> tuple[Passage, ...]:
    return tuple([Passage(text, f"{at}.md", 0, 1.0 - at / 10, title) for at, text in enumerate(texts)])


THREE = passages(BACKPRESSURE, SESSIONS, SETTINGS)


def answer(question: str, given=THREE, *, max_sentences: int = 3, min_match: float = 0.34) -> str:
    return compose(question, given, max_sentences=max_sentences, min_match=min_match)


@pytest.mark.parametrize(
    ("question", "sentence", "number"),
    [
        (
            "What happens when a queue is full?",
            "When a queue is full the request is shed at once, with a 503 answer.",
            1,
        ),
        (
            "Which shard does a session move to when its owner died?",
            "When its owner dies the session moves to another shard.",
            2,
        ),
        ("How do I change the port of the server?", "The `port` key sets the port on which the server listens.", 3),
        ("HEADGATE__SERVER__PORT", "Change it with the environment variable `HEADGATE__SERVER__PORT`.", 3),
    ],
)
def test_the_sentence_that_answers_is_quoted_with_its_number(question, sentence, number):
    assert f"{sentence} [{number}]" in answer(question)


@pytest.mark.parametrize(
    "question",
    [
        "Who won the football world cup in 2018?",
        "How do I do it?",
        "",
        "?!",
        "Comment cuire un gâteau au chocolat ?",
        "猫は好きですか",
    ],
)
def test_it_says_when_nothing_answers(question):
    assert answer(question) == NOTHING
    assert not re.search(r"\[\d", NOTHING)


def test_it_says_when_nothing_was_retrieved():
    assert answer("What happens when a queue is full?", ()) == NOTHING
    assert answer("What happens when a queue is full?", passages("", "```\nqueue full\n```")) == NOTHING


def test_no_more_sentences_than_asked_for():
    given = passages(
        *[f"The queue number {n} is full of {word}." for n, word in enumerate(("red", "green", "blue", "grey"), 1)]
    )
    for limit in (1, 2, 3):
        assert len(re.findall(r"\[\d\]", answer("Which queue is full?", given, max_sentences=limit))) == limit


def test_the_match_asked_for_is_kept():
    question = "queue full shard session"
    assert answer(question, min_match=1.0) == NOTHING
    assert answer(question, min_match=0.3) != NOTHING
    assert answer(question, min_match=0.0) != NOTHING


def test_the_same_is_not_said_twice():
    again = "When a queue is full, the request is shed at once with a 503 answer!"
    found = answer("What happens when a queue is full?", passages(BACKPRESSURE, BACKPRESSURE, again))
    assert found.count("is full") == 1
    assert found.endswith("[1]")


def test_the_better_passage_wins_between_equals():
    given = passages("A full queue sheds.", "A queue that is full of work sheds requests.")
    assert answer("full queue", given, max_sentences=1).endswith("[1]")
    assert answer("full queue", given[::-1], max_sentences=1).endswith("[1]")


def test_sentences_of_a_passage_stand_together_in_their_order():
    given = passages(
        "Sheds happen. The red queue sheds when full.", "A queue is full. Later the full red queue sheds red work."
    )
    found = answer("When does the full red queue shed?", given)
    numbers = re.findall(r"\[(\d)\]", found)
    assert numbers == sorted(numbers, key=numbers.index)


def test_the_heading_above_counts():
    text = "Run the command below and wait."
    assert answer("How do I install and run?", passages(text)) == f"{text} [1]"
    question = "How do I run the installation on Debian?"
    assert answer(question, passages(text)) == NOTHING
    assert answer(question, passages(text, title="Installation > Debian")) == f"{text} [1]"
    assert answer(question, passages(f"## Installation on Debian\n\n{text}")) == f"{text} [1]"


def test_questions_of_the_documents_are_no_answers():
    found = answer(
        "What is a full queue?", passages("What is a full queue? A full queue is one without places."), max_sentences=1
    )
    assert found == "A full queue is one without places. [1]"


@pytest.mark.parametrize(
    ("question", "text"),
    [
        ("Что происходит, когда очередь заполнена?", "Когда очередь заполнена, запрос отклоняется сразу."),
        ("列がいっぱいになると要求はどうなりますか", "列がいっぱいになると、要求はすぐに断られます。"),
        ("कतार भरी होने पर क्या होता है?", "कतार भरी होने पर अनुरोध अस्वीकृत होता है।"),
        ("Was passiert, wenn die Warteschlange voll ist?", "Ist die Warteschlange voll, wird die Anfrage abgelehnt."),
    ],
)
def test_other_languages(question, text):
    assert answer(question, passages("Something else entirely.", text)) == f"{text} [2]"


def test_markers_are_ours_alone():
    found = answer("queue full", passages("A queue [3] that is full sheds [12]. See [the docs](a.md) on a full queue."))
    assert re.findall(r"\[[^\]]*\]", found) == ["[1]"] * found.count("[1]")


@given(st.text(max_size=60), st.lists(st.text(max_size=200), max_size=4))
def test_any_input_gives_an_answer_whose_markers_name_passages(question, texts):
    found = answer(question, passages(*texts), min_match=0.0)
    assert found
    assert found == NOTHING or 1 <= int(found[found.rindex("[") + 1 : -1]) <= len(texts)


def test_six_passages_take_milliseconds_and_a_hundred_do_not_block():
    text = " ".join(
        [f"Sentence {n} tells how stage {n % 7} sheds a request when queue {n % 5} is full." for n in range(18)]
    )

    def seconds(count: int) -> float:
        started = time.process_time()
        answer("How does stage 3 shed requests when its queue is full?", passages(*[text[:1200]] * count))
        return time.process_time() - started

    seconds(6)
    assert min(seconds(6) for _ in range(5)) < 0.01
    assert min(seconds(100) for _ in range(3)) < 0.1


@pytest.mark.parametrize(
    "text", ["a" * 10**6, "shed queue " * 90_000, ". " * 500_000, "\n" * 10**6, "- a\n" * 250_000, "満杯" * 500_000]
)
def test_hostile_passages_are_bounded(text):
    started = time.process_time()
    answer("When is a queue shed? 満杯", passages(*[text] * 100), min_match=0.1)
    assert time.process_time() - started < 0.5


async def test_the_answer_comes_as_deltas():
    worker = Extractive(section("extractive", max_sentences=1))
    question = "What happens when a queue is full?"
    streamed = await told(worker, ask(question, passages=THREE))
    assert streamed.text == answer(question, max_sentences=1)
    assert len(streamed.batches) > 1
    whole = await told(worker, ask(question, passages=THREE, stream=False))
    assert whole.text == streamed.text
    assert len(whole.batches) == 1
    assert whole.usages == streamed.usages
    assert whole.usages[0].prompt_tokens == 9
    assert whole.usages[0].completion_tokens == len(streamed.text.split())
