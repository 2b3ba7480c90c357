import json
import time
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers.errors import WorkerError, WorkerErrorKind
from workers.ndjson import LineDecoder

LIMIT = 1000


def decoded(data: bytes, cuts: list[int] | None = None, limit: int = LIMIT) -> tuple[list[bytes], bytes]:
    """The lines, and what is left at the end."""
    decoder = LineDecoder(limit)
    borders = [0, *sorted(cuts or []), len(data)]
    lines = [line for start, end in pairwise(borders) for line in decoder.feed(data[start:end])]
    return lines, decoder.rest()


@pytest.mark.parametrize(
    ("data", "lines", "rest"),
    [
        (b'{"a":1}\n', [b'{"a":1}'], b""),
        (b'{"a":1}\r\n', [b'{"a":1}'], b""),
        (b"1\n2\n3\n", [b"1", b"2", b"3"], b""),
        (b"1\n\n\r\n \t\n2\n", [b"1", b"2"], b""),
        (b" 1 \n", [b"1"], b""),
        (b"1\n2", [b"1"], b"2"),
        (b"1\n2\r", [b"1"], b"2"),
        (b"1\r2\n", [b"1\r2"], b""),  # a CR alone ends nothing
        (b"\xff\xfe\n", [b"\xff\xfe"], b""),  # for the reader of the line to refuse
        (b"{\n}", [b"{"], b"}"),
        (b"\n", [], b""),
        (b"  ", [], b""),
        (b"", [], b""),
    ],
)
def test_lines_by_the_specification(data, lines, rest):
    assert decoded(data) == (lines, rest)
    assert decoded(data, list(range(len(data)))) == (lines, rest)  # byte by byte


pieces = st.sampled_from([b"\n", b"\r", b"\r\n", b"\n\n", b" ", b"x", b'{"a":1}', b"\xef\xbb\xbf", b"\xff", b"\x00"])


@given(st.lists(pieces, max_size=30).map(b"".join), st.data())
def test_the_result_does_not_depend_on_the_cuts(data, draw):
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=12))
    *whole, rest = [line.strip() for line in data.split(b"\n")]
    assert decoded(data, cuts) == ([line for line in whole if line], rest)


@given(st.lists(st.text() | st.none() | st.dictionaries(st.text(), st.text()), max_size=8), st.data())
def test_what_was_written_is_read(values, draw):
    data = b"".join([json.dumps(value, ensure_ascii=False).encode("utf-8", "replace") + b"\n" for value in values])
    cuts = draw.draw(st.lists(st.integers(0, len(data)), max_size=12))
    lines, rest = decoded(data, cuts, len(data) + 1)
    assert b"".join([line + b"\n" for line in lines]) == data
    assert not rest


@pytest.mark.parametrize("size", [1, 7, 64, 10_000])
@pytest.mark.parametrize("data", [b"x" * (LIMIT + 1) + b"\n", b"x" * (LIMIT + 50)])
def test_a_line_beyond_the_limit_is_refused_after_those_before_it(size, data):
    data = b"first\n" + b"x" * LIMIT + b"\n" + data
    decoder = LineDecoder(LIMIT)
    lines: list[bytes] = []

    def feed() -> None:
        for start in range(0, len(data), size):
            lines.extend(decoder.feed(data[start : start + size]))  # keeps what came before it raised

    with pytest.raises(WorkerError) as raised:
        feed()
    assert raised.value.kind is WorkerErrorKind.PROTOCOL
    assert lines == [b"first", b"x" * LIMIT]
    assert len(decoder.rest()) <= LIMIT + size


def test_a_large_line_in_small_pieces_takes_linear_time():
    decoder = LineDecoder(1 << 24)
    piece = b"x" * 4096
    started = time.process_time()
    for _ in range(4000):
        assert not list(decoder.feed(piece))
    (line,) = decoder.feed(b"\n")
    assert len(line) == 4000 * 4096
    assert time.process_time() - started < 1.0
