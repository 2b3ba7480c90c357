"""What becomes of the answers of a server of Anthropic's Messages."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.edge.wire import events as frames_in
from tests.workers.test_anthropic_requests import LIKELY
from workers import anthropic_errors
from workers.anthropic_dialect import StreamDecoder, decode_message
from workers.anthropic_events import MAX_EVENT
from workers.anthropic_native import NativeDecoder, decode_native
from workers.base import Delta, Usage
from workers.errors import WorkerError, WorkerErrorKind

START = {
    "type": "message_start",
    "message": {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude",
        "content": [],
        "usage": {
            "input_tokens": 5,
            "cache_read_input_tokens": 3,
            "cache_creation_input_tokens": 2,
            "output_tokens": 1,
        },
    },
}
STOP = {"type": "message_stop"}


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def more(index: int, kind: str, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": kind, **delta}}


def end(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def finish(reason: str | None = "end_turn", **delta: Any) -> dict[str, Any]:
    return {
        "type": "message_delta",
        "delta": {"stop_reason": reason, "stop_sequence": None, **delta},
        "usage": {"output_tokens": 9, "output_tokens_details": {"thinking_tokens": 4}},
    }


def wire(*events: dict[str, Any]) -> bytes:
    return b"".join([f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events])


HELLO = (START, begin(0, type="text", text=""), more(0, "text_delta", text="Hel"), more(0, "text_delta", text="lo"))
WHOLE = wire(*HELLO, end(0), finish(), STOP)


def decoded(data: bytes, decoder: Any = None, size: int = 0) -> tuple[list[Delta], list[Usage], Any]:
    """All of a stream, fed in pieces of `size` bytes."""
    decoder = decoder or StreamDecoder(created=7)
    deltas: list[Delta] = []
    usages: list[Usage] = []
    size = size or len(data) or 1
    for at in range(0, len(data), size):
        batch = decoder.feed(data[at : at + size])
        deltas += batch.deltas if batch else ()
        usages += [batch.usage] if batch and batch.usage else []
        if decoder.done or decoder.error:
            break
    return deltas, usages, decoder


def fields(deltas: list[Delta]) -> list[Any]:
    """Of each chunk's delta; the text where it is told without a chunk."""
    return [json.loads(delta.raw)["choices"][0]["delta"] if delta.raw else delta.text for delta in deltas]


@pytest.mark.parametrize("size", [0, 1, 7])
def test_text(size):
    deltas, usages, decoder = decoded(WHOLE, size=size)
    assert [delta.text for delta in deltas] == ["Hel", "lo", ""]
    assert [delta.finish_reason for delta in deltas] == [None, None, "stop"]
    assert not any(delta.extra for delta in deltas)
    first = json.loads(deltas[0].raw)
    assert (first["id"], first["created"], first["model"]) == ("msg_1", 7, "claude")
    assert usages == [Usage(10, 9, cached_tokens=3, reasoning_tokens=4)]
    assert decoder.done


def test_calls_of_tools():
    deltas, _, _ = decoded(
        wire(
            *HELLO,
            end(0),
            begin(1, type="tool_use", id="t1", name="weather", input={}),
            more(1, "input_json_delta", partial_json=""),
            more(1, "input_json_delta", partial_json='{"city":'),
            more(1, "input_json_delta", partial_json='"Kiel"}'),
            end(1),
            begin(2, type="tool_use", id="t2", name="tide", input={}),
            end(2),
            begin(3, type="tool_use", id="t3", name="all", input={"at": "once"}),
            end(3),
            finish("tool_use"),
            STOP,
        )
    )
    calls = [call for delta in fields(deltas) if isinstance(delta, dict) for call in delta.get("tool_calls", ())]
    begun = [(call["index"], call["id"], call["function"]["name"]) for call in calls if "id" in call]
    assert begun == [(0, "t1", "weather"), (1, "t2", "tide"), (2, "t3", "all")]
    arguments = ["".join(c["function"]["arguments"] for c in calls if c["index"] == index) for index in range(3)]
    assert arguments == ['{"city":"Kiel"}', "{}", '{"at":"once"}']
    assert deltas[-1].finish_reason == "tool_calls"


def test_thinking_and_what_has_to_be_given_back():
    sealed = {"type": "redacted_thinking", "data": "xyz"}
    deltas, _, _ = decoded(
        wire(
            START,
            begin(0, type="thinking", thinking="", signature=""),
            more(0, "thinking_delta", thinking="H"),
            more(0, "thinking_delta", thinking="m."),
            more(0, "signature_delta", signature="c2ln"),
            end(0),
            begin(1, **sealed),
            end(1),
            begin(2, type="server_tool_use", id="s", name="web_search", input={}),
            more(2, "input_json_delta", partial_json="{}"),
            end(2),
            begin(3, type="text", text="So"),
            more(3, "citations_delta", citation={"url": "x"}),
            end(3),
            finish(),
            STOP,
        )
    )
    assert fields(deltas) == [
        {"role": "assistant", "reasoning_content": "H"},
        {"reasoning_content": "m."},
        {"thinking_blocks": [{"type": "thinking", "thinking": "Hm.", "signature": "c2ln"}]},
        {"thinking_blocks": [sealed]},
        "So",
        "",
    ]


def test_a_refusal_says_why():
    why = {"type": "refusal", "category": "bio", "explanation": "No."}
    deltas, _, _ = decoded(wire(START, finish("refusal", stop_details=why), STOP))
    assert fields(deltas) == [{"role": "assistant", "refusal": "No."}, ""]
    assert deltas[-1].finish_reason == "content_filter"


def test_what_a_server_may_leave_out_or_say_besides():
    unknown = {"type": "content_moved", "index": "five", "delta": 7}
    ping = {"type": "ping"}
    deltas, _, decoder = decoded(
        wire(START, ping, unknown, more(0, "text_delta", text="a"), more(0, "new_delta", x=1), STOP)
    )
    assert [delta.text for delta in deltas] == ["a", ""]
    assert deltas[-1].finish_reason == "stop"
    assert decoder.done


@pytest.mark.parametrize("kind", [lambda: StreamDecoder(created=7), NativeDecoder])
def test_the_end_of_a_stream_without_its_last_event(kind):
    decoder = kind()
    decoder.feed(wire(*HELLO, end(0), finish()))
    assert not decoder.done
    batch = decoder.end_of_stream()
    assert decoder.done
    assert batch.usage.completion_tokens == 9
    for cut in (wire(*HELLO), wire(*HELLO, finish()) + b"event: x", b""):
        decoder = kind()
        decoder.feed(cut)
        decoder.end_of_stream()
        assert decoder.error.kind is WorkerErrorKind.CUT
        assert decoder.error.retryable


@pytest.mark.parametrize("kind", [lambda: StreamDecoder(created=7), NativeDecoder])
def test_an_error_in_the_stream_comes_after_what_was_before_it(kind):
    error = {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}
    decoder = kind()
    batch = decoder.feed(wire(*HELLO, error, STOP))
    assert "".join([delta.text for delta in batch.deltas]) == "Hello"
    assert decoder.error.kind is WorkerErrorKind.OVERLOADED
    assert decoder.error.retryable
    assert not decoder.done


def test_an_error_before_the_content_leaves_nothing_behind():
    decoder = NativeDecoder()
    assert decoder.feed(wire(START, begin(0, type="text", text=""))) is None
    assert decoder.feed(wire({"type": "error", "error": {"type": "api_error", "message": "x"}})) is None
    assert decoder.error.kind is WorkerErrorKind.UNAVAILABLE


def test_native_frames_are_whole_and_as_they_came():
    deltas, usages, decoder = decoded(WHOLE, NativeDecoder(), size=11)
    assert b"".join([delta.raw for delta in deltas]) == WHOLE
    assert all(delta.native for delta in deltas)
    assert [delta.text for delta in deltas if delta.text] == ["Hel", "lo"]
    assert [delta.finish_reason for delta in deltas if delta.finish_reason] == ["stop"]
    assert usages == [Usage(10, 9, cached_tokens=3, reasoning_tokens=4)]
    assert decoder.done


def test_native_frames_of_several_lines_stay_one_frame():
    data = wire(*HELLO).replace(b'{"type": "content_block_delta",', b'{"type": "content_block_delta",\r\ndata:')
    deltas, _, _ = decoded(data.replace(b"\n\n", b"\nid: 5\n\n"), NativeDecoder())
    kinds = [name for name, _ in frames_in_folded(b"".join([delta.raw for delta in deltas]))]
    assert kinds == ["message_start", "content_block_start", "content_block_delta", "content_block_delta"]


def frames_in_folded(data: bytes) -> list[tuple[str, Any]]:
    return frames_in(data.replace(b",\ndata: ", b","))


def test_a_whole_answer():
    content = [
        {"type": "thinking", "thinking": "Hm.", "signature": "c2ln"},
        {"type": "text", "text": "Hel"},
        {"type": "text", "text": "lo"},
        {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Kiel"}},
    ]
    body = {**START["message"], "content": content, "stop_reason": "tool_use"}
    batch = decode_message(json.dumps(body).encode(), created=7)
    (delta,) = batch.deltas
    assert (delta.text, delta.finish_reason, delta.extra) == ("Hello", "tool_calls", True)
    (choice,) = json.loads(batch.body)["choices"]
    assert choice["message"] == {
        "role": "assistant",
        "content": "Hello",
        "reasoning_content": "Hm.",
        "thinking_blocks": content[:1],
        "tool_calls": [
            {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Kiel"}'}}
        ],
    }
    assert batch.usage == Usage(10, 1, cached_tokens=3)
    kept = decode_native(json.dumps(body).encode())
    assert (kept.body, kept.deltas[0].text, kept.deltas[0].native) == (json.dumps(body).encode(), "Hello", True)


@pytest.mark.parametrize(
    ("status", "said", "kind", "retryable"),
    [
        (400, {"type": "invalid_request_error", "message": "no"}, WorkerErrorKind.BAD_REQUEST, False),
        (
            400,
            {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"},
            WorkerErrorKind.CONTEXT_TOO_LONG,
            False,
        ),
        (
            400,
            {
                "type": "invalid_request_error",
                "message": "input length and `max_tokens` exceed context limit: 199000 + 8000 > 200000",
            },
            WorkerErrorKind.CONTEXT_TOO_LONG,
            False,
        ),
        (401, {"type": "authentication_error", "message": "invalid x-api-key"}, WorkerErrorKind.AUTH, False),
        (403, {"type": "permission_error", "message": "no"}, WorkerErrorKind.AUTH, False),
        (404, {"type": "not_found_error", "message": "model: x"}, WorkerErrorKind.BAD_REQUEST, False),
        (413, {"type": "request_too_large", "message": "no"}, WorkerErrorKind.BAD_REQUEST, False),
        (429, {"type": "rate_limit_error", "message": "slow down"}, WorkerErrorKind.RATE_LIMITED, True),
        (500, {"type": "api_error", "message": "oops"}, WorkerErrorKind.UNAVAILABLE, True),
        (500, {"type": "overloaded_error", "message": "Overloaded"}, WorkerErrorKind.OVERLOADED, True),
        (504, {"type": "timeout_error", "message": "late"}, WorkerErrorKind.TIMEOUT, True),
        (529, {"type": "overloaded_error", "message": "Overloaded"}, WorkerErrorKind.OVERLOADED, True),
        (529, None, WorkerErrorKind.OVERLOADED, True),
        (500, [5], WorkerErrorKind.UNAVAILABLE, True),
    ],
)
def test_errors(status, said, kind, retryable):
    body = json.dumps({"type": "error", "error": said}).encode()
    error = anthropic_errors.refusal(status, {"retry-after": "7"}, body, now=0.0)
    assert (error.kind, error.retryable, error.status, error.retry_after) == (kind, retryable, status, 7.0)
    if isinstance(said, dict) and status != 500:  # a status of its own
        told = anthropic_errors.in_band(said)
        assert (told.kind, told.retryable) == (kind, retryable) or status == 413
        with pytest.raises(WorkerError):
            decode_message(body, created=0)


def test_a_thought_without_end_is_given_up():
    decoder = StreamDecoder(created=7)
    decoder.feed(wire(START, begin(0, type="thinking", thinking="")))
    piece = wire(more(0, "thinking_delta", thinking="x" * (MAX_EVENT // 4)))
    for _ in range(5):
        decoder.feed(piece)
    assert decoder.error.kind is WorkerErrorKind.PROTOCOL


EVENTS = st.sampled_from(
    """message_start content_block_start content_block_delta content_block_stop message_delta message_stop error ping
    x""".split()
)
NAMES = st.sampled_from("type index delta content_block message usage error content stop_reason".split())


@given(st.lists(st.tuples(EVENTS, st.dictionaries(NAMES, LIKELY, max_size=4)), max_size=6), st.integers(0, 3))
def test_any_events_are_an_answer_or_an_error(given_events, size):
    data = wire(*[{**fields, "type": name} for name, fields in given_events])
    for decoder in (StreamDecoder(created=7), NativeDecoder()):
        decoded(data, decoder, size)
        if not decoder.done and decoder.error is None:
            decoder.end_of_stream()
            assert decoder.done or decoder.error is not None


@given(st.dictionaries(NAMES, LIKELY, max_size=6) | LIKELY)
def test_any_body_is_an_answer_or_an_error(body):
    for decode in (lambda data: decode_message(data, created=7), decode_native):
        try:
            batch = decode(json.dumps(body).encode())
        except WorkerError:
            continue
        assert batch.deltas[0].finish_reason
