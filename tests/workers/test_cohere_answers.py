"""Answers of Cohere's chat, as its reference shows them and as nobody would send them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.test_asked import json_values
from workers.base import Delta, DeltaBatch
from workers.canonical import Identity
from workers.cohere_answers import MAX_EVENT, StreamDecoder, decode_completion
from workers.errors import WorkerError, WorkerErrorKind

IDENTITY = Identity("chatcmpl-req-1", 1_700_000_000, "asked-for")
USAGE = {"billed_units": {"input_tokens": 3}, "tokens": {"input_tokens": 11.0, "output_tokens": 4.0}}


def event(kind: str | None, index: int | None = None, **fields) -> dict:
    numbered = {} if index is None else {"index": index}
    return {"type": kind, **numbered, **fields}


def adds(kind: str, index: int | None = None, **message) -> dict:
    return event(kind, index, delta={"message": message})


def ends(reason: str | None = "COMPLETE", **fields) -> dict:
    return event("message-end", delta={"finish_reason": reason, "usage": USAGE, **fields})


def text(words: str) -> dict:
    return adds("content-delta", 0, content={"text": words})


def begins(name: str, index: int | None = 0, arguments: str = "") -> dict:
    call = {"id": f"{name}_1", "type": "function", "function": {"name": name, "arguments": arguments}}
    return adds("tool-call-start", index, tool_calls=call)


def argues(piece: str, index: int | None = 0) -> dict:
    return adds("tool-call-delta", index, tool_calls={"function": {"arguments": piece}})


def wire(*payloads: dict | bytes) -> bytes:
    texts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in payloads]
    return b"".join([b"event: x\ndata: %s\n\n" % one for one in texts])


def fed(*pieces: bytes) -> tuple[list[DeltaBatch], StreamDecoder]:
    """Batches until the decoder is done or has failed; the end of the stream after the last piece."""
    decoder = StreamDecoder(IDENTITY, secrets=("sk-secret-1",))
    batches = []
    for piece in pieces:
        batches.append(decoder.feed(piece))
        if decoder.done or decoder.error:
            break
    else:
        batches.append(decoder.end_of_stream())
    return [batch for batch in batches if batch is not None], decoder


def deltas_of(*payloads: dict | bytes) -> list[Delta]:
    batches, decoder = fed(wire(*payloads))
    assert decoder.done, decoder.error
    return [delta for batch in batches for delta in batch.deltas]


def fields_of(delta: Delta) -> dict:
    """What a chunk says."""
    assert delta.extra
    chunk = json.loads(delta.raw)
    assert (chunk["id"], chunk["model"]) == ("chatcmpl-req-1", "asked-for")
    return chunk["choices"][0]["delta"]


def error_of(*payloads: dict | bytes) -> WorkerError:
    error = fed(wire(*payloads))[1].error
    assert error is not None
    return error


OPENING = adds("message-start", role="assistant", content=[], tool_plan="", tool_calls=[], citations=[])
START = adds("content-start", 0, content={"type": "text", "text": ""})


def test_text_is_plain():
    batches, decoder = fed(wire(OPENING, START, text("Hel"), text("lo"), event("content-end", 0), ends()))
    (batch,) = batches
    assert [(delta.text, bool(delta.raw), delta.extra) for delta in batch.deltas] == [
        ("Hel", True, False),  # which names the model
        ("lo", False, False),
        ("", False, False),
    ]
    assert b'"delta":{"role":"assistant","content":"Hel"}' in batch.deltas[0].raw
    assert batch.deltas[-1].finish_reason == "stop"
    assert (batch.usage.prompt_tokens, batch.usage.completion_tokens) == (11, 4)
    assert decoder.done


def test_thinking_is_reasoning_and_its_first_chunk_says_the_role():
    first, second, said, _ = deltas_of(
        adds("content-start", 0, content={"type": "thinking", "thinking": "H"}),
        adds("content-delta", 0, content={"thinking": "m."}),
        text("So."),
        ends(),
    )
    assert fields_of(first) == {"role": "assistant", "reasoning_content": "H"}
    assert fields_of(second) == {"reasoning_content": "m."}
    assert (said.text, said.raw) == ("So.", b"")


def test_a_plan_and_calls():
    deltas = deltas_of(
        adds("tool-plan-delta", tool_plan="I will look."),
        begins("weather"),
        argues('{"city"'),
        argues(': "Kiel"}'),
        event("tool-call-end", 0),
        begins("tide", 1),
        event("tool-call-end", 1),
        ends("TOOL_CALL"),
    )
    plan, *calls, last = deltas
    assert fields_of(plan)["reasoning_content"] == "I will look."
    told = [fields_of(delta)["tool_calls"][0] for delta in calls]
    assert [(call["index"], call["function"]["arguments"]) for call in told] == [
        (0, ""),
        (0, '{"city"'),
        (0, ': "Kiel"}'),
        (1, ""),
        (1, "{}"),  # a call without arguments has some, for clients that read them
    ]
    assert (told[0]["id"], told[0]["type"], told[0]["function"]["name"]) == ("weather_1", "function", "weather")
    assert last.finish_reason == "tool_calls"


def test_calls_without_an_index_are_told_apart():
    deltas = deltas_of(begins("a", None), argues("{}", None), begins("b", None), argues('{"x":1}', None), ends())
    told = [fields_of(delta)["tool_calls"][0] for delta in deltas[:-1]]
    assert [call["index"] for call in told] == [0, 0, 1, 1]


def test_a_call_whose_end_was_not_told_is_ended():
    assert fields_of(deltas_of(begins("a"), ends())[1])["tool_calls"][0]["function"]["arguments"] == "{}"


def test_citations_are_kept():
    citation = {"start": 0, "end": 2, "text": "So", "sources": [{"type": "document", "id": "a"}]}
    _, cited, _ = deltas_of(text("So."), adds("citation-start", 0, citations=citation), ends())
    assert fields_of(cited) == {"citations": [citation]}


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [
        ("COMPLETE", "stop"),
        ("STOP_SEQUENCE", "stop"),
        ("MAX_TOKENS", "length"),
        ("TOOL_CALL", "tool_calls"),
        ("BORED", "stop"),
        (None, "stop"),
    ],
)
def test_reasons(reason, meaning):
    assert deltas_of(text("a"), ends(reason))[-1].finish_reason == meaning
    whole = json.dumps({"message": {"content": [{"type": "text", "text": "a"}]}, "finish_reason": reason})
    assert decode_completion(whole.encode(), IDENTITY).deltas[0].finish_reason == meaning


@pytest.mark.parametrize(
    ("reason", "error", "kind"),
    [
        ("ERROR", "no GPU for sk-secret-1", "unavailable"),
        ("ERROR", None, "unavailable"),
        ("ERROR", "too many tokens: no", "context_too_long"),
        ("ERROR", "blocked output: no", "content_filtered"),
        ("COMPLETE", "but something broke", "unavailable"),
        ("TIMEOUT", None, "timeout"),
        ("ERROR_LIMIT", None, "context_too_long"),
        ("ERROR_TOXIC", None, "content_filtered"),
        ("ERROR", {"message": "odd"}, "unavailable"),
    ],
)
def test_an_answer_that_ends_in_an_error(reason, error, kind):
    batches, decoder = fed(wire(text("good"), ends(reason, error=error)))
    assert [delta.text for batch in batches for delta in batch.deltas] == ["good"]
    assert not decoder.done
    assert decoder.error.kind == kind
    assert decoder.error.retryable == (kind in ("unavailable", "timeout"))
    assert "sk-secret-1" not in decoder.error.message
    if error is None:
        with pytest.raises(WorkerError) as raised:
            decode_completion(json.dumps({"message": {}, "finish_reason": reason}).encode(), IDENTITY)
        assert raised.value.kind == kind


def test_an_error_that_is_an_event_of_its_own():
    assert error_of(text("a"), {"message": "internal"}).message == "the backend sent an error: internal"
    assert error_of(event("error", message="internal")).kind is WorkerErrorKind.UNAVAILABLE


def test_what_nobody_knows_yet_is_passed_over():
    odd = {"x": [1, None]}
    deltas = deltas_of(
        event("future", 0, delta={"message": {"future": odd}}, **odd),
        {**text("a"), **odd},
        b"[DONE]",
        {**ends(), **odd},
    )
    assert [delta.text for delta in deltas] == ["a", ""]


@pytest.mark.parametrize("tail", [b"", b"event: message-end\ndata: {", b"data: [DONE]\n\n"])
def test_a_stream_without_its_end_is_cut(tail):
    batches, decoder = fed(wire(START, text("a")), tail)
    assert [delta.text for batch in batches for delta in batch.deltas] == ["a"]
    assert (decoder.error.kind, decoder.error.retryable) == (WorkerErrorKind.CUT, True)


@pytest.mark.parametrize(
    "payload",
    [
        b"<html>",
        b"[]",
        b"{}",
        b"null",
        b'{"type":5}',
        b'{"type":"content-delta","delta":[]}',
        b'{"type":"content-delta","delta":{"message":{"content":{"text":5}}}}',
        b'{"type":"content-delta","delta":{"message":{"content":{"text":"\xff"}}}}',
        b'{"type":"content-delta","delta":{"message":{"content":{"text":"\\ud800"}}}}',
        b'{"type":"content-delta","x":' + b"[" * 50_000,
        b'{"type":"tool-call-delta","index":3,"delta":{"message":{"tool_calls":{"function":{"arguments":"{"}}}}}',
        b'{"choices":[{"delta":{"content":"of another dialect"}}]}',
    ],
)
def test_a_malformed_event_ends_the_answer_after_what_was_good(payload):
    batches, decoder = fed(wire(text("good"), payload, text("lost")))
    assert [delta.text for batch in batches for delta in batch.deltas] == ["good"]
    assert decoder.error.kind is WorkerErrorKind.PROTOCOL


def test_an_event_of_ten_megabytes_and_one_beyond_the_limit():
    (batch,), decoder = fed(wire(text("x" * (10 << 20)), ends()))
    assert len(batch.deltas[0].text) == 10 << 20
    assert decoder.done
    assert error_of(text("x" * MAX_EVENT)).kind is WorkerErrorKind.PROTOCOL


ANSWER = wire(
    OPENING,
    adds("content-delta", 0, content={"thinking": "hm ü"}),
    adds("tool-plan-delta", tool_plan="plan"),
    text("grüße 灯"),
    begins("weather"),
    argues('{"ü": 1}'),
    event("tool-call-end", 0),
    begins("tide", 1),
    ends("TOOL_CALL"),
)


def told_by(*pieces: bytes) -> tuple[list[tuple], object]:
    batches, decoder = fed(*pieces)
    assert decoder.done
    deltas = [(d.text, d.finish_reason, d.raw, d.extra) for batch in batches for d in batch.deltas]
    return deltas, [batch.usage for batch in batches if batch.usage]


@given(st.lists(st.integers(0, len(ANSWER)), max_size=12))
def test_the_result_does_not_depend_on_the_cuts(cuts):
    borders = [0, *sorted(cuts), len(ANSWER)]
    assert told_by(*[ANSWER[start:end] for start, end in pairwise(borders)]) == told_by(ANSWER)


KEYS = "type index delta message content text thinking tool_calls function arguments tool_plan error usage".split()
KINDS = "content-delta tool-call-start tool-call-delta tool-call-end tool-plan-delta message-end citation-start".split()
shapes = st.recursive(
    json_values | st.sampled_from(KINDS),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)


@given(
    st.lists(st.fixed_dictionaries({"type": st.sampled_from(KINDS)}, optional={"delta": shapes}) | shapes, max_size=4)
)
def test_any_json_is_an_answer_or_an_error(payloads):
    batches, decoder = fed(wire(*[json.dumps(one).encode() for one in payloads]))
    assert decoder.done != (decoder.error is not None)
    for delta in [delta for batch in batches for delta in batch.deltas if delta.raw]:
        assert json.loads(delta.raw)["choices"]


@given(shapes | st.fixed_dictionaries({"message": shapes}, optional={"usage": shapes, "finish_reason": shapes}))
def test_any_json_is_a_whole_answer_or_an_error(value):
    kinds = set()
    try:
        batch = decode_completion(json.dumps(value).encode(), IDENTITY)
    except WorkerError as error:
        kinds.add(error.kind)
    else:
        assert json.loads(batch.body)["choices"][0]["finish_reason"] == batch.deltas[0].finish_reason
    assert WorkerErrorKind.BAD_REQUEST not in kinds


@given(st.binary(max_size=60))
def test_any_bytes_are_an_error(data):
    assert fed(data)[1].error is not None


def test_a_whole_answer_with_everything():
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": ""}}
    message = {
        "role": "assistant",
        "content": [{"type": "thinking", "thinking": "Hm. "}, {"type": "text", "text": "So."}],
        "tool_plan": "I will look.",
        "tool_calls": [call],
        "citations": [{"start": 0}],
    }
    body = {"id": "x", "finish_reason": "TOOL_CALL", "message": message, "usage": USAGE}
    batch = decode_completion(json.dumps(body).encode(), IDENTITY)
    (delta,) = batch.deltas
    assert (delta.text, delta.finish_reason, delta.extra, delta.raw) == ("So.", "tool_calls", True, b"")
    whole = json.loads(batch.body)
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": "So.",
        "reasoning_content": "Hm. I will look.",
        "tool_calls": [{**call, "function": {"name": "f", "arguments": "{}"}}],
        "citations": [{"start": 0}],
    }
    assert whole["usage"] == {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b'{"message":', b"\xff", b'{"message":null}', b"null"])
def test_a_whole_answer_that_is_none(body):
    with pytest.raises(WorkerError) as raised:
        decode_completion(body, IDENTITY)
    assert raised.value.kind is WorkerErrorKind.PROTOCOL


def test_an_error_where_a_whole_answer_should_be():
    with pytest.raises(WorkerError) as raised:
        decode_completion(b'{"message":"no sk-secret-1"}', IDENTITY, secrets=("sk-secret-1",))
    assert raised.value.message == "the backend sent an error: no [secret]"
