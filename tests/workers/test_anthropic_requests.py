"""What becomes of an OpenAI request before it reaches a server of Anthropic's Messages."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from anthropic.types import message_count_tokens_params, message_create_params
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from tests.workers.helpers import ask
from workers.anthropic_native import encode_native
from workers.anthropic_requests import encode_count, encode_request
from workers.base import ChatMessage, GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind

PNG = "iVBORw0KGgo="
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kiel"}'}}
WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
USER = {"role": "user", "content": "hello"}
THOUGHT = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}

anthropics = TypeAdapter(message_create_params.MessageCreateParams)
anthropics_count = TypeAdapter(message_count_tokens_params.MessageCountTokensParams)
SAMPLING = {"temperature", "top_p", "top_k"}  # no longer in the client's types, but in those of the servers


def request(*messages: dict[str, Any], stream: bool = False, **fields: Any) -> GenerationRequest:
    given = list(messages or (USER,))
    made = tuple([ChatMessage(m["role"], "", json.dumps(m).encode()) for m in given])
    parameters = {name: fields[name] for name in ("max_tokens", "temperature", "top_p", "n") if name in fields}
    return ask(messages=made, stream=stream, body={"model": "m", "messages": given, **fields}, **parameters)


def encoded(*messages: dict[str, Any], **fields: Any) -> dict[str, Any]:
    """What is sent; it is what Anthropic's own client would send."""
    body = json.loads(encode_request(request(*messages, **fields), model=None, answer_tokens=77))
    anthropics.validate_python({name: value for name, value in body.items() if name not in SAMPLING}, strict=False)
    return body


def content(*messages: dict[str, Any]) -> list[Any]:
    return [(message["role"], message["content"]) for message in encoded(*messages)["messages"]]


def text(said: str) -> dict[str, str]:
    return {"type": "text", "text": said}


def test_a_request_without_anything_special():
    assert encoded() == {
        "model": "asked-for",
        "messages": [{"role": "user", "content": [text("hello")]}],
        "max_tokens": 77,
        "stream": False,
    }


def test_the_sections_model_and_the_requests_limit():
    body = json.loads(encode_request(request(max_tokens=5, stream=True), model="claude", answer_tokens=77))
    assert (body["model"], body["max_tokens"], body["stream"]) == ("claude", 5, True)


def test_sampling():
    sent = encoded(temperature=1.7, top_p=0.5, top_k=9)
    assert (sent["temperature"], sent["top_p"], sent["top_k"]) == (1.0, 0.5, 9)
    bare = json.loads(encode_request(ask(stop=("END",)), model=None, answer_tokens=1))
    assert bare["stop_sequences"] == ["END"]


def test_system_messages_are_apart():
    body = encoded({"role": "system", "content": "Be brief."}, USER, {"role": "developer", "content": "Be kind."})
    assert body["system"] == [text("Be brief."), text("Be kind.")]
    assert len(body["messages"]) == 1


def test_neighbours_are_one_message_and_empty_texts_none():
    assert content(USER, {"role": "assistant", "content": ""}, {"role": "user", "content": "again"}) == [
        ("user", [text("hello"), text("again")])
    ]


def test_pictures_and_documents():
    parts = [
        {"type": "text", "text": "see:"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://pictures.example/a.png"}},
        {"type": "file", "file": {"file_data": "data:application/pdf;base64,JVBE", "filename": "a.pdf"}},
        {"type": "text", "text": "kept", "cache_control": {"type": "ephemeral"}},
    ]
    assert content({"role": "user", "content": parts}) == [
        (
            "user",
            [
                text("see:"),
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
                {"type": "image", "source": {"type": "url", "url": "https://pictures.example/a.png"}},
                {
                    "type": "document",
                    "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"},
                    "title": "a.pdf",
                },
                parts[4],
            ],
        )
    ]


def test_calls_and_their_results():
    other = {**CALL, "id": "functions.tide:0", "function": {"name": "tide", "arguments": ""}}
    turns = content(
        USER,
        {"role": "assistant", "content": "Let me see.", "tool_calls": [CALL, other], "thinking_blocks": [THOUGHT]},
        {"role": "tool", "tool_call_id": "call_1", "content": "12 °C"},
        {"role": "tool", "tool_call_id": "functions.tide:0", "content": ""},
        {"role": "user", "content": "and now?"},
    )
    assert turns[1:] == [
        (
            "assistant",
            [
                THOUGHT,
                text("Let me see."),
                {"type": "tool_use", "id": "call_1", "name": "weather", "input": {"city": "Kiel"}},
                {"type": "tool_use", "id": "functions_tide_0", "name": "tide", "input": {}},
            ],
        ),
        (
            "user",
            [
                {"type": "tool_result", "tool_use_id": "call_1", "content": [text("12 °C")]},
                {"type": "tool_result", "tool_use_id": "functions_tide_0"},
                text("and now?"),
            ],
        ),
    ]


def test_the_older_form_of_a_call():
    turns = content(
        USER,
        {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
        {"role": "function", "name": "f", "content": "42"},
    )
    assert turns[1][1][0]["id"] == turns[2][1][0]["tool_use_id"] == "function_f"


def test_tools():
    described = {"type": "function", "function": {**WEATHER["function"], "description": "It.", "strict": True}}
    own = {"type": "bash_20250124", "name": "bash"}
    assert encoded(tools=[described, {"type": "function", "function": {"name": "tide"}}, own])["tools"] == [
        {"name": "weather", "description": "It.", "input_schema": {"type": "object"}, "strict": True},
        {"name": "tide", "input_schema": {"type": "object", "properties": {}}},
        own,
    ]


@pytest.mark.parametrize(
    ("fields", "choice"),
    [
        ({}, None),
        ({"tool_choice": "auto"}, {"type": "auto"}),
        ({"tool_choice": "none", "parallel_tool_calls": False}, {"type": "none"}),
        ({"tool_choice": "required"}, {"type": "any"}),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, {"type": "tool", "name": "weather"}),
        ({"parallel_tool_calls": False}, {"type": "auto", "disable_parallel_tool_use": True}),
    ],
)
def test_the_choice_of_tools(fields, choice):
    assert encoded(tools=[WEATHER], **fields).get("tool_choice") == choice
    assert "tool_choice" not in encoded(**fields), "without tools there is nothing to choose"


@pytest.mark.parametrize(
    ("fields", "thinking", "effort"),
    [
        ({"reasoning_effort": "minimal"}, {"type": "adaptive"}, "low"),
        ({"reasoning_effort": "xhigh"}, {"type": "adaptive"}, "xhigh"),
        ({"reasoning_effort": "none"}, {"type": "disabled"}, None),
        ({"reasoning_effort": "cosmic"}, None, None),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, {"type": "enabled", "budget_tokens": 1024}, None),
        ({"reasoning_effort": "high", "tools": [WEATHER], "tool_choice": "required"}, None, "high"),
    ],
)
def test_how_much_to_think(fields, thinking, effort):
    body = encoded(**fields)
    assert body.get("thinking") == thinking
    assert body.get("output_config", {}).get("effort") == effort


def test_structured_output_and_whose_request_it_is():
    schema = {"type": "object", "properties": {}, "additionalProperties": False}
    body = encoded(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}, user="u1")
    assert body["output_config"] == {"format": {"type": "json_schema", "schema": schema}}
    assert body["metadata"] == {"user_id": "u1"}
    assert "output_config" not in encoded(response_format={"type": "json_object"})


@pytest.mark.parametrize(
    ("messages", "fields", "words"),
    [
        ((USER,), {"n": 2}, "one answer"),
        (({"role": "system", "content": "Be brief."},), {}, "nothing but system messages"),
        (({"role": "user", "content": ["x"]},), {}, r"messages\[0\].content\[0\] is not an object"),
        (
            ({"role": "user", "content": [{"type": "image_url", "image_url": "ftp://x"}]},),
            {},
            r"messages\[0\].content\[0\] has neither",
        ),
        (
            (USER, {"role": "assistant", "tool_calls": [{**CALL, "function": {"name": "f", "arguments": "[]"}}]}),
            {},
            r"messages\[1\].tool_calls\[0\]: arguments are not",
        ),
        ((USER, {"role": "assistant", "tool_calls": [{"id": 5}]}), {}, r"messages\[1\].tool_calls\[0\] is not a call"),
        ((USER, {"role": "tool", "content": "42"}), {}, r"messages\[1\] has no tool_call_id"),
    ],
)
def test_what_cannot_be_said(messages, fields, words):
    with pytest.raises(WorkerError, match=words) as refused:
        encode_request(request(*messages, **fields), model=None, answer_tokens=1)
    assert refused.value.kind is WorkerErrorKind.BAD_REQUEST


def test_counting_asks_for_the_same_prompt():
    asked = request({"role": "system", "content": "Be brief."}, USER, tools=[WEATHER], temperature=0.5, user="u")
    body = json.loads(encode_count(asked, model="claude"))
    assert sorted(body) == ["messages", "model", "system", "tools"]
    anthropics_count.validate_python(body)


def native(body: bytes, *, stream: bool = True) -> dict[str, Any]:
    asked = msgspec.structs.replace(ask(stream=stream), native=body, native_dialect="messages")
    fields: dict[str, Any] = json.loads(encode_native(asked, model="claude"))
    return fields


def test_a_native_request_keeps_everything_but_model_and_stream():
    body = b'{"model":"route","max_tokens": 5, "messages":[{"role":"user","content":"x"}], "container":{"id":null}}'
    assert native(body) == {**json.loads(body), "model": "claude", "stream": True}
    assert native(body, stream=False)["stream"] is False


def json_or_kind(encode: Callable[[], bytes]) -> str:
    """Anything but a `WorkerError` is raised."""
    try:
        json.loads(encode())
    except WorkerError as error:
        return error.kind
    return "json"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)
NAMES = st.sampled_from(
    """type text content role name id function arguments tool_calls tool_call_id image_url url source file file_data
    thinking_blocks function_call tools tool_choice parallel_tool_calls response_format json_schema schema thinking
    reasoning_effort user top_k parameters strict description""".split()
)
WORDS = st.sampled_from(
    "text image_url file function tool_use thinking auto required json_schema data:a/b;base64,".split()
)
LIKELY = st.recursive(
    JSON | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=5),
    max_leaves=30,
)


@given(
    st.lists(st.tuples(st.sampled_from(["system", "user", "assistant", "tool", "function"]), LIKELY), max_size=4),
    st.dictionaries(NAMES, LIKELY, max_size=5),
)
def test_any_json_is_translated_or_refused(messages, fields):
    made = tuple([
        ChatMessage(role, "", json.dumps(m if isinstance(m, dict) else {"content": m}).encode()) for role, m in messages
    ])  # fmt: skip
    asked = msgspec.structs.replace(ask(body=fields), messages=made)
    for encode in (
        lambda: encode_request(asked, model=None, answer_tokens=1),
        lambda: encode_count(asked, model=None),
    ):
        assert json_or_kind(encode) in {"json", WorkerErrorKind.BAD_REQUEST}


@given(st.binary(max_size=40))
def test_any_bytes_are_translated_or_refused(body):
    for encode in (
        lambda: encode_request(msgspec.structs.replace(ask(), body=body), model=None, answer_tokens=1),
        lambda: encode_native(msgspec.structs.replace(ask(), native=body), model=None),
    ):
        assert json_or_kind(encode) in {"json", WorkerErrorKind.BAD_REQUEST}
