"""Answers of Anthropic's Messages, made of OpenAI's or forwarded."""

import json
from typing import Any

import msgspec
import pytest
from anthropic.types import Message, RawMessageStreamEvent
from pydantic import TypeAdapter

from pipeline.core.errors import BackendFailed, StageFailed
from pipeline.core.ports import Answer
from pipeline.edge.messages_answers import compose
from pipeline.edge.messages_chat import Answering
from pipeline.edge.messages_events import MessageEncoder
from pipeline.edge.messages_types import EVENTS
from tests.edge.messages import PASSAGE, post_output
from tests.edge.wire import events
from workers.base import Delta, Usage
from workers.canonical import Choice, Identity, completion, extra, tool_call

ANSWERING = Answering("r1", "route", rename=False)
RENAMED = Answering("r1", "route", rename=True)
COUNTED, CACHED = Usage(10, 4), Usage(10, 4, cached_tokens=3)
IDENTITY = Identity("chatcmpl-9", 7, "the-model")
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}
SEALED = {"type": "redacted_thinking", "data": "xyz"}

anthropics = TypeAdapter(RawMessageStreamEvent)


def streamed(*deltas: Delta, usage: Usage | None = CACHED, **answering: Any) -> list[Any]:
    """Each event's data; they are as described, and as Anthropic's client expects them."""
    encoder = MessageEncoder(msgspec.structs.replace(ANSWERING, **answering))
    encoder.begin(post_output(PASSAGE))
    frames = b"".join([encoder.deltas(Answer((delta,))) for delta in deltas]) + encoder.finish(usage)
    got = events(frames)
    for name, data in got:
        assert name == data["type"]
        assert msgspec.to_builtins(msgspec.convert(data, EVENTS[name])) == data
        anthropics.validate_python(data)
    return [data for _, data in got]


def gathered(events: list[Any]) -> list[Any]:
    """The content that a client would have; blocks come one after the other."""
    content: list[Any] = []
    opened = False
    for event in events:
        match event["type"]:
            case "content_block_start":
                assert not opened
                assert event["index"] == len(content)
                content.append({**event["content_block"], "json": ""})
                opened = True
            case "content_block_delta":
                assert opened
                assert event["index"] == len(content) - 1
                for name, value in event["delta"].items():
                    if name != "type":
                        content[-1]["json" if name == "partial_json" else name] += value
            case "content_block_stop":
                opened = False
    assert not opened
    return [{name: value for name, value in block.items() if name != "json" or value} for block in content]


def raw(text: str = "", finish: Any = None, **fields: Any) -> Delta:
    made = extra(IDENTITY, fields, finish_reason=finish)
    return msgspec.structs.replace(made, text=text)


def test_text():
    got = streamed(Delta("Hel"), Delta('lo"\n'), Delta(finish_reason="length"))
    assert [event["type"] for event in got] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    assert gathered(got) == [{"type": "text", "text": 'Hello"\n'}]
    start = got[0]["message"]
    assert (start["id"], start["model"], start["content"], start["stop_reason"]) == ("msg_r1", "route", [], None)
    assert start["usage"] == {"input_tokens": 3, "output_tokens": 0}  # our estimate
    assert got[-2]["delta"] == {"stop_reason": "max_tokens", "stop_sequence": None}
    assert got[-2]["usage"] == {"input_tokens": 7, "output_tokens": 4, "cache_read_input_tokens": 3}


def test_the_models_name():
    first = Delta("x", raw=extra(IDENTITY, {"content": "x"}).raw)
    assert streamed(first)[0]["message"]["model"] == "the-model"
    assert streamed(first, rename=True)[0]["message"]["model"] == "route"
    assert streamed(Delta("x", raw=b"[]"))[0]["message"]["model"] == "route"


def test_an_answer_without_a_word():
    got = streamed(Delta(finish_reason="stop"))
    assert [event["type"] for event in got] == ["message_start", "message_delta", "message_stop"]


def test_uncounted_tokens_are_estimated():
    assert streamed(Delta("x"), usage=None)[-2]["usage"] == {"input_tokens": 3, "output_tokens": 0}


def test_calls_of_tools():
    got = streamed(
        Delta("Let me see."),
        raw(tool_calls=[tool_call(0, call_id="c0", name="weather")]),
        raw(tool_calls=[tool_call(0, arguments='{"city":')]),
        raw(tool_calls=[tool_call(0, arguments='"Kiel"}'), tool_call(1, name="tide", arguments="{}")]),
        raw(finish="tool_calls"),
    )
    assert gathered(got) == [
        {"type": "text", "text": "Let me see."},
        {"type": "tool_use", "id": "c0", "name": "weather", "input": {}, "json": '{"city":"Kiel"}'},
        {"type": "tool_use", "id": "toolu_r1_1", "name": "tide", "input": {}, "json": "{}"},
    ]
    assert got[-2]["delta"]["stop_reason"] == "tool_use"


def test_a_server_that_calls_tools_and_says_stop():
    got = streamed(raw(tool_calls=[tool_call(0, call_id="c", name="f", arguments="{}")]), Delta(finish_reason="stop"))
    assert got[-2]["delta"]["stop_reason"] == "tool_use"


def test_calls_that_are_mixed_with_each_other_are_an_error():
    encoder = MessageEncoder(ANSWERING)
    encoder.begin(post_output())
    calls = [tool_call(index, call_id=f"c{index}", name="f", arguments="{") for index in (0, 1, 0)]
    with pytest.raises(BackendFailed, match="mixed"):
        encoder.deltas(Answer(tuple([raw(tool_calls=[call]) for call in calls])))


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thinking(field):
    got = streamed(
        raw(**{field: "H"}),
        raw(**{field: "m."}),
        raw(thinking_blocks=[SIGNED]),
        raw(thinking_blocks=[SEALED]),
        raw(thinking_blocks=[{**SIGNED, "thinking": ""}]),
        Delta("So."),
    )
    assert gathered(got) == [SIGNED, SEALED, {**SIGNED, "thinking": ""}, {"type": "text", "text": "So."}]


def test_thinking_that_nobody_signs():
    got = streamed(raw(reasoning_content="Hm."), raw(reasoning_content="", text="So."))
    assert gathered(got) == [{**SIGNED, "signature": ""}, {"type": "text", "text": "So."}]


def test_a_refusal_is_said():
    got = streamed(raw(refusal="No."), Delta(finish_reason="content_filter"))
    assert gathered(got) == [{"type": "text", "text": "No."}]
    assert got[-2]["delta"]["stop_reason"] == "refusal"


def test_text_is_what_the_filters_left_of_it():
    chunk = extra(IDENTITY, {"content": "secret", "reasoning_content": "Hm."})
    encoder = MessageEncoder(ANSWERING)
    encoder.begin(post_output())
    filtered = msgspec.structs.replace(chunk, text="[…]")
    frames = encoder.deltas(Answer((filtered, Delta("x", raw=chunk.raw)), changed=True)) + encoder.finish(None)
    assert gathered([data for _, data in events(frames)])[1:] == [{"type": "text", "text": "[…]x"}]


def test_native_frames_are_forwarded_and_nothing_is_added():
    encoder = MessageEncoder(ANSWERING)
    encoder.begin(post_output())
    frames = [b"event: message_start\ndata: {}\n\n", b"event: message_stop\ndata: {}\n\n"]
    deltas = tuple([Delta(raw=frame, native=True) for frame in frames])
    assert encoder.deltas(Answer(deltas)) + encoder.finish(Usage(1, 1)) == b"".join(frames)


def test_an_error_is_the_last_event():
    ((name, data),) = events(MessageEncoder(ANSWERING).error(StageFailed("It broke")))
    assert name == "error"
    assert data == {"type": "error", "error": {"type": "api_error", "message": "It broke"}, "request_id": "r1"}


def whole(*answers: Answer, usage: Usage | None = COUNTED, answering: Answering = ANSWERING) -> dict[str, Any]:
    body = json.loads(compose(answering, post_output(PASSAGE), answers, usage))
    Message.model_validate(body)
    fields: dict[str, Any] = body
    return fields


def test_a_whole_answer_of_text():
    assert whole(Answer((Delta("Hel"),)), Answer((Delta("lo"), Delta(finish_reason="length")))) == {
        "id": "msg_r1",
        "type": "message",
        "role": "assistant",
        "model": "route",
        "content": [{"type": "text", "text": "Hello"}],
        "stop_reason": "max_tokens",
        "stop_sequence": None,
        "usage": {"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 0},
    }
    assert whole(Answer((Delta("Hello"),)), usage=None)["usage"] == {"input_tokens": 3, "output_tokens": 2}


def called(arguments: str) -> Answer:
    function = {"name": "weather", "arguments": arguments}
    message = {
        "content": "Look: ",
        "thinking_blocks": [SIGNED],
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "c0", "type": "function", "function": function}],
    }
    body = completion(IDENTITY, [Choice(message, "tool_calls")], None)
    return Answer((Delta("Look: ", finish_reason="tool_calls", extra=True),), body=body)


def test_a_whole_answer_with_everything():
    answer = called('{"city": "Kiel"}')
    body = whole(answer)
    assert (body["model"], body["stop_reason"]) == ("the-model", "tool_use")
    assert body["content"] == [
        SIGNED,
        {"type": "text", "text": "Look: "},
        {"type": "tool_use", "id": "c0", "name": "weather", "input": {"city": "Kiel"}},
    ]
    assert whole(answer, answering=RENAMED)["model"] == "route"


@pytest.mark.parametrize("arguments", ["{", "[]", "5"])
def test_arguments_that_are_no_object_are_an_error(arguments):
    with pytest.raises(BackendFailed, match="'weather'"):
        whole(called(arguments))


def test_a_native_answer_stays_as_it_is():
    body = b'{"anything": 1}'
    assert compose(ANSWERING, post_output(), [Answer((Delta("x", native=True),), body=body)], None) == body


def test_citations_come_along():
    cites = msgspec.structs.replace(ANSWERING, cites=True)
    assert whole(Answer((Delta("x"),)), answering=cites)["citations"][0]["source"] == PASSAGE.source
    assert streamed(Delta("x"), cites=True)[0]["message"]["citations"][0]["source"] == PASSAGE.source
