"""What a request of Anthropic's Messages is in OpenAI's chat dialect."""

import json
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import InvalidRequest
from pipeline.edge import decode
from pipeline.edge.messages_input import chat_body, chat_messages
from pipeline.edge.messages_types import MessagesBody
from workers.anthropic_requests import encode_request
from workers.base import GenerationRequest, Parameters

DECODER = msgspec.json.Decoder(MessagesBody)
USER = {"role": "user", "content": "hello"}
TOOL = {"name": "weather", "description": "It.", "input_schema": {"type": "object"}}
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
SEALED = {"type": "redacted_thinking", "data": "xyz"}
PNG = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "iVBO"}}
PDF = {"type": "document", "title": "a", "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}}


def request(*messages: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"model": "m", "max_tokens": 9, "messages": messages or [USER], **fields}).encode()


def chat(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    body = decode.decode(DECODER, request(*messages, **fields))
    made: dict[str, Any] = json.loads(chat_body(body, chat_messages(body)))
    return made


def said(*messages: dict[str, Any], **fields: Any) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = chat(*messages, **fields)["messages"]
    return made


def test_a_request_without_anything_special():
    assert chat() == {"model": "m", "messages": [USER], "max_tokens": 9}


def test_everything_that_has_another_name():
    assert chat(
        stream=True,
        temperature=0.5,
        top_p=0.25,
        top_k=7,
        stop_sequences=["END", ""],
        metadata={"user_id": "u1"},
        output_config={"effort": "high", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    ) == {
        "model": "m",
        "messages": [USER],
        "max_tokens": 9,
        "stream": True,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "stop": ["END"],
        "user": "u1",
        "reasoning_effort": "high",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": True},
        },
    }


@pytest.mark.parametrize("system", ["Be\nbrief.", [{"type": "text", "text": t} for t in ("Be", "brief.")]])
def test_a_system_prompt(system):
    assert said(system=system)[0] == {"role": "system", "content": "Be\nbrief."}


def test_a_system_message_in_between_stays_there():
    assert [message["role"] for message in said(USER, {"role": "system", "content": "x"})] == ["user", "system"]


def test_contents_of_a_user():
    text = {"type": "text", "text": "see", "cache_control": {"type": "ephemeral"}}
    notes = {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "notes"}}
    address = {"type": "image", "source": {"type": "url", "url": "https://pictures.example/a.png"}}
    other = {"type": "container_upload", "file_id": "f1"}
    (message,) = said({"role": "user", "content": [text, PNG, address, PDF, notes, other]})
    assert message["content"] == [
        {"type": "text", "text": "see"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a"}},
        {"type": "text", "text": "notes"},
        other,
    ]
    assert said({"role": "user", "content": [text, {"type": "text", "text": "more"}]}) == [
        {"role": "user", "content": "see\nmore"}
    ]


def test_calls_and_their_results():
    turns = said(
        USER,
        {
            "role": "assistant",
            "content": [
                SIGNED,
                SEALED,
                {"type": "text", "text": "Let me see."},
                {"type": "server_tool_use", "id": "s", "name": "web_search", "input": {}},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Kiel"}},
                {"type": "tool_use", "id": "t2", "name": "tide", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "12 °C"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": [PNG], "is_error": True},
                {"type": "text", "text": "and now?"},
            ],
        },
    )
    assert turns[1:] == [
        {
            "role": "assistant",
            "content": "Let me see.",
            "reasoning_content": "Hm.",
            "thinking_blocks": [SIGNED, SEALED],
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Kiel"}'}},
                {"id": "t2", "type": "function", "function": {"name": "tide", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": "12 °C"},
        {
            "role": "tool",
            "tool_call_id": "t2",
            "content": [{"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}],
        },
        {"role": "user", "content": "and now?"},
    ]


def test_a_thought_that_nobody_signed_is_not_given_back():
    (_, message) = said(USER, {"role": "assistant", "content": [{**SIGNED, "signature": ""}]})
    assert message == {"role": "assistant", "content": "", "reasoning_content": "Hm."}


@pytest.mark.parametrize(
    ("choice", "fields"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any", "disable_parallel_tool_use": True}, {"tool_choice": "required", "parallel_tool_calls": False}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "weather"},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
    ],
)
def test_tools(choice, fields):
    own = {"type": "web_search_20250305", "name": "web_search"}
    function = {"name": "weather", "parameters": {"type": "object"}, "description": "It."}
    made = chat(tools=[TOOL, {**TOOL, "type": "custom"}, own], tool_choice=choice)
    assert made["tools"] == [*[{"type": "function", "function": function}] * 2, own]
    assert {name: made[name] for name in ("tool_choice", "parallel_tool_calls") if name in made} == fields


@pytest.mark.parametrize(
    ("thinking", "effort"),
    [
        ({"type": "enabled", "budget_tokens": 32_000}, "high"),
        ({"type": "enabled", "budget_tokens": 5_000}, "medium"),
        ({"type": "enabled", "budget_tokens": 1_024}, "low"),
        ({"type": "adaptive"}, None),
        ({"type": "disabled"}, None),
    ],
)
def test_a_budget_for_thinking_is_an_effort(thinking, effort):
    assert chat(thinking=thinking).get("reasoning_effort") == effort


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b"{}", "model"),
        (json.dumps({"model": "m", "messages": [USER]}).encode(), "max_tokens"),
        (request({"role": "wizard", "content": "x"}), "messages[0].role"),
        (request({"role": "user", "content": None}), "messages[0].content"),
        (request({"role": "user", "content": [{"text": "x"}]}), "messages[0].content[0].type"),
        (request({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0].text"),
        (request({"role": "user", "content": [{"type": "image"}]}), "messages[0].content[0].source.type"),
        (
            request({"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": 5}}]}),
            "messages[0].content[0].source.url",
        ),
        (request({"role": "user", "content": [{"type": "tool_result"}]}), "messages[0].content[0].tool_use_id"),
        (
            request({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [7]}]}),
            "messages[0].content[0].content[0]",
        ),
        (
            request({"role": "assistant", "content": [{"type": "tool_use", "id": "t", "name": "n", "input": 5}]}),
            "messages[0].content[0].input",
        ),
        (request(max_tokens=0), "max_tokens"),
        (request(temperature=1.5), "temperature"),
        (request(tool_choice={"type": "tool"}), "tool_choice.name"),
    ],
)
def test_what_is_wrong_is_named(body, param):
    with pytest.raises(InvalidRequest) as refused:
        chat_messages(decode.decode(DECODER, body))
    assert refused.value.param == param
    assert param in refused.value.message


def test_there_and_back_is_the_same_prompt():
    """Through OpenAI's dialect to a backend that speaks Anthropic's, as on a route that renames its model."""
    system = [{"type": "text", "text": "Be brief."}]
    text = {"type": "text", "text": "hello"}
    messages = [
        {"role": "user", "content": [text, PNG]},
        {
            "role": "assistant",
            "content": [SIGNED, text, {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Kiel"}}],
        },
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [text]}, text]},
    ]
    fields = {
        "tools": [TOOL],
        "tool_choice": {"type": "any", "disable_parallel_tool_use": True},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": {"type": "object"}}},
    }
    body = decode.decode(DECODER, request(*messages, system=system, **fields))
    given = chat_messages(body)
    asked = GenerationRequest("r", None, "m", given, Parameters(9), stream=True, body=chat_body(body, given))
    sent = json.loads(encode_request(asked, model=None, answer_tokens=1))
    assert sent == {
        "model": "m",
        "max_tokens": 9,
        "stream": True,
        "system": system,
        "messages": messages,
        **fields,
    }


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.sampled_from("user assistant system text image document tool_use tool_result thinking base64 url any".split()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                """type role content text source media_type data url id name input tool_use_id thinking signature title
            tools tool_choice system output_config format schema effort metadata budget_tokens""".split()
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=30,
)


@given(st.lists(JSON, max_size=3), st.dictionaries(st.sampled_from("system tools tool_choice thinking".split()), JSON))
def test_any_json_is_read_or_refused(messages, fields):
    _read_or_refused(request(*messages, **fields))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(body):
    _read_or_refused(body)


def _read_or_refused(data: bytes) -> None:
    try:
        body = decode.decode(DECODER, data)
        messages = chat_messages(body)
    except InvalidRequest:
        return
    json.loads(chat_body(body, messages))
    assert decode.question_of(messages) is not None
