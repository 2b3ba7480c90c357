"""A client's request, taken apart: what is the same for all dialects but OpenAI's own."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.helpers import ask
from workers.asked import Function, Image, asked
from workers.base import ChatMessage
from workers.errors import WorkerError, WorkerErrorKind

SCHEMA = b'{"type":"object", "x":1.50}'


def tool(name: str) -> dict:
    return {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}


def message(**fields) -> ChatMessage:
    return ChatMessage(fields.get("role", "user"), "", json.dumps(fields).encode())


def refusal(request) -> str:
    with pytest.raises(WorkerError) as raised:
        asked(request)
    assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.BAD_REQUEST, False)
    return raised.value.message


def test_a_message_with_everything():
    parts = [
        {"type": "text", "text": "look:"},
        {"type": "image_url", "image_url": {"url": "https://x.example/a.png", "detail": "low"}},
        {"type": "text", "text": "well?"},
    ]
    (turn,) = asked(ask(messages=(message(role="user", content=parts, name="Ann"),))).turns
    assert turn.parts == ("look:", Image("https://x.example/a.png", "low"), "well?")
    assert (turn.text, turn.images) == ("look:\nwell?", [Image("https://x.example/a.png", "low")])


def test_a_call_and_its_result():
    function = {"name": "f", "arguments": '{"a": 1}'}
    call = {"id": "c1", "type": "function", "function": function}
    messages = (
        message(role="assistant", content=None, tool_calls=[call], reasoning_content="Hm."),
        message(role="tool", tool_call_id="c1", content="12"),
    )
    said, result = asked(ask(messages=messages)).turns
    assert (said.text, said.reasoning, said.calls[0].id) == ("", "Hm.", "c1")
    assert said.calls[0].function == Function("f", '{"a": 1}')
    assert (result.role, result.call_id, result.text) == ("tool", "c1", "12")


def test_messages_of_our_own_making():
    turns = asked(ask(messages=(ChatMessage("developer", "Be brief."), ChatMessage("user", "hi")))).turns
    assert [(turn.role, turn.text) for turn in turns] == [("system", "Be brief."), ("user", "hi")]


def test_the_schema_stays_as_it_was_written():
    body = b'{"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":%s}}}' % SCHEMA
    wish = asked(ask(body=body))
    assert wish.answer == "json"
    assert bytes(wish.schema) == SCHEMA
    assert asked(ask(body={"response_format": {"type": "json_object"}})).schema is None
    assert asked(ask(body={"response_format": {"type": "text"}})).answer == "text"


@pytest.mark.parametrize(
    ("choice", "names", "meaning"),
    [
        (None, ["a", "b"], "auto"),
        ("auto", ["a", "b"], "auto"),
        ("none", ["a", "b"], "none"),
        ("required", ["a", "b"], "required"),
        ({"type": "function", "function": {"name": "b"}}, ["b"], "required"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [tool("a")]}}, ["a"], "auto"),
        ({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [tool("a")]}}, ["a"], "required"),
    ],
)
def test_the_choice_of_tools(choice, names, meaning):
    wish = asked(ask(body={"tools": [tool("a"), tool("b")], "tool_choice": choice}))
    assert [one.function.name for one in wish.tools] == names
    assert wish.choice == meaning


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"tools": [tool("a")], "tool_choice": {"type": "function", "function": {"name": "c"}}}, "'c'"),
        ({"tool_choice": "required"}, "there are none"),
        ({"tools": [tool("a")], "tool_choice": {"type": "custom"}}, "tool_choice"),
        ({"tools": [tool("a")], "tool_choice": "any"}, "tool_choice"),
        ({"tools": [{"type": "custom", "custom": {}}]}, "$.tools[0]"),
        ({"tools": [{"type": "function", "function": {}}]}, "$.tools[0].function"),
        ({"response_format": {"type": "grammar"}}, "$.response_format.type"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
        (b"{", "not JSON"),
        (b'{"x":"\xff"}', "not JSON"),
        (b'{"x":' + b"[" * 100_000, "not JSON"),
    ],
)
def test_what_cannot_be_understood(body, words):
    assert words in refusal(ask(body=body))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"role": "user", "content": [{"type": "input_audio", "input_audio": {}}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, "messages[0].content[0]"),
        ({"role": "user", "content": 5}, "messages[0]: Expected"),
        ({"role": "assistant", "tool_calls": [{"id": "1"}]}, "messages[0]: Object missing"),
        ({"role": "function", "name": "f", "content": "x"}, "messages[0]"),
    ],
)
def test_a_message_that_no_other_dialect_could_be_told(fields, words):
    assert words in refusal(ask(messages=(message(**fields),)))


def test_several_choices_are_refused():
    assert "n is 2" in refusal(ask(n=2))


def test_fields_by_their_own_names():
    wish = asked(ask(body=b'{"top_k": 7e0, "min_p": null}'))
    assert {name: bytes(raw) for name, raw in wish.given(("top_k", "min_p", "seed")).items()} == {"top_k": b"7e0"}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
keys = st.sampled_from(["tools", "tool_choice", "response_format", "reasoning_effort", "type", "function", "name"])
words = st.sampled_from(["function", "json_schema", "auto", "required", "text", "allowed_tools"])
likely = st.recursive(
    words | json_values,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=10,
)


@given(st.dictionaries(keys, likely, max_size=4), st.dictionaries(st.sampled_from(["content", "tool_calls"]), likely))
def test_any_request_is_taken_apart_or_refused(body, fields):
    request = ask(body=msgspec.json.encode(body), messages=(message(role="assistant", **fields),))
    kinds = set()
    try:
        asked(request)
    except WorkerError as error:
        kinds.add(error.kind)
    assert kinds <= {WorkerErrorKind.BAD_REQUEST}
