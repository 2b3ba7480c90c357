import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.helpers import ask
from workers.base import ChatMessage, Parameters
from workers.errors import WorkerError, WorkerErrorKind
from workers.local import limited, newest_user_text, refuse_several, tokens_of


@given(st.text())
def test_tokens_join_to_the_text(text):
    tokens = tokens_of(text)
    assert "".join(tokens) == text
    assert tokens


def test_a_token_is_a_word_with_its_whitespace():
    assert tokens_of(" to be \n or") == [" ", "to ", "be \n ", "or"]
    assert tokens_of("") == [""]


@pytest.mark.parametrize(
    ("parameters", "text", "reason"),
    [
        (Parameters(), "one two three", "stop"),
        (Parameters(max_tokens=3), "one two three", "stop"),
        (Parameters(max_tokens=2), "one two ", "length"),
        (Parameters(stop=("two",)), "one ", "stop"),
        (Parameters(stop=("e t",)), "on", "stop"),  # across tokens
        (Parameters(stop=("three", "tw")), "one ", "stop"),  # the first in the text, not in the list
        (Parameters(stop=("one",)), "", "stop"),
        (Parameters(stop=("",)), "one two three", "stop"),
        (Parameters(max_tokens=2, stop=("three",)), "one two ", "length"),
        (Parameters(max_tokens=2, stop=("two",)), "one ", "stop"),
        (Parameters(max_tokens=0), "", "length"),
    ],
)
def test_max_tokens_and_stop_end_an_answer_as_a_model_would(parameters, text, reason):
    tokens, finish_reason = limited(tokens_of("one two three"), parameters)
    assert ("".join(tokens), finish_reason) == (text, reason)
    assert tokens


def test_the_newest_user_message_counts():
    messages = (ChatMessage("user", "old"), ChatMessage("user", "new"), ChatMessage("assistant", "said"))
    assert newest_user_text(ask(messages=messages)) == "new"
    assert newest_user_text(ask(messages=(ChatMessage("system", "rules"),))) == ""


def test_several_choices_are_refused():
    refuse_several(ask(n=1), "w")
    with pytest.raises(WorkerError, match="n is 2") as raised:
        refuse_several(ask(n=2), "w")
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
    assert not raised.value.retryable
