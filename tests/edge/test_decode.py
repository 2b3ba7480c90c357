"""Bodies as they come: what is taken, and what is refused with which words."""

import json
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import HeadgateError
from pipeline.edge import decode
from pipeline.edge.native_types import PromptBody
from pipeline.edge.openai_types import ChatBody
from workers.base import ChatMessage

CHAT = msgspec.json.Decoder(ChatBody)
NATIVE = msgspec.json.Decoder(PromptBody)
USER = {"role": "user", "content": "hi"}


def messages_of(body: bytes) -> tuple[ChatMessage, ...]:
    return decode.decode_messages(decode.decode(CHAT, body).messages)


def refusal(body: bytes, decoder: "msgspec.json.Decoder[ChatBody] | msgspec.json.Decoder[PromptBody]" = CHAT):
    error = None
    try:
        decode.decode_messages(decode.decode(decoder, body).messages)
    except HeadgateError as caught:
        error = caught
    assert error is not None
    assert error.status == 400
    return error


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [USER], **fields}).encode()


def messages(*given: object) -> bytes:
    return json.dumps({"model": "m", "messages": given}).encode()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("hi", "hi"),
        ("", ""),
        (None, ""),
        ([], ""),
        ([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "a\nb"),
        ([{"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "what is it?"}], "what is it?"),
        ("\U0001f600 \u0000 \u2028", "\U0001f600 \u0000 \u2028"),
    ],
)
def test_a_messages_text_is_its_content(content, text):
    (message,) = messages_of(messages({"role": "user", "content": content}))
    assert message.text == text


def test_a_message_keeps_its_own_json_to_the_byte():
    raw = rb'{"role": "assistant",  "tool_calls":[{"id":"1", "x": 1.50}], "content":null, "n\u00e4me": "\ud83d\ude00"}'
    (message,) = messages_of(b'{"model":"m","messages":[ ' + raw + b" ]}")
    assert message == ChatMessage("assistant", "", raw) or message.raw == raw
    assert message.role == "assistant"


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant", "tool", "function"])
def test_every_role_of_the_dialect_is_known(role):
    assert messages_of(messages({"role": role, "content": "x"}))[0].role == role


def test_fields_that_are_not_known_are_no_error():
    fields = decode.decode(CHAT, chat(tools=[{"type": "function"}], logit_bias={"1": -100}, whatever={"a": [None]}))
    assert fields.model == "m"


def test_null_is_the_same_as_not_sent():
    nulls = decode.decode(CHAT, chat(stream=None, n=None, stop=None, temperature=None, stream_options=None))
    assert nulls == msgspec.structs.replace(decode.decode(CHAT, chat()), messages=nulls.messages)


def test_the_last_of_equal_keys_counts():
    body = b'{"model":"a","model":"b","messages":[{"role":"user","role":"system","content":"x"}]}'
    assert decode.decode(CHAT, body).model == "b"
    assert messages_of(body)[0].role == "system"


@pytest.mark.parametrize(
    ("body", "param", "code", "words"),
    [
        (b"", None, "invalid_json", "truncated"),
        (b"{", None, "invalid_json", "truncated"),
        (b"not json", None, "invalid_json", "parsed as JSON"),
        (b"\xef\xbb\xbf{}", None, "invalid_json", "byte 0"),
        (chat() + b" x", None, "invalid_json", "trailing"),
        (b"[]", None, "invalid_type", "expected object, got array"),
        (b"null", None, "invalid_type", "expected object, got null"),
        (b"{}", "model", "missing_required_parameter", "'model'"),
        (b'{"model":"m"}', "messages", "missing_required_parameter", "'messages'"),
        (b'{"model":5,"messages":[]}', "model", "invalid_type", "expected str, got int, found 5"),
        (b'{"model":"","messages":[]}', "model", "invalid_value", "length >= 1"),
        (chat(model="m" * 257), "model", "invalid_value", "length <= 256"),
        (chat(messages=[]), "messages", "invalid_value", "length >= 1, found []"),
        (chat(messages={}), "messages", "invalid_type", "expected array, got object"),
        (chat(messages=[USER] * 4097), "messages", "invalid_value", "length <= 4096"),
        (chat(messages=["hi"]), "messages[0]", "invalid_type", "expected object, got str"),
        (chat(messages=[None]), "messages[0]", "invalid_type", "expected object, got null"),
        (chat(messages=[USER, {"content": "x"}]), "messages[1].role", "missing_required_parameter", "messages[1].role"),
        (chat(messages=[USER, USER, {**USER, "role": "wizard"}]), "messages[2].role", "invalid_value", "'user'"),
        (chat(messages=[{**USER, "role": "wizard"}]), "messages[0].role", "invalid_value", 'found "wizard"'),
        (chat(messages=[{**USER, "role": 1}]), "messages[0].role", "invalid_type", "got int"),
        (chat(messages=[{**USER, "content": 1}]), "messages[0].content", "invalid_type", "str | array | null"),
        (chat(messages=[{**USER, "content": ["x"]}]), "messages[0].content[0]", "invalid_type", "got str"),
        (
            chat(messages=[{**USER, "content": [{"text": "x"}]}]),
            "messages[0].content[0].type",
            "missing_required_parameter",
            "content[0].type",
        ),
        (
            chat(messages=[USER, {**USER, "content": [{"type": "text", "text": "a"}, {"type": "text"}]}]),
            "messages[1].content[1].text",
            "missing_required_parameter",
            "content[1].text",
        ),
        (chat(stream="yes"), "stream", "invalid_type", "expected bool | null, got str"),
        (chat(stream_options={"include_usage": 1}), "stream_options.include_usage", "invalid_type", "got int"),
        (chat(max_tokens=-1), "max_tokens", "invalid_value", ">= 1, found -1"),
        (chat(max_tokens=0), "max_tokens", "invalid_value", ">= 1"),
        (chat(max_tokens=1.5), "max_tokens", "invalid_type", "got float"),
        (chat(max_tokens=10**40), "max_tokens", "invalid_value", "<= 2147483647"),
        (chat(max_completion_tokens=-5), "max_completion_tokens", "invalid_value", ">= 1"),
        (chat(temperature=-0.1), "temperature", "invalid_value", ">= 0.0, found -0.1"),
        (chat(temperature=2.1), "temperature", "invalid_value", "<= 2.0"),
        (chat(temperature="hot"), "temperature", "invalid_type", "got str"),
        (b'{"model":"m","messages":[1],"temperature":1e999}', "temperature", "invalid_value", "out of range"),
        (b'{"model":"m","temperature":NaN}', None, "invalid_json", "byte 27"),
        (chat(top_p=-1), "top_p", "invalid_value", ">= 0.0"),
        (chat(n=0), "n", "invalid_value", ">= 1"),
        (chat(n=129), "n", "invalid_value", "<= 128"),
        (chat(seed=2**63), "seed", "invalid_value", "<= 9223372036854775807"),
        (chat(stop=[1]), "stop[0]", "invalid_type", "expected str, got int"),
        (chat(stop={}), "stop", "invalid_type", "got object"),
        (chat(stop=["x"] * 65), "stop", "invalid_value", "length <= 64"),
        (chat(prompt_cache_key="x" * 257), "prompt_cache_key", "invalid_value", "<= 256"),
        (chat(prompt_cache_key="a\nb"), "prompt_cache_key", "invalid_value", "matching regex"),
        (chat(prompt_cache_key="ab\n"), "prompt_cache_key", "invalid_value", "matching regex"),
        (b'{"model":"\xff","messages":[]}', None, "invalid_json", "not UTF-8"),
        (b'{"model":"m","messages":[{"role":"user","content":"\xff"}]}', None, "invalid_json", "not UTF-8"),
        (b'{"model":"m","messages":[],"unknown":"\xff"}', None, "invalid_json", "not UTF-8"),
        (rb'{"model":"\ud800","messages":[]}', None, "invalid_json", "surrogate"),
        (rb'{"model":"m","messages":[{"role":"user","content":"\udc00"}]}', None, "invalid_json", "surrogate"),
        (b'{"model":"m","messages":' + b"[" * 100_000, None, "invalid_json", "too deeply"),
        (b'{"x":' + b'{"x":' * 100_000, None, "invalid_json", "too deeply"),
        (b'{"model":"m\x00","messages":[]}', None, "invalid_json", "byte 11"),
    ],
)
def test_what_is_wrong_is_named(body, param, code, words):
    error = refusal(body)
    assert (error.param, error.code, error.type) == (param, code, "invalid_request_error")
    assert words in error.message
    assert len(error.message) < 400


def test_the_native_dialect_refuses_fields_that_it_does_not_have():
    error = refusal(b'{"route":"r","promt":"x"}', NATIVE)
    assert (error.code, error.param) == ("unknown_parameter", "promt")
    error = refusal(b'{"route":"r","prompt":"x","parameters":{"temp":1}}', NATIVE)
    assert (error.code, error.param) == ("unknown_parameter", "parameters.temp")


def test_a_long_wrong_value_is_shortened():
    error = refusal(chat(temperature="x" * 10_000))
    assert error.message.endswith("x….")
    assert len(error.message) < 200


def test_a_million_tokens_are_decoded():
    words = "word " * 1_000_000
    (message,) = messages_of(messages({"role": "user", "content": words}))
    assert len(message.text) == 5_000_000


def test_the_question_is_the_newest_user_messages_text():
    conversation = messages_of(
        messages(
            {"role": "system", "content": "s"},
            {"role": "user", "content": "old"},
            {"role": "user", "content": "new"},
            {"role": "assistant", "content": "a"},
        )
    )
    assert decode.question_of(conversation) == "new"
    assert decode.question_of(messages_of(messages({"role": "tool", "content": "t"}))) == "t"


@pytest.mark.parametrize(
    ("stop", "sequences"), [(None, ()), ("x", ("x",)), (["x", "y"], ("x", "y")), ("", ()), (["", "x"], ("x",))]
)
def test_stop_is_one_sequence_or_several(stop, sequences):
    made = decode.parameters(max_tokens=None, temperature=None, top_p=None, stop=stop, n=None, seed=None)
    assert (made.stop, made.n) == (sequences, 1)


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_refuse(body):
    with suppress(HeadgateError):
        messages_of(body)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
FIELDS = st.sampled_from(["model", "messages", "role", "content", "type", "text", "n", "stop", "seed", "stream"])


@given(
    st.dictionaries(FIELDS, VALUES, max_size=6),
    st.lists(st.dictionaries(FIELDS, VALUES, max_size=4), max_size=3),
)
def test_no_json_does_more_than_refuse(fields, given_messages):
    for body in (fields, {"model": "m", "messages": given_messages}):
        with suppress(HeadgateError):
            messages_of(json.dumps(body).encode())
