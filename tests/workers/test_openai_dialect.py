import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers import chunk, completion, events, usage_chunk
from tests.workers.helpers import ask
from workers.base import ChatMessage, DeltaBatch
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai_dialect import StreamDecoder, decode_completion, encode_request

# A client's body as bytes that any decoding and encoding would change.
BODY = (
    b'{"model": "asked-for", "messages": [ {"role":"user","content":"hi","name":"\\u0041nn"} ], "temperature": 1.0e0,'
    b' "tools": [{"type": "function", "function": {"name": "f", "parameters": {"b": 1.50, "a": 2}}}],'
    b' "seed": 123456789012345678901234567890, "x_unknown": {"k": [null, 1e400]}, "stream": true}'
)


def encoded(request, *, model=None, ask_usage=True):
    return encode_request(request, model=model, ask_usage=ask_usage)


def test_the_clients_fields_pass_as_their_bytes_stand():
    sent = encoded(ask(body=BODY, rewritten=False))
    for untouched in (
        b'"messages":[ {"role":"user","content":"hi","name":"\\u0041nn"} ]',
        b'"temperature":1.0e0',
        b'"tools":[{"type": "function", "function": {"name": "f", "parameters": {"b": 1.50, "a": 2}}}]',
        b'"seed":123456789012345678901234567890',
        b'"x_unknown":{"k": [null, 1e400]}',
        b'"model":"asked-for"',
        b'"stream":true',
    ):
        assert untouched in sent
    assert sent.count(b'"stream_options":{"include_usage":true}') == 1


def test_what_must_differ_is_replaced():
    messages = (ChatMessage("system", "rules"), ChatMessage("user", "hi", b'{"role": "user","content":"hi","x":1.0}'))
    sent = encoded(ask(messages=messages, body=BODY, stream=False), model="theirs")
    assert b'"messages":[{"role":"system","content":"rules"},{"role": "user","content":"hi","x":1.0}]' in sent
    fields = json.loads(sent)
    assert (fields["model"], fields["stream"]) == ("theirs", False)
    assert "stream_options" not in fields


@pytest.mark.parametrize(
    ("given_options", "sent_options"),
    [
        (None, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_obfuscation": False, "include_usage": True}),
        ([1], [1]),  # the backend's to refuse
    ],
)
def test_usage_is_asked_for_in_streams(given_options, sent_options):
    body = {"stream": True, "stream_options": given_options}
    assert json.loads(encoded(ask(body=body)))["stream_options"] == sent_options
    assert json.loads(encoded(ask(body=body), ask_usage=False))["stream_options"] == given_options
    assert json.loads(encoded(ask(body=body, stream=False)))["stream_options"] == given_options


def test_a_request_of_another_dialect_is_built_from_its_parameters():
    request = ask("hi", stream=False, max_tokens=5, temperature=0.5, top_p=0.9, stop=("a", "b"), n=2, seed=7)
    assert json.loads(encoded(request)) == {
        "model": "asked-for",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": False,
        "max_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.9,
        "stop": ["a", "b"],
        "n": 2,
        "seed": 7,
    }
    bare = ask("hi", rewritten=False)  # without a body there are no messages to leave as they are
    assert json.loads(encoded(bare)) == {
        "model": "asked-for",
        "messages": [{"role": "user", "content": "hi"}],
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def limits_of(sent: bytes) -> dict[str, object]:
    return {name: value for name, value in json.loads(sent).items() if name.startswith("max_")}


@pytest.mark.parametrize(
    ("given_limits", "sent_limits"),
    [
        (b"", {"max_tokens": 256}),
        (b', "max_tokens": 1000', {"max_tokens": 256}),
        (b', "max_completion_tokens":1000', {"max_completion_tokens": 256}),
        (b', "max_tokens":900,"max_completion_tokens": 1000', {"max_tokens": 256, "max_completion_tokens": 256}),
        (b', "max_tokens":10,"max_completion_tokens": 1000', {"max_tokens": 10, "max_completion_tokens": 256}),
        (b', "max_tokens":null', {"max_tokens": 256}),
        (b', "max_completion_tokens": null', {"max_completion_tokens": 256}),
        (b', "max_tokens":null,"max_completion_tokens":null', {"max_tokens": None, "max_completion_tokens": 256}),
        (b', "max_tokens":500,"max_completion_tokens":null', {"max_tokens": 256, "max_completion_tokens": None}),
        (b', "max_tokens":"1000"', {"max_tokens": 256}),  # no door of ours lets this in
    ],
)
@pytest.mark.parametrize("rewritten", [True, False])
def test_a_shortened_request_is_sent_with_the_lower_limit_and_everything_else_as_it_stands(
    given_limits, sent_limits, rewritten
):
    messages = (ChatMessage("user", "hi", b'{"role":"user","content":"hi","name":"\\u0041nn"}'),)
    body = BODY[:-1] + given_limits + b"}"
    request = ask(messages=messages, body=body, rewritten=rewritten, shortened=True, max_tokens=256)
    sent = encoded(request)
    assert limits_of(sent) == sent_limits
    plain = encoded(ask(messages=messages, body=body, rewritten=rewritten, max_tokens=256))
    assert without_limits(sent) == without_limits(plain)
    assert b'"seed":123456789012345678901234567890,"x_unknown":{"k": [null, 1e400]}' in sent


def without_limits(sent: bytes) -> bytes:
    return re.sub(rb',"max_(completion_)?tokens":("\d+"|\d+|null)', b"", sent)


@pytest.mark.parametrize("limit", [b"1000", b"null", b"1.0e3", b'"x"'])
def test_a_request_that_is_not_shortened_keeps_its_own_limits(limit):
    body = b'{"max_tokens":%s,"max_completion_tokens":%s}' % (limit, limit)
    sent = encoded(ask(body=body, max_tokens=256))
    assert b'"max_tokens":%s,"max_completion_tokens":%s' % (limit, limit) in sent


def test_a_shortened_request_of_another_dialect_has_its_limit_once():
    assert limits_of(encoded(ask("hi", shortened=True, max_tokens=5))) == {"max_tokens": 5}


@pytest.mark.parametrize("body", [b"[1]", b"{", b'{"a": 01}', b"\xff", b'{"a":' + b"[" * 100_000])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(WorkerError) as raised:
        encoded(ask(body=body))
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST


def fed(*parts: bytes, choices: int = 1, end: bool = False) -> tuple[list[DeltaBatch], StreamDecoder]:
    decoder = StreamDecoder(choices=choices)
    batches = [decoder.feed(part) for part in parts]
    if end:
        batches.append(decoder.end_of_stream())
    return [batch for batch in batches if batch is not None], decoder


def test_what_arrives_together_is_one_batch_and_payloads_stay_as_they_are():
    first, second = b'{"choices": [{"delta":{"content":"a"}}],"n":1.0}', b'{"choices":[{"delta":{"content":"b"}}]}'
    batches, decoder = fed(events(first, second, done=False), events(chunk(finish="stop")))
    assert [[delta.text for delta in batch.deltas] for batch in batches] == [["a", "b"], [""]]
    assert [delta.raw for delta in batches[0].deltas] == [first, second]
    assert batches[1].deltas[0].finish_reason == "stop"
    assert decoder.done


def test_usage_comes_once_with_its_bytes_and_without_a_delta():
    payload = b'{"choices":[],"usage": {"prompt_tokens":3, "completion_tokens":2,"x": 1.0}}'
    batches, _ = fed(events(chunk("a", finish="stop"), payload))
    (batch,) = batches
    assert len(batch.deltas) == 1
    assert (batch.usage.prompt_tokens, batch.usage.completion_tokens) == (3, 2)
    assert batch.usage.raw == b'{"prompt_tokens":3, "completion_tokens":2,"x": 1.0}'


def test_the_last_of_running_counts_is_the_usage():
    counting = [
        {**chunk("a", finish=reason), "usage": usage_chunk(3, n)["usage"]} for n, reason in ((1, None), (2, "stop"))
    ]
    batches, _ = fed(*[events(part, done=False) for part in counting], events())
    assert [batch.usage.completion_tokens for batch in batches if batch.usage] == [2]
    assert sum(len(batch.deltas) for batch in batches) == 2


@pytest.mark.parametrize(
    "usage", [3, "x", [], {"prompt_tokens": "a", "completion_tokens": None}, {"prompt_tokens": -1}]
)
def test_a_strange_usage_object_breaks_no_answer(usage):
    batches, decoder = fed(events({**chunk("a", finish="stop"), "usage": usage}))
    assert decoder.done
    assert [(batch.usage.prompt_tokens, batch.usage.completion_tokens) for batch in batches if batch.usage] in (
        [],
        [(0, 0)],
    )


@pytest.mark.parametrize(
    ("fields", "extra"),
    [
        ({"content": "a"}, False),
        ({"role": "assistant", "content": ""}, False),
        ({"role": "assistant", "content": None}, False),
        ({"content": "a", "tool_calls": [], "refusal": None, "reasoning_content": ""}, False),
        ({"tool_calls": [{"index": 0}]}, True),
        ({"content": None, "tool_calls": [{"index": 0}]}, True),
        ({"content": "", "reasoning_content": "hm"}, True),
        ({"content": "", "something_new": 1}, True),
        ({"content": [{"type": "text", "text": "a"}]}, True),
        ({}, False),
    ],
)
def test_chunks_with_more_than_text_are_marked(fields, extra):
    payload = {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}
    (batch,), _ = fed(events(payload, done=False))
    assert batch.deltas[0].extra is extra


def test_log_probabilities_are_more_than_text():
    payload = {"choices": [{"index": 0, "delta": {"content": "a"}, "logprobs": {"content": []}}]}
    (batch,), _ = fed(events(payload, done=False))
    assert batch.deltas[0].extra


def test_a_chunk_of_several_choices_is_forwarded_once():
    both = {"choices": [*chunk("a")["choices"], *chunk("b", index=1)["choices"]]}
    (batch,), _ = fed(events(both, done=False), choices=2)
    assert [(delta.index, delta.text, delta.extra) for delta in batch.deltas] == [(0, "a", True), (1, "b", True)]
    assert [bool(delta.raw) for delta in batch.deltas] == [True, False]


def test_every_choice_gets_one_finish_reason():
    twice = [chunk("a", finish="length"), chunk(finish="stop"), chunk("b", index=1, finish=""), chunk("c", index=2)]
    batches, _ = fed(events(*twice), choices=3)
    reasons = [(delta.index, delta.finish_reason) for batch in batches for delta in batch.deltas if delta.finish_reason]
    assert reasons == [(0, "length"), (1, "stop"), (2, "stop")]


def test_a_chunk_of_the_backends_own_passes():
    payload = {"choices": [], "prompt_filter_results": [1]}
    batches, decoder = fed(events(payload, chunk("a", finish="stop")))
    assert json.loads(batches[0].deltas[0].raw) == payload
    assert batches[0].deltas[0].extra
    assert decoder.done


def test_an_object_that_is_no_chunk_is_left_out():
    (batch,), decoder = fed(events({"type": "ping"}, {"usage": usage_chunk()["usage"]}, chunk("a", finish="stop")))
    assert [delta.text for delta in batch.deltas] == ["a"]
    assert batch.usage is not None
    assert decoder.done


ERRORS = [
    {"error": {"message": "too long", "code": 400}},
    {"object": "error", "message": "too long", "code": 400},
    {"message": "too long", "type": "invalid_request_error", "choices": []},
]


@pytest.mark.parametrize("error", ERRORS)
def test_an_error_in_place_of_an_answer(error):
    _, decoder = fed(events(error))
    with pytest.raises(WorkerError) as raised:
        decode_completion(json.dumps(error).encode())
    for found in (decoder.error, raised.value):
        assert (found.kind, found.message) == (WorkerErrorKind.BAD_REQUEST, "the backend sent an error: too long")


@pytest.mark.parametrize("payloads", [(), ({"choices": []},)])
def test_an_end_without_an_answer_is_a_cut(payloads):
    _, decoder = fed(events(*payloads))
    assert decoder.error.kind is WorkerErrorKind.CUT
    assert not decoder.done


def test_the_end_of_the_stream_is_enough_when_every_choice_is_finished():
    _, one = fed(events(chunk("a", finish="stop"), done=False), end=True)
    assert (one.done, one.error) == (True, None)
    _, half = fed(events(chunk("a", finish="stop"), done=False), choices=2, end=True)
    assert half.error.kind is WorkerErrorKind.CUT
    _, open_ended = fed(events(chunk("a"), done=False), end=True)
    assert open_ended.error.kind is WorkerErrorKind.CUT
    assert open_ended.error.retryable
    _, within = fed(events(chunk("a"), done=False) + b"data: {", end=True)
    assert "within an event" in within.error.message


@pytest.mark.parametrize(
    "payload",
    [
        b"{",
        b"null",
        b"[]",
        b'"text"',
        b"<html>",
        b'{"choices":3}',
        b'{"choices":[{"delta":3}]}',
        b'{"choices":[{"index":-1,"delta":{}}]}',
        b'{"choices":[{"index":99999,"delta":{}}]}',
        b'{"choices":[{"index":"0","delta":{}}]}',
        b'{"choices":[{"delta":{"content":"\xff"}}]}',
        b'{"id":"\xff","choices":[{"delta":{"content":"a"}}]}',  # in a field that is not decoded
        b'{"choices":[{"delta":{"content":"\\ud800"}}]}',
        b'{"choices":[{"delta":{"x":' + b"[" * 50_000,
    ],
)
def test_a_malformed_event_ends_the_answer_after_what_was_good(payload):
    (batch,), decoder = fed(events(chunk("good"), payload, chunk("lost")))
    assert [delta.text for delta in batch.deltas] == ["good"]
    assert decoder.error.kind is WorkerErrorKind.PROTOCOL
    assert not decoder.done


def test_an_error_within_the_stream_ends_the_answer():
    (batch,), decoder = fed(events(chunk("good"), {"error": {"message": "out of memory", "code": 500}}))
    assert len(batch.deltas) == 1
    assert (decoder.error.kind, decoder.error.retryable) == (WorkerErrorKind.UNAVAILABLE, True)
    assert "out of memory" in decoder.error.message


@given(st.lists(st.integers(0, 400), max_size=10))
def test_deltas_do_not_depend_on_the_cuts(cuts):
    data = b": hi\r\n\r\n" + events(chunk("wörld"), chunk("b"), chunk(finish="stop"), usage_chunk())
    borders = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    batches, decoder = fed(*[data[start:end] for start, end in pairwise(borders)])
    deltas = [(delta.text, delta.finish_reason) for batch in batches for delta in batch.deltas]
    assert deltas == [("wörld", None), ("b", None), ("", "stop")]
    assert sum(batch.usage is not None for batch in batches) == 1
    assert decoder.done


def test_a_whole_answer_keeps_its_bytes():
    body = json.dumps(completion("hello", "you"), indent=1).encode()
    batch = decode_completion(body)
    assert batch.body is body
    assert [(delta.index, delta.text, delta.finish_reason, delta.raw) for delta in batch.deltas] == [
        (0, "hello", "stop", b""),
        (1, "you", "stop", b""),
    ]
    assert (batch.usage.prompt_tokens, batch.usage.completion_tokens) == (3, 2)
    assert json.loads(batch.usage.raw) == completion()["usage"]


def test_a_whole_answer_with_tool_calls():
    message = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    batch = decode_completion(json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}).encode())
    (delta,) = batch.deltas
    assert (delta.text, delta.finish_reason, delta.extra, batch.usage) == ("", "tool_calls", True, None)


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"<html>", b'{"choices":[]}', b'{"choices":[{"message":', b"\xff"])
def test_a_whole_answer_that_is_none(body):
    with pytest.raises(WorkerError) as raised:
        decode_completion(body)
    assert raised.value.kind is WorkerErrorKind.PROTOCOL


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("stop", "stop"),
        ("length", "length"),
        ("tool_calls", "tool_calls"),
        ("content_filter", "content_filter"),
        ("function_call", "function_call"),
        ("eos_token", "stop"),
        ("max_tokens", "length"),
        ("MAX_TOKENS", "length"),
        ("tool_use", "tool_calls"),
        ("SAFETY", "content_filter"),
        ("something_new", "stop"),
        ("", "stop"),
        (None, "stop"),
    ],
)
def test_reasons_in_openai_s_words_whatever_the_server_s(said, meant):
    batches, decoder = fed(events(chunk("a", finish=said)))
    reasons = [delta.finish_reason for batch in batches for delta in batch.deltas if delta.finish_reason]
    assert reasons == [meant]
    assert decoder.done
    assert json.loads(batches[0].deltas[0].raw)["choices"][0]["finish_reason"] == said
    whole_answer = completion("a")
    whole_answer["choices"][0]["finish_reason"] = said
    assert decode_completion(json.dumps(whole_answer).encode()).deltas[0].finish_reason == meant


@pytest.mark.parametrize(
    ("details", "cached", "reasoning"),
    [
        ({"prompt_tokens_details": {"cached_tokens": 2}}, 2, 0),
        ({"completion_tokens_details": {"reasoning_tokens": 1}}, 0, 1),
        ({"prompt_cache_hit_tokens": 2}, 2, 0),  # DeepSeek
        ({"prompt_tokens_details": None, "completion_tokens_details": 3}, 0, 0),
        ({"prompt_tokens_details": {"cached_tokens": "x"}, "completion_tokens_details": []}, 0, 0),
        ({"prompt_tokens_details": {"cached_tokens": -1}}, 0, 0),
    ],
)
def test_parts_of_the_usage(details, cached, reasoning):
    told = usage_chunk()
    told["usage"] |= details
    batches, _ = fed(events(chunk("a", finish="stop"), told))
    usage = batches[-1].usage
    assert (usage.prompt_tokens, usage.cached_tokens, usage.reasoning_tokens) == (3, cached, reasoning)
    assert json.loads(usage.raw) == told["usage"]


@pytest.mark.parametrize("name", ["reasoning_content", "reasoning", "tool_calls", "refusal"])
def test_what_is_more_than_text_is_marked(name):
    batches, _ = fed(events(chunk(**{name: "because"}), chunk("a", finish="stop")))
    assert [delta.extra for batch in batches for delta in batch.deltas] == [True, False]
