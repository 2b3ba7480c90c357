"""Answers of Ollama's chat, as its reference shows them and as nobody would send them."""

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.test_asked import json_values
from workers.base import Delta, DeltaBatch
from workers.canonical import Identity
from workers.errors import WorkerError, WorkerErrorKind
from workers.ollama_answers import MAX_LINE, StreamDecoder, decode_completion, decode_embedded

IDENTITY = Identity("chatcmpl-req-1", 1_700_000_000, "asked-for")


def frame(content: str = "", **fields) -> dict:
    message = {"role": "assistant", "content": content, **fields}
    return {"model": "m", "created_at": "2025-10-26T17:15:24.097767Z", "message": message, "done": False}


def last(reason: str | None = "stop", **fields) -> dict:
    counts = {"prompt_eval_count": 11, "eval_count": 4, "total_duration": 5, **fields}
    return {**frame(), "done": True, "done_reason": reason, **counts}


def calls(*functions: tuple[str, object], ids: tuple[str, ...] = ()) -> dict:
    told = [{"function": {"name": name, "arguments": arguments}} for name, arguments in functions]
    return frame(tool_calls=[{**call, "id": call_id} for call, call_id in zip(told, ids, strict=True)] if ids else told)


def wire(*payloads: dict | bytes) -> bytes:
    texts = [one if isinstance(one, bytes) else json.dumps(one).encode() for one in payloads]
    return b"".join([one + b"\n" for one in texts])


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


def test_text_is_plain():
    (batch,), decoder = fed(wire(frame("Hel"), frame("lo"), last()))
    assert [(delta.text, bool(delta.raw), delta.extra, delta.finish_reason) for delta in batch.deltas] == [
        ("Hel", True, False, None),  # which names the model
        ("lo", False, False, None),
        ("", False, False, "stop"),
    ]
    assert b'"delta":{"role":"assistant","content":"Hel"}' in batch.deltas[0].raw
    assert (batch.usage.prompt_tokens, batch.usage.completion_tokens) == (11, 4)
    assert decoder.done


def test_thinking_is_reasoning_and_its_first_chunk_says_the_role():
    first, second, said, _ = deltas_of(frame(thinking="H"), frame(thinking="m."), frame("So."), last())
    assert fields_of(first) == {"role": "assistant", "reasoning_content": "H"}
    assert fields_of(second) == {"reasoning_content": "m."}
    assert (said.text, said.raw) == ("So.", b"")


def test_calls_are_counted_over_all_frames_and_end_the_answer_as_such():
    first, second, end = deltas_of(calls(("f", {"a": 1}), ("g", {})), calls(("h", {}), ids=("c9",)), last())
    told = [*fields_of(first)["tool_calls"], *fields_of(second)["tool_calls"]]
    assert [(call["index"], call["id"], call["function"]["name"]) for call in told] == [
        (0, "call_req-1_0", "f"),
        (1, "call_req-1_1", "g"),
        (2, "c9", "h"),
    ]
    assert [json.loads(call["function"]["arguments"]) for call in told] == [{"a": 1}, {}, {}]
    assert end.finish_reason == "tool_calls"
    assert deltas_of(calls(("f", {})), last("length"))[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (b'{"big": 123456789012345678901234567890}', '{"big": 123456789012345678901234567890}'),
        (b'"{\\"a\\": 1}"', '{"a": 1}'),
        (b'""', "{}"),
        (b"null", "{}"),
    ],
)
def test_arguments(arguments, text):
    line = b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":%s}}]}}' % arguments
    assert fields_of(deltas_of(line, last())[0])["tool_calls"][0]["function"]["arguments"] == text


@pytest.mark.parametrize(
    ("reason", "meaning"),
    [("stop", "stop"), ("length", "length"), ("load", "stop"), ("unload", "stop"), ("bored", "stop"), (None, "stop")],
)
def test_reasons(reason, meaning):
    assert deltas_of(frame("a"), last(reason))[-1].finish_reason == meaning
    assert decode_completion(json.dumps(last(reason)).encode(), IDENTITY).deltas[0].finish_reason == meaning


def test_usage_may_be_missing_in_parts():
    (batch,), _ = fed(wire({"done": True}))
    assert batch.usage is None
    (batch,), _ = fed(wire({"done": True, "eval_count": 3}))
    assert (batch.usage.prompt_tokens, batch.usage.completion_tokens) == (0, 3)
    (batch,), _ = fed(wire(last(prompt_eval_count="many", eval_count=-2)))
    assert (batch.usage.prompt_tokens, batch.usage.completion_tokens) == (0, 0)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ("an error was encountered while running the model: sk-secret-1", "unavailable"),
        ("the input length exceeds the context length", "context_too_long"),
        ("server busy, please try again", "overloaded"),
        ({"odd": True}, "unavailable"),
    ],
)
def test_an_error_within_the_stream_ends_the_answer(error, kind):
    batches, decoder = fed(wire(frame("good"), {"error": error}, frame("lost")))
    assert [delta.text for batch in batches for delta in batch.deltas] == ["good"]
    assert not decoder.done
    assert decoder.error.kind == kind
    assert decoder.error.retryable == (kind in ("unavailable", "overloaded"))
    assert "sk-secret-1" not in decoder.error.message
    with pytest.raises(WorkerError) as raised:
        decode_completion(json.dumps({"error": error}).encode(), IDENTITY)
    assert raised.value.kind == kind


@pytest.mark.parametrize("tail", [b"", b'{"model":"m","mess', b'{"message":{"content":""},"done":false}'])
def test_a_stream_without_its_end_is_cut(tail):
    batches, decoder = fed(wire(frame("a")), tail)
    assert [delta.text for batch in batches for delta in batch.deltas] == ["a"]
    assert (decoder.error.kind, decoder.error.retryable) == (WorkerErrorKind.CUT, True)


def test_the_last_line_may_be_without_its_end():
    batches, decoder = fed(wire(frame("a")), wire(last()).rstrip())
    assert decoder.done
    assert batches[-1].usage is not None
    _, decoder = fed(b'{"error":"out of memory"}')
    assert decoder.error.kind is WorkerErrorKind.UNAVAILABLE


@pytest.mark.parametrize(
    "payload",
    [
        b"<html>",
        b"[]",
        b"{}",
        b"null",
        b"data: {}",
        b'{"status":"pulling"}',
        b'{"message":"x"}',
        b'{"message":{"content":5}}',
        b'{"message":{"content":"\xff"}}',
        b'{"x":"\xff","message":{"content":"a"}}',
        b'{"message":{"content":"\\ud800"}}',
        b'{"message":{"tool_calls":{}}}',
        b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":[1]}}]}}',
        b'{"message":{"tool_calls":[{"function":{"name":"f","arguments":"\\ud800"}}]}}',
        b'{"message":{},"done":"yes"}',
        b'{"message":{},"x":' + b"[" * 50_000,
    ],
)
def test_a_malformed_line_ends_the_answer_after_what_was_good(payload):
    batches, decoder = fed(wire(frame("good"), payload, frame("lost")))
    assert [delta.text for batch in batches for delta in batch.deltas] == ["good"]
    assert decoder.error.kind is WorkerErrorKind.PROTOCOL


def test_a_line_of_ten_megabytes_and_one_beyond_the_limit():
    (batch,), decoder = fed(wire(frame("x" * (10 << 20)), last()))
    assert len(batch.deltas[0].text) == 10 << 20
    assert decoder.done
    batches, decoder = fed(wire(frame("good"), frame("x" * MAX_LINE)))
    assert [delta.text for batch in batches for delta in batch.deltas] == ["good"]
    assert decoder.error.kind is WorkerErrorKind.PROTOCOL


ANSWER = wire(frame(thinking="hm ü"), frame("grüße 灯"), calls(("f", {"ü": 1}), ("g", {})), frame(" x"), last())


def told_by(*pieces: bytes) -> tuple[list[tuple], object]:
    batches, decoder = fed(*pieces)
    assert decoder.done
    deltas = [(d.text, d.finish_reason, d.raw, d.extra) for batch in batches for d in batch.deltas]
    return deltas, [batch.usage for batch in batches if batch.usage]


@given(st.lists(st.integers(0, len(ANSWER)), max_size=12), st.booleans())
def test_the_result_does_not_depend_on_the_cuts(cuts, ended):
    data = ANSWER if ended else ANSWER.rstrip()
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    assert told_by(*[data[start:end] for start, end in pairwise(borders)]) == told_by(ANSWER)


KEYS = "message content thinking tool_calls function name arguments done done_reason error id eval_count".split()
shapes = st.recursive(
    json_values,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=12,
)
frames = st.fixed_dictionaries({"message": shapes}, optional={"done": st.booleans() | shapes, "eval_count": shapes})


@given(st.lists(frames | shapes, max_size=4))
def test_any_json_is_an_answer_or_an_error(payloads):
    batches, decoder = fed(wire(*[json.dumps(one).encode() for one in payloads]))
    assert decoder.done != (decoder.error is not None)
    for delta in [delta for batch in batches for delta in batch.deltas if delta.raw]:
        assert json.loads(delta.raw)["choices"]


@given(frames | shapes)
def test_any_json_is_a_whole_answer_or_an_error(value):
    kinds = set()
    try:
        batch = decode_completion(json.dumps(value).encode(), IDENTITY)
    except WorkerError as error:
        kinds.add(error.kind)
    else:
        assert json.loads(batch.body)["choices"][0]["finish_reason"] == batch.deltas[0].finish_reason
    assert WorkerErrorKind.AUTH not in kinds


@given(st.binary(max_size=60))
def test_any_bytes_are_an_error(data):
    assert fed(data)[1].error is not None


def test_a_whole_answer_with_everything():
    body = {**last(), "message": {**calls(("f", {"a": 1}))["message"], "content": "So.", "thinking": "Hm."}}
    batch = decode_completion(json.dumps(body).encode(), IDENTITY)
    (delta,) = batch.deltas
    assert (delta.text, delta.finish_reason, delta.extra, delta.raw) == ("So.", "tool_calls", True, b"")
    whole = json.loads(batch.body)
    function = {"name": "f", "arguments": '{"a": 1}'}
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": "So.",
        "reasoning_content": "Hm.",
        "tool_calls": [{"id": "call_req-1_0", "type": "function", "function": function}],
    }
    assert whole["usage"] == {"prompt_tokens": 11, "completion_tokens": 4, "total_tokens": 15}


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b'{"message":', b"\xff", b"null", b"{}\n{}"])
def test_a_whole_answer_that_is_none(body):
    with pytest.raises(WorkerError) as raised:
        decode_completion(body, IDENTITY)
    assert raised.value.kind is WorkerErrorKind.PROTOCOL


def test_a_whole_answer_that_is_not_complete():
    with pytest.raises(WorkerError) as raised:
        decode_completion(json.dumps(frame("a")).encode(), IDENTITY)
    assert raised.value.kind is WorkerErrorKind.CUT


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"<html>", b'{"embeddings":[[1]]}', b'{"embeddings":[[1],[2,3]]}', b'{"embeddings":[["a"],["b"]]}'],
)
def test_vectors_that_are_none(body):
    with pytest.raises(WorkerError) as raised:
        decode_embedded(body, ["a", "b"])
    assert raised.value.kind is WorkerErrorKind.PROTOCOL
