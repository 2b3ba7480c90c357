"""The bodies of answers, without a connection."""

import json
from contextlib import suppress
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.wire_events import Events, Nonsense, completion_tokens, problem
from tests.servers import chunk, events, usage_chunk


def fed(*parts: bytes, limit: int = 100_000) -> tuple[int, bool, bool, object]:
    it = Events(limit)
    return sum(it.feed(part) for part in parts), it.done, it.finished, it.error


def data(delta: dict[str, object]) -> bytes:
    return events({"choices": [{"index": 0, "delta": delta}]}, done=False)


@pytest.mark.parametrize(
    ("body", "tokens"),
    [
        (data({"content": "a"}), 1),
        (data({"content": ""}), 0),
        (data({"content": None}), 0),
        (data({"role": "assistant"}), 0),
        (data({"content": [{"type": "text", "text": "a"}]}), 1),
        (data({"reasoning_content": "a"}), 1),
        (data({"reasoning": "a", "content": ""}), 1),
        (data({"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]}), 1),
        (data({"tool_calls": []}), 0),
        (b'data: {"choices":[{"text":"a"}]}\n\n', 1),
        (b'data: {"choices":[{"delta":null,"text":""}]}\n\n', 0),
        (b'data: {"choices":[]}\n\n', 0),
        (b'data: {"choices":null,"error":null}\n\n', 0),
        (b"data: {}\n\n", 0),
        (events(usage_chunk(), done=False), 0),
        (b": a comment\n\n", 0),
        (b"retry: 5\n\nid: 7\n\n\n\n", 0),
        (b"data:\n\ndata\n\n", 0),
        (b'data:{"choices":[{"text":"a"}]}\n\n', 1),
        (b'data: {"choices":\ndata: [{"text":"a"}]}\n\n', 1),
        (b': x\nevent: message\nid: 1\ndata: {"choices":[{"text":"a"}]}\n\n', 1),
        (b'data: {"choices":[{"text":"a"}]}\n', 0),  # not ended by a blank line
        (b'data: [DONE]\n\ndata: {"choices":[{"text":"a"}]}\n\n', 0),
        (b'data: {"error":"e"}\n\ndata: {"choices":[{"text":"a"}]}\n\n', 0),
    ],
)
def test_what_counts_as_a_token(body: bytes, tokens: int):
    assert fed(body)[0] == tokens


def test_ends():
    assert fed(events(chunk("a"), chunk(finish="stop")))[1:] == (True, True, None)
    assert fed(events(chunk("a")))[1:] == (True, False, None)
    assert fed(events(chunk("a", finish="length"), done=False)) == (1, False, True, None)
    assert fed(b"data: [DONE]\n")[1] is False
    assert fed(b"event: error\ndata: {}\n\n")[3] == ("", "{}")


STREAM = [
    b": hello\n\n",
    *(events(chunk(text), done=False) for text in ("a", "é\n", "")),
    b'event: message\ndata: {"choices":\ndata:[{"delta":{"content":"x"},"finish_reason":"stop"}]}\n\n\n',
    b"data: [DONE]\n\n",
]


# Not `\r` before a line that only has `\n`: that would be one end.
LINE_ENDS = st.lists(st.sampled_from([b"\n", b"\r\n"]), min_size=1) | st.just([b"\r"])


@given(st.sets(st.integers(1, sum(map(len, STREAM)) * 2)), LINE_ENDS)
def test_cuts_and_ends_of_lines_make_no_difference(cuts: set[int], ends: list[bytes]):
    lines = b"".join(STREAM).split(b"\n")
    body = b"".join(line + ends[number % len(ends)] for number, line in enumerate(lines[:-1]))
    places = [0, *sorted(cut for cut in cuts if cut < len(body)), len(body)]
    assert fed(*(body[a:b] for a, b in pairwise(places))) == (3, True, True, None)


def test_an_event_of_single_bytes_costs_no_more_than_its_length():
    text = "x" * 200_000
    body = events(chunk(text), done=False)
    assert fed(*(body[i : i + 1] for i in range(len(body))), limit=1 << 20)[0] == 1
    with pytest.raises(Nonsense, match="an event of more than 1000 bytes"):
        fed(*(body[i : i + 100] for i in range(0, len(body), 100)), limit=1000)


KEYS = st.sampled_from(["error", "code", "type", "message", "detail", "choices", "usage", "delta"]) | st.text()
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(KEYS, inner))


@given(JSON.map(json.dumps).map(str.encode) | st.binary())
def test_no_body_is_too_strange(body: bytes):
    found = problem(body)
    assert len(found.code) <= 60
    assert len(found.text) <= 200
    with suppress(Nonsense):
        assert completion_tokens(body) >= 0
    with suppress(Nonsense):
        assert fed(b"data: " + body.replace(b"\n", b"") + b"\n\n")[0] in (0, 1)
