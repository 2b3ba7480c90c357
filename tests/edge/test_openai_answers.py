"""Whole answers: made from deltas, or a backend's own object."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletion as OfficialCompletion

from pipeline.core.ports import Answer
from pipeline.edge.openai_answers import Answering
from pipeline.edge.openai_types import ChatCompletion
from tests.edge.messages import PASSAGE, post_output
from workers.base import Delta, Usage

THEIRS = b"""{"id":"theirs-1","object":"chat.completion", "created":7,"model":"llama","service_tier": "x",
"choices":[{"index":0,"message":{"role":"assistant","content":"call me at 555","tool_calls":[{"id":"t"}]},
"logprobs":{"content":[{"token":"555"}]},"finish_reason":"tool_calls"}],"usage":{"prompt_tokens":3,"total_tokens":5}}"""


def compose(*answers: Answer, rename: bool = False, usage: Usage | None = None, passages: Any = None) -> bytes:
    """Of a route with a collection where `passages` are given, be there none."""
    answering = Answering("r1", "docs", rename, cites=passages is not None)
    return answering.compose(post_output(*passages or ()), answers, usage)


def test_an_answer_of_ours_is_what_the_official_client_expects():
    answer = Answer((Delta('He said "hi"\n\u2028\U0001f600', 0, "stop"),))
    body = compose(answer, usage=Usage(3, 2))
    completion = OfficialCompletion.model_validate_json(body, strict=True)
    assert completion.id == "chatcmpl-r1"
    assert completion.model == "docs"
    assert completion.choices[0].message.content == 'He said "hi"\n\u2028\U0001f600'
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert (completion.usage.prompt_tokens, completion.usage.completion_tokens, completion.usage.total_tokens) == (
        3,
        2,
        5,
    )


@pytest.mark.parametrize("usage", [None, Usage(1, 2)])
@pytest.mark.parametrize("passages", [None, (), (PASSAGE,)])
def test_an_answer_of_ours_is_what_its_type_describes(usage, passages):
    body = compose(Answer((Delta("a", 0, "stop"),)), usage=usage, passages=passages)
    described = msgspec.json.decode(body, type=ChatCompletion)
    assert json.loads(msgspec.json.encode(described)) == json.loads(body)


def test_deltas_are_joined_for_each_choice():
    answers = [Answer((Delta("a", 1), Delta("x", 0))), Answer((Delta("y", 0, "length"), Delta("b", 1, "stop")))]
    choices = json.loads(compose(*answers))["choices"]
    assert [(c["index"], c["message"]["content"], c["finish_reason"]) for c in choices] == [
        (0, "xy", "length"),
        (1, "ab", "stop"),
    ]


def test_an_answer_without_a_reason_to_end_has_stopped():
    assert json.loads(compose(Answer((Delta("a"),))))["choices"][0]["finish_reason"] == "stop"


def test_citations_are_numbered_as_the_model_saw_them():
    other = msgspec.structs.replace(PASSAGE, source="docs/other.md")
    body = json.loads(compose(Answer((Delta("a [1]", 0, "stop"),)), passages=(PASSAGE, other)))
    assert [(c["index"], c["source"]) for c in body["citations"]] == [(1, "docs/shedding.md"), (2, "docs/other.md")]
    assert body["citations"][0] == {
        "index": 1,
        "source": "docs/shedding.md",
        "position": 3,
        "title": "Overload > Shedding",
        "score": 0.75,
        "text": "Sheds say so.",
    }
    OfficialCompletion.model_validate(body)


def test_a_backends_object_is_passed_on_to_the_byte():
    assert compose(Answer((Delta("call me at 555", 0, "tool_calls"),), body=THEIRS)) is THEIRS


def test_a_renaming_route_changes_the_model_and_nothing_else():
    renamed = json.loads(compose(Answer((Delta("x"),), body=THEIRS), rename=True))
    assert renamed == {**json.loads(THEIRS), "model": "docs"}


def test_citations_are_added_to_a_backends_object():
    cited = json.loads(compose(Answer((Delta("x"),), body=THEIRS), passages=(PASSAGE,)))
    assert cited.pop("citations")[0]["index"] == 1
    assert cited == json.loads(THEIRS)


def test_what_a_filter_took_out_is_nowhere_in_a_backends_object():
    filtered = Answer((Delta("call me at [redacted]", 0, "stop"),), changed=True, body=THEIRS)
    body = compose(filtered)
    assert b"555" not in body
    choice = json.loads(body)["choices"][0]
    assert choice["message"] == {
        "role": "assistant",
        "content": "call me at [redacted]",
        "tool_calls": [{"id": "t"}],
    }
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)


def test_a_choice_without_content_stays_without():
    theirs = b'{"choices":[{"index":0,"message":{"content":null,"tool_calls":[]},"finish_reason":"tool_calls"}]}'
    body = compose(Answer((Delta("", 0, "tool_calls"),), changed=True, body=theirs))
    assert json.loads(body) == json.loads(theirs)


def test_a_route_with_a_collection_says_that_nothing_was_found():
    body = Answering("r1", "docs", rename=False, cites=True).compose(post_output(), [Answer((Delta("a"),))], None)
    assert json.loads(body)["citations"] == []
