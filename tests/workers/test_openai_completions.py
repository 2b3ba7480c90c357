"""The `openai` worker in front of a backend that has the older completions too."""

import json
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.servers import events, says, streamed, whole
from tests.workers.helpers import ask, calling, told
from workers.base import GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind
from workers.openai_completions import CompletionsDecoder, decode_completion, encode_request

BODY = b'{"model":"m","prompt":"once","echo":true, "logprobs" : 1,"x": [1.50, 1e2]}'
USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def chunk(text: str, *, finish: str | None = None, index: int = 0, **fields) -> dict:
    choice = {"text": text, "index": index, "logprobs": None, "finish_reason": finish}
    return {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": "theirs", "choices": [choice], **fields}


def native(body: bytes = BODY, *, shortened: bool = False, stream: bool = True, **parameters) -> GenerationRequest:
    request = ask("once", stream=stream, body={"messages": [{"role": "user", "content": "once"}]}, **parameters)
    return msgspec.structs.replace(
        request, native=body, native_dialect="completions", rewritten=False, shortened=shortened
    )


ANSWER = streamed(chunk("a "), chunk("time"), chunk("", finish="length"), {**chunk(""), "choices": [], "usage": USAGE})


async def test_a_stream_passes_frame_by_frame():
    async with calling(says(ANSWER)) as (worker, backend):
        answer = await told(worker, native())
    (exchange,) = backend.exchanges
    assert exchange.path == "/v1/completions"
    assert exchange.body == (
        b'{"model":"asked-for","prompt":"once","echo":true,"logprobs":1,"x":[1.50, 1e2],'
        b'"stream_options":{"include_usage":true}}'
    )
    assert answer.text == "a time"
    assert answer.reasons == {0: ["length"]}
    assert [usage.completion_tokens for usage in answer.usages] == [2]
    assert all(delta.native and delta.raw.endswith(b"\n\n") for delta in answer.deltas)
    assert b"".join(delta.raw for delta in answer.deltas) == events(
        chunk("a "), chunk("time"), chunk("", finish="length"), done=False
    )


async def test_a_whole_answer_passes_as_it_is():
    body = {**chunk("once upon", finish="stop"), "usage": USAGE, "x": 1}
    async with calling(says(whole(body))) as (worker, backend):
        answer = await told(worker, native(stream=False))
    (batch,) = answer.batches
    assert batch.body == json.dumps(body).encode()
    assert [(delta.text, delta.finish_reason, delta.native) for delta in batch.deltas] == [("once upon", "stop", True)]
    assert batch.usage.prompt_tokens == 3
    assert "stream_options" not in backend.exchanges[0].json


@pytest.mark.parametrize("section", [{"completions": "chat"}, {}])
async def test_chat_takes_what_is_not_to_be_passed_on(section):
    """By the section, or because the request had to be changed on the way: then it has no native body."""
    request = native() if section else ask("once")
    reply = streamed({"choices": [{"index": 0, "delta": {"content": "hi"}, "finish_reason": "stop"}]})
    async with calling(says(reply), **section) as (worker, backend):
        answer = await told(worker, request)
        assert worker.native_dialects == (frozenset() if section else {"completions"})
    assert backend.exchanges[0].path == "/v1/chat/completions"
    assert not any(delta.native for delta in answer.deltas)


def test_a_shortened_request_keeps_the_client_s_field():
    encoded = encode_request(native(b'{"max_tokens": 100}', shortened=True, max_tokens=5), model="t", ask_usage=False)
    assert encoded == b'{"max_tokens":5,"model":"t"}'


@pytest.mark.parametrize("body", [b"[1]", b"{", b"\xff"])
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(WorkerError) as raised:
        encode_request(native(body), model=None, ask_usage=True)
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST


def fed(*parts: bytes, choices: int = 1, end: bool = False):
    decoder = CompletionsDecoder(choices=choices)
    batches = [batch for part in parts if (batch := decoder.feed(part)) is not None]
    if end and (batch := decoder.end_of_stream()) is not None:
        batches.append(batch)
    return batches, decoder


def test_several_choices_in_one_frame_are_forwarded_once():
    both = chunk("a")
    both["choices"].append({"text": "b", "index": 1, "finish_reason": "stop"})
    batches, decoder = fed(events(both, chunk("", finish="stop")), choices=2)
    deltas = [delta for batch in batches for delta in batch.deltas]
    assert [(delta.index, delta.text, bool(delta.raw)) for delta in deltas] == [
        (0, "a", True),
        (1, "b", False),
        (0, "", True),
    ]
    assert decoder.done


def test_the_reason_comes_once_and_in_openai_s_words():
    batches, decoder = fed(events(chunk("a", finish="eos_token"), chunk("", finish="abort"), chunk("")))
    assert [delta.finish_reason for batch in batches for delta in batch.deltas] == ["stop", None, None]
    assert b"eos_token" in batches[0].deltas[0].raw
    assert decoder.done


def test_json_over_several_lines_stays_one_frame():
    (batch,), _ = fed(b'data: {"choices":\ndata: [{"text":"a","index":0}]}\n\n')
    assert batch.deltas[0].raw == b'data: {"choices":\ndata: [{"text":"a","index":0}]}\n\n'


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"error": {"message": "m", "code": 503}}, WorkerErrorKind.OVERLOADED),
        ({"message": "m", "object": "error", "code": 400}, WorkerErrorKind.BAD_REQUEST),
        (b"{", WorkerErrorKind.PROTOCOL),
        (b'{"choices":[{"text":"\xff"}]}', WorkerErrorKind.PROTOCOL),
        (b'{"choices":[{"index":-1}]}', WorkerErrorKind.PROTOCOL),
        (b'{"choices":[{"index":"x"}]}', WorkerErrorKind.PROTOCOL),
    ],
)
def test_what_goes_wrong_within_a_stream_comes_after_what_was_said(payload, kind):
    (batch,), decoder = fed(events(chunk("good"), payload))
    assert [delta.text for delta in batch.deltas] == ["good"]
    assert decoder.error.kind is kind
    assert not decoder.done


def test_a_stream_that_ends_too_early_is_cut():
    _, decoder = fed(events(chunk("a"), done=False), end=True)
    assert (decoder.error.kind, decoder.error.retryable) == (WorkerErrorKind.CUT, True)
    _, decoder = fed(events(chunk("a", finish="stop"), done=False), end=True)
    assert decoder.done


@pytest.mark.parametrize("body", [b"", b"<html>", b"[]", b"{}", b'{"choices":[]}', b'{"choices":3}'])
def test_a_whole_answer_that_is_none(body):
    with pytest.raises(WorkerError) as raised:
        decode_completion(body)
    assert raised.value.kind is WorkerErrorKind.PROTOCOL


@given(st.lists(st.integers(0, 300), max_size=8))
def test_how_the_bytes_were_cut_does_not_matter(cuts):
    data = events(chunk("hé "), chunk("there", index=1), chunk("", finish="stop"), chunk("", finish="length", index=1))
    edges = sorted({0, len(data), *[cut for cut in cuts if cut < len(data)]})
    batches, decoder = fed(*[data[a:b] for a, b in pairwise(edges)], choices=2)
    assert decoder.done
    assert b"".join(delta.raw for batch in batches for delta in batch.deltas) + b"data: [DONE]\n\n" == data
