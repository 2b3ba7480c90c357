import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.workers.helpers import ask
from workers.answer import Answer
from workers.base import Delta, DeltaBatch, Usage
from workers.canonical import FINISH_REASONS
from workers.errors import WorkerError, WorkerErrorKind


def chunk(*choices: dict[str, Any], **fields: Any) -> bytes:
    return json.dumps({"id": "c-1", "created": 5, "model": "m", "choices": choices, **fields}).encode()


def choice(index: int = 0, finish: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "finish_reason": finish}


def through(*deltas: Any, stream: bool = True, usage: Any = None, body: bytes = b"") -> list[DeltaBatch]:
    answer = Answer(ask(stream=stream))
    batches = [answer.take(DeltaBatch((delta,))) for delta in deltas]
    if usage is not None or body:
        batches.append(answer.take(DeltaBatch(usage=usage, body=body)))
    return [batch for batch in [*batches, answer.end()] if batch is not None]


def deltas_of(batches: list[DeltaBatch]) -> list[Delta]:
    return [delta for batch in batches for delta in batch.deltas]


def test_what_is_well_goes_on_as_it_is():
    given_ = [Delta("a"), Delta("b", 0, "stop")]
    first, second = deltas_of(through(*given_))
    assert first is given_[0]
    assert second is given_[1]


def test_an_answer_without_an_end_gets_one():
    assert [(d.text, d.finish_reason) for d in deltas_of(through(Delta("a")))] == [("a", None), ("", "stop")]
    assert [d.finish_reason for d in deltas_of(through())] == ["stop"]


def test_whether_something_is_missing():
    answer = Answer(ask(n=2))
    assert answer.missing()
    answer.take(DeltaBatch((Delta("a", 0, "stop"),)))
    assert answer.missing(), "the other choice"
    answer.take(DeltaBatch((Delta("a", 1),)))
    assert answer.open_choices() == [1]
    answer.take(DeltaBatch((Delta("", 1, "length"),)))
    assert not answer.missing()


def test_a_choice_ends_once_and_by_a_reason_that_clients_know():
    got = deltas_of(through(Delta("a", 0, "max_tokens"), Delta("b", 0, "stop"), Delta("c", 0, "")))
    assert [delta.finish_reason for delta in got] == ["length", None, None]
    assert [d.finish_reason for d in deltas_of(through(Delta("", 0, "out_of_cheese")))] == ["stop"]


def test_usage_comes_last():
    answer = Answer(ask())
    assert answer.take(DeltaBatch((Delta("a"),), Usage(3, 4, b"{", 1, 2))).usage is None
    assert answer.end().usage == Usage(3, 4, b"", 1, 2)


def test_halves_of_surrogate_pairs_do_not_reach_an_encoder():
    (delta, _) = deltas_of(through(Delta("a\ud83db")))
    assert delta.text.encode().startswith(b"a\xef\xbf\xbd")
    assert delta.text[-1] == "b"


def test_a_chunk_says_what_its_delta_is():
    raw = chunk(choice(1, "tool_calls", content="x", tool_calls=[{"index": 0}]))
    (delta, *_) = deltas_of(through(Delta("ignored", 0, None, raw)))
    assert (delta.text, delta.index, delta.finish_reason, delta.extra, delta.raw) == ("x", 1, "tool_calls", True, raw)


def test_a_chunk_of_several_choices_is_sent_once():
    raw = chunk(choice(0, content="a"), choice(1, content="b"))
    first, second, *_ = deltas_of(through(Delta(raw=raw)))
    assert (first.raw, first.text, first.extra) == (raw, "a", True)
    assert (second.raw, second.text, second.index) == (b"", "b", 1)


def test_a_chunk_goes_into_one_line_of_an_event():
    raw = json.dumps(json.loads(chunk(choice(content="a\nb"))), indent=1).replace("\n", "\r\n").encode()
    (delta, *_) = deltas_of(through(Delta(raw=raw)))
    assert b"\n" not in delta.raw
    assert b"\r" not in delta.raw
    assert json.loads(delta.raw) == json.loads(raw)


def test_a_chunk_with_an_odd_reason_is_put_right():
    (delta,) = deltas_of(through(Delta(raw=chunk(choice(0, "eos_token", content="a")))))
    assert delta.finish_reason == "stop"
    assert json.loads(delta.raw)["choices"][0]["finish_reason"] == "stop"


def test_the_usage_of_a_chunk_without_choices_counts():
    batches = through(Delta("a"), Delta(raw=chunk(usage={"prompt_tokens": 7, "completion_tokens": 1})))
    assert batches[-1].usage.prompt_tokens == 7
    assert all(not delta.raw for delta in deltas_of(batches))


def test_a_whole_answer_is_put_together():
    calls = [
        {"index": 1, "id": "b", "type": "function", "function": {"name": "tide", "arguments": "{}"}},
        {"index": 0, "id": "a", "type": "function", "function": {"name": "rain", "arguments": '{"x"'}},
    ]
    (batch,) = through(
        Delta(raw=chunk(choice(role="assistant", reasoning_content="H"))),
        Delta(raw=chunk(choice(reasoning_content="m."))),
        Delta("Well. "),
        Delta(raw=chunk(choice(tool_calls=calls))),
        Delta(raw=chunk(choice(tool_calls=[{"index": 0, "function": {"arguments": ": 1}"}}]))),
        Delta("", 0, "tool_calls"),
        stream=False,
        usage=Usage(1, 2),
    )
    body = json.loads(batch.body)
    assert (body["id"], body["created"], body["model"]) == ("c-1", 5, "m")
    assert body["usage"]["total_tokens"] == 3
    (only,) = body["choices"]
    assert only["finish_reason"] == "tool_calls"
    message = only["message"]
    assert (message["content"], message["reasoning_content"]) == ("Well. ", "Hm.")
    assert [(c["id"], c["function"]["name"], c["function"]["arguments"]) for c in message["tool_calls"]] == [
        ("a", "rain", '{"x": 1}'),
        ("b", "tide", "{}"),
    ]
    (delta,) = batch.deltas
    assert (delta.text, delta.finish_reason, delta.extra, delta.raw) == ("Well. ", "tool_calls", True, b"")


def test_a_body_is_taken_as_it_is():
    message = {"index": 0, "message": {"role": "assistant", "content": "a"}, "finish_reason": "stop"}
    body = chunk(message)
    (batch,) = through(stream=False, body=body, usage=Usage(1, 1))
    assert batch.body == body
    assert batch.deltas[0].text == "a"
    assert batch.usage.prompt_tokens == 1


@pytest.mark.parametrize(
    "wrong",
    [
        Delta(5),  # type: ignore[arg-type]
        Delta("a", -1),
        Delta("a", 1024),
        Delta("a", True),
        Delta("a", "0"),  # type: ignore[arg-type]
        Delta("a", 0, 5),  # type: ignore[arg-type]
        Delta(raw=b"{}"),
        Delta(raw=b'{"choices": [5]}'),
        Delta(raw=b'{"choices": [{"index": 5000, "delta": {}}]}'),
        Delta(raw=b"data: {}\n\n"),
        Delta(raw=b'{"choices": [], "x": "\xff"}'),
        Delta(raw="text"),  # type: ignore[arg-type]
        Delta(raw=b"[" * 100_000),
        Delta(raw=b"x", native=True),
        {"text": "a"},
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_no_answer_is_refused(wrong, stream):
    with pytest.raises(WorkerError) as raised:
        through(wrong, stream=stream)
    assert raised.value.kind is WorkerErrorKind.PROTOCOL


@pytest.mark.parametrize("usage", [Usage(-1, 0), Usage(0, 1.5), {"prompt_tokens": 1}, Usage(True, 0)])
def test_what_is_no_usage_is_refused(usage):
    with pytest.raises(WorkerError, match="usage"):
        through(Delta("a"), usage=usage)


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"choices": []}', "text"])
def test_what_is_no_body_is_refused(body):
    with pytest.raises(WorkerError):
        through(stream=False, body=body)


def test_a_body_in_a_stream_is_refused():
    with pytest.raises(WorkerError, match="streamed"):
        through(body=chunk())


def test_a_piece_of_a_call_that_is_none_is_refused():
    for piece in (5, {"index": "x", "function": {}}, {"index": 0}):
        with pytest.raises(WorkerError, match="tool call"):
            through(Delta(raw=chunk(choice(tool_calls=[piece]))), stream=False)


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
_names = st.sampled_from(["content", "role", "tool_calls", "reasoning_content", "index", "function", "x"])
_choices = st.lists(
    st.fixed_dictionaries(
        {"delta": st.dictionaries(_names, _json, max_size=3)},
        optional={"index": st.integers(-1, 3), "finish_reason": st.none() | st.text(max_size=8), "logprobs": _json},
    ),
    max_size=2,
)
_deltas = st.one_of(
    st.builds(Delta, st.text(max_size=4), st.integers(-1, 3), st.none() | st.text(max_size=6)),
    st.builds(lambda choices: Delta(raw=json.dumps({"choices": choices}).encode()), _choices),
    st.builds(Delta, raw=st.binary(max_size=20)),
)


@given(st.lists(_deltas, max_size=6), st.booleans())
def test_whatever_comes_an_answer_goes_on_or_is_refused(deltas, stream):
    try:
        batches = through(*deltas, stream=stream)
    except WorkerError:
        return
    got = deltas_of(batches)
    reasons: dict[int, int] = {}
    for delta in got:
        delta.text.encode()
        if delta.raw:
            json.loads(delta.raw)
            assert b"\n" not in delta.raw
        if delta.finish_reason is not None:
            assert delta.finish_reason in FINISH_REASONS
            reasons[delta.index] = reasons.get(delta.index, 0) + 1
    assert {delta.index for delta in got} == set(reasons)
    assert set(reasons.values()) == {1}
    if not stream:
        (batch,) = batches
        json.loads(batch.body)
