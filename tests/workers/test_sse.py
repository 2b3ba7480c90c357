import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import WorkerError, WorkerErrorKind
from workers.sse import EventDecoder

LIMIT = 1000


def decoded(data: bytes, cuts: list[int] | None = None) -> list[bytes]:
    decoder = EventDecoder(LIMIT)
    borders = [0, *sorted(cuts or []), len(data)]
    return [event for start, end in pairwise(borders) for event in decoder.feed(data[start:end])]


@pytest.mark.parametrize(
    ("data", "events"),
    [
        (b"data: a\n\n", [b"a"]),
        (b"data: a\r\n\r\n", [b"a"]),
        (b"data: a\r\r", [b"a"]),
        (b"data: a\r\n\n", [b"a"]),
        (b"data: a\n\r\n", [b"a"]),
        (b"data: a\n\r", [b"a"]),
        (b"data:a\n\n", [b"a"]),  # the space is optional
        (b"data:  a\n\n", [b" a"]),  # and only one is
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data\n\n", [b""]),
        (b"data:\n\n", [b""]),
        (b"data: a\n\ndata: b\n\ndata: c\n\n", [b"a", b"b", b"c"]),
        (b"\n\n\ndata: a\n\n\n\n\ndata: b\n\n", [b"a", b"b"]),
        (b": ping\n\ndata: a\n\n", [b"a"]),
        (b": ping\ndata: a\n\n", [b"a"]),
        (b"event: delta\nid: 7\nretry: 10\ndata: a\n\n", [b"a"]),
        (b"event: delta\n\n", []),
        (b"database: a\n\n", []),
        (b" data: a\n\n", []),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data: a\n\n\xef\xbb\xbfdata: b\n\n", [b"a"]),  # a byte order mark stands at the beginning only
        (b"\xef\xbbdata: a\n\n", []),
        (b"data: \xff\xfe\n\n", [b"\xff\xfe"]),  # for the reader of the data to refuse
        (b"data: a", []),
        (b"data: a\n", []),
        (b"", []),
    ],
)
def test_events_by_the_standard(data, events):
    assert decoded(data) == events
    assert decoded(data, list(range(len(data)))) == events  # byte by byte


pieces = st.sampled_from(
    [
        b"data: ",
        b"data:",
        b"data",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b": c",
        b"event: e",
        b"x",
        b'{"a":1}',
        b"\xef\xbb\xbf",
        b"\xff",
    ]
)


@given(st.lists(pieces, max_size=30).map(b"".join), st.data())
def test_the_result_does_not_depend_on_the_cuts(data, draw):
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=12))
    assert decoded(data, cuts) == decoded(data)


def lines_of(data: bytes) -> list[bytes]:
    """The standard's own words, one step at a time: the reference that the decoder is held against."""
    text = data.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    events, collected = [], None
    *lines, _ = text.split(b"\n")  # what has no line end is not a line
    for line in lines:
        if not line:
            if collected is not None:
                events.append(b"\n".join(collected))
            collected = None
            continue
        name, _, value = line.partition(b":")
        if name == b"data":
            collected = [*(collected or []), value.removeprefix(b" ")]
    return events


@given(st.lists(pieces, max_size=30).map(b"".join))
def test_the_result_is_what_the_standard_says(data):
    assert decoded(data) == lines_of(data)


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
def test_an_event_beyond_the_limit_is_refused(size):
    fits = b"data: " + b"x" * (LIMIT - 6) + b"\n\n"
    for data in (b"data: " + b"x" * (LIMIT - 5) + b"\n\n", b"data: " + b"x" * (LIMIT + 50)):
        decoder = EventDecoder(LIMIT)
        for start in range(0, len(fits), size):
            decoder.feed(fits[start : start + size])
        with pytest.raises(WorkerError) as raised:
            [decoder.feed(data[start : start + size]) for start in range(0, len(data), size)]
        assert raised.value.kind is WorkerErrorKind.PROTOCOL


def test_pending_tells_an_end_within_an_event():
    decoder = EventDecoder(LIMIT)
    decoder.feed(b"data: a\n\n\n")
    assert not decoder.pending
    decoder.feed(b"data: b\n")
    assert decoder.pending


def test_a_large_event_in_small_pieces_takes_linear_time():
    decoder = EventDecoder(1 << 24)
    piece = b"x" * 4096
    started = time.process_time()
    decoder.feed(b"data: ")
    for _ in range(4000):
        decoder.feed(piece)
    (event,) = decoder.feed(b"\n\n")
    assert len(event) == 4000 * 4096
    assert time.process_time() - started < 1.0
