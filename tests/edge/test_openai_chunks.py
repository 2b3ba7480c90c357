"""Streamed answers: chunks of ours, or a backend's own."""

import json
from typing import Any

import msgspec
import pytest
from openai.types.chat import ChatCompletionChunk as OfficialChunk

from pipeline.core.errors import BackendFailed
from pipeline.core.ports import Answer
from pipeline.edge.openai_answers import Answering
from pipeline.edge.openai_chunks import ChunkEncoder
from pipeline.edge.openai_types import ChatCompletionChunk
from tests.edge.messages import PASSAGE, post_output
from tests.edge.wire import events
from workers.base import Delta, Usage


def encoder(*, rename: bool = False, usage: bool = False, passages: Any = None) -> ChunkEncoder:
    """Of a route with a collection where `passages` are given, be there none."""
    made = ChunkEncoder(Answering("r1", "docs", rename, cites=passages is not None), usage=usage)
    made.begin(post_output(*passages or ()))
    return made


def theirs(text: str | None = None, *, index: int = 0, finish: str | None = None, **more: Any) -> bytes:
    choices = [{"index": index, "delta": {"content": text}, "finish_reason": finish}]
    return json.dumps({"id": "t1", "created": 7, "model": "llama", "choices": choices, **more}).encode()


def chunks(frames: bytes) -> list[Any]:
    return [data for _, data in events(frames)]


def texts(frames: bytes) -> str:
    return "".join(c["delta"].get("content") or "" for chunk in chunks(frames) for c in chunk["choices"])


def test_chunks_of_ours_are_what_the_official_client_expects():
    enc = encoder(usage=True)
    frames = enc.deltas(Answer((Delta("a"), Delta('"\n\u2028'))))
    frames += enc.deltas(Answer((Delta("b", 0, "stop"),)))
    *told, done = chunks(frames + enc.finish(Usage(3, 2)))
    assert done == "[DONE]"
    official = [OfficialChunk.model_validate(chunk, strict=True) for chunk in told]
    assert {(chunk.id, chunk.model, chunk.object) for chunk in official} == {
        ("chatcmpl-r1", "docs", "chat.completion.chunk")
    }
    deltas = [chunk.choices[0].delta for chunk in official if chunk.choices]
    assert [delta.role for delta in deltas] == ["assistant", None, None, None, None]
    assert [delta.content for delta in deltas] == ["", "a", '"\n\u2028', "b", None]
    assert official[-2].choices[0].finish_reason == "stop"
    assert official[-1].choices == []
    assert official[-1].usage is not None
    assert official[-1].usage.total_tokens == 5


def test_chunks_of_ours_are_what_their_type_describes():
    enc = encoder(usage=True, passages=(PASSAGE,))
    frames = enc.deltas(Answer((Delta("a", 0, "stop"),))) + enc.finish(Usage(1, 1))
    for chunk in chunks(frames)[:-1]:
        described = msgspec.convert(chunk, ChatCompletionChunk)
        made = msgspec.to_builtins(described)
        assert all(made["choices"][i] | c == made["choices"][i] for i, c in enumerate(chunk["choices"]))
        assert {**made, "choices": []} == {**chunk, "choices": []}


def test_usage_is_told_only_if_asked_for():
    assert chunks(encoder(usage=False).finish(Usage(1, 1))) == ["[DONE]"]
    assert chunks(encoder(usage=True).finish(None)) == ["[DONE]"]


def test_the_backends_own_usage_is_passed_on():
    enc = encoder(usage=True)
    enc.deltas(Answer((Delta("a"),)))
    usage, _ = chunks(enc.finish(Usage(3, 2, b'{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":1}}')))
    assert usage["usage"] == {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": 1}}


def test_the_citations_come_with_the_first_chunk_only():
    enc = encoder(passages=(PASSAGE,))
    first, second = chunks(enc.deltas(Answer((Delta("a"),))))
    assert [c["index"] for c in first["citations"]] == [1]
    assert "citations" not in second
    assert "citations" not in chunks(enc.deltas(Answer((Delta("b"),))))[0]


def test_where_nothing_was_found_the_first_chunk_says_so():
    first, _ = chunks(encoder(passages=()).deltas(Answer((Delta("a"),))))
    assert first["citations"] == []


def test_every_choice_has_its_own_chunks():
    enc = encoder()
    got = chunks(enc.deltas(Answer((Delta("a", 0), Delta("x", 1), Delta("b", 0, "stop"), Delta("", 1, "length")))))
    for index, text, reason in ((0, "ab", "stop"), (1, "x", "length")):
        own = [chunk["choices"][0] for chunk in got if chunk["choices"][0]["index"] == index]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(choice["delta"].get("content", "") for choice in own) == text
        assert own[-1]["finish_reason"] == reason


def test_a_backends_chunks_are_passed_on_to_the_byte():
    raws = [b'{"id":"t1","x": 1.50,"choices":[{"index":0,"delta":{}}]}', b'{"choices":[],  "y":"\\u00e4"}']
    frames = encoder().deltas(Answer(tuple(Delta("", 0, None, raw) for raw in raws)))
    assert frames == b"data: " + raws[0] + b"\n\ndata: " + raws[1] + b"\n\n"


def test_a_backends_chunk_that_spans_lines_stays_one_event():
    frames = encoder().deltas(Answer((Delta("", 0, None, b'{\n"a":\r\n1}'),)))
    assert frames == b'data: {"a":1}\n\n'


def test_a_renaming_route_changes_the_model_and_nothing_else():
    raw = theirs("a", system_fingerprint="f")
    (got,) = chunks(encoder(rename=True).deltas(Answer((Delta("a", 0, None, raw),))))
    assert got == {**json.loads(raw), "model": "docs"}


def test_before_a_backends_first_chunk_comes_one_with_the_citations():
    enc = encoder(passages=(PASSAGE,))
    lead, first = chunks(enc.deltas(Answer((Delta("a", 0, None, theirs("a")),))))
    assert lead["citations"][0]["index"] == 1
    assert lead["choices"] == [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]
    assert (lead["id"], lead["created"], lead["model"]) == ("t1", 7, "llama")
    assert first == json.loads(theirs("a"))
    assert chunks(enc.deltas(Answer((Delta("b", 0, None, theirs("b")),)))) == [json.loads(theirs("b"))]


def test_chunks_of_ours_among_a_backends_look_like_its_own():
    enc = encoder(usage=True)
    enc.deltas(Answer((Delta("a", 0, None, theirs("a")),)))
    (end,) = chunks(enc.deltas(Answer((Delta("", 0, "stop"),))))
    usage, _ = chunks(enc.finish(Usage(1, 1)))
    for chunk in (end, usage):
        assert (chunk["id"], chunk["created"], chunk["model"]) == ("t1", 7, "llama")
    assert end["choices"] == [{"index": 0, "delta": {}, "finish_reason": "stop"}]


@pytest.mark.parametrize("raw", [b'{"choices":[]}', b'{"id":1,"created":"x","model":null}', b"[]"])
def test_a_backend_that_leaves_its_identity_out_gets_ours(raw):
    enc = encoder()
    enc.deltas(Answer((Delta("", 0, None, raw),)))
    (end,) = chunks(enc.deltas(Answer((Delta("", 0, "stop"),))))
    assert (end["id"], end["model"]) == ("chatcmpl-r1", "docs")


def test_a_text_that_a_filter_changed_is_told_instead_of_the_backends():
    enc = encoder()
    deltas = (Delta("", 0, None, theirs("")), Delta("[redacted]", 0, None, theirs("555")))
    frames = enc.deltas(Answer(deltas, changed=True))
    assert texts(frames) == "[redacted]"
    assert b"555" not in frames
    assert chunks(frames)[0]["id"] == "t1"


def test_what_else_a_changed_chunk_carries_is_kept():
    raw = json.dumps(
        {
            "id": "t1",
            "choices": [
                {
                    "index": 0,
                    "delta": {"content": "555", "tool_calls": [{"index": 0}]},
                    "logprobs": {"content": [{"token": "555"}]},
                    "finish_reason": None,
                }
            ],
        }
    ).encode()
    frames = encoder().deltas(Answer((Delta("[redacted]", 0, "stop", raw, extra=True),), changed=True))
    assert b"555" not in frames
    (chunk,) = chunks(frames)
    assert chunk["choices"][0] == {
        "index": 0,
        "delta": {"content": "[redacted]", "tool_calls": [{"index": 0}]},
        "logprobs": None,
        "finish_reason": "stop",
    }


SEVERAL = json.dumps(
    {
        "id": "t1",
        "choices": [
            {"index": 0, "delta": {"content": "a555"}, "finish_reason": None},
            {"index": 1, "delta": {"content": "b555"}, "finish_reason": "stop"},
        ],
    }
).encode()


def test_a_chunk_of_several_choices_is_passed_on_once():
    enc = encoder()
    deltas = (Delta("a555", 0, None, SEVERAL, extra=True), Delta("b555", 1, "stop", b"", extra=True))
    assert chunks(enc.deltas(Answer(deltas))) == [json.loads(SEVERAL)]


def test_in_a_chunk_of_several_choices_every_text_is_the_filtered_one():
    deltas = (Delta("a", 0, None, SEVERAL, extra=True), Delta("b", 1, "stop", b"", extra=True))
    frames = encoder().deltas(Answer(deltas, changed=True))
    assert b"555" not in frames
    (chunk,) = chunks(frames)
    assert [c["delta"]["content"] for c in chunk["choices"]] == ["a", "b"]


def test_a_choice_that_a_filter_ended_is_not_in_a_chunk_of_several():
    (chunk,) = chunks(encoder().deltas(Answer((Delta("a", 0, None, SEVERAL, extra=True),), changed=True)))
    assert [c["index"] for c in chunk["choices"]] == [0]


def test_a_choice_whose_chunk_was_dropped_still_has_its_text():
    frames = encoder().deltas(Answer((Delta("b", 1, "stop", b"", extra=True),), changed=True))
    assert texts(frames) == "b"


@pytest.mark.parametrize("choices", [b"", b',"choices":null', b',"choices":[]'])
def test_a_changed_batch_keeps_what_the_backend_says_beside_its_choices(choices):
    raw = b'{"prompt_filter_results":[1]' + choices + b"}"
    (chunk,) = chunks(encoder().deltas(Answer((Delta(raw=raw, extra=True),), changed=True)))
    assert chunk["prompt_filter_results"] == [1]


def test_an_error_is_one_event_as_the_official_client_reads_it():
    ((name, data),) = events(encoder().error(BackendFailed("gone", reason="backend_reset")))
    assert name == "message"
    assert data["error"]["code"] == "backend_error"
