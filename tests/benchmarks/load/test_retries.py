"""Retries as the official client makes them: it is asked, and it is run."""

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from random import Random
from time import monotonic
from types import SimpleNamespace

import httpx2
import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.load.answer import Answer, End
from benchmarks.load.retries import delay
from benchmarks.load.scenario import Retries
from benchmarks.load.wire_answer import retry_after
from tests.benchmarks.load.asking import ask, wired
from tests.servers import (
    LAST_CHUNK,
    Exchange,
    Script,
    ScriptedBackend,
    chunk,
    completion,
    events,
    head,
    http_chunk,
    says,
    says_and_closes,
    says_and_resets,
    streamed,
    whole,
)


class Least(Random):
    def random(self) -> float:
        return 1.0


class Most(Random):
    def random(self) -> float:
        return 0.0


def bounds(answer: Answer, taken: int = 0, most: int = 1) -> tuple[float, float] | None:
    """Between which the wait lies, None if there is no retry."""
    low, high = (delay(answer, taken, Retries(max=most), random) for random in (Least(), Most()))
    if low is None or high is None:
        assert low is high
        return None
    return low, high


def refused(status: int, after: float | None = None, *, should: bool | None = None) -> Answer:
    return Answer(end=End.REFUSED, status=status, retry_after=after, should_retry=should)


@pytest.mark.parametrize(
    ("taken", "low", "high"), [(0, 0.375, 0.5), (1, 0.75, 1.0), (4, 6.0, 8.0), (5, 6.0, 8.0), (99, 6.0, 8.0)]
)
def test_waits_grow_to_a_limit(taken: int, low: float, high: float):
    assert bounds(refused(503), taken, 100) == (low, high)
    assert bounds(Answer(end=End.UNREACHABLE, connection_error=True), taken, 100) == (low, high)


@pytest.mark.parametrize("end", [End.TIMED_OUT, End.LEFT, End.STOPPED])
def test_who_went_away_does_not_come_back(end: End):
    assert delay(Answer(end=end, status=503), 0, Retries(max=5), Random(1)) is None
    assert delay(Answer(end=end, status=503), 0, Retries(max=5, at_once=True), Random(1)) is None


def test_only_so_many_retries():
    assert delay(refused(503, 0.5), 1, Retries(max=2), Random(1)) == 0.5
    assert delay(refused(503, 0.5), 2, Retries(max=2), Random(1)) is None
    assert delay(refused(503, 0.5), 0, Retries(max=0), Random(1)) is None


def test_who_is_impatient_asks_again_at_once_where_the_official_client_would_later():
    at_once = Retries(max=3, at_once=True)
    assert [delay(refused(503, 5.0), taken, at_once, Random(1)) for taken in range(4)] == [0.0, 0.0, 0.0, None]
    assert delay(refused(400), 0, at_once, Random(1)) is None
    assert delay(refused(503, should=False), 0, at_once, Random(1)) is None
    nobody = Answer(end=End.UNREACHABLE, connection_error=True)
    assert delay(nobody, 0, at_once, Most()) == 0.5, "without a connection, at once would be for ever"


# Asked: the same headers to the official client's own decisions.

NUMBERS = [*"0 -1 0.5 120 120.001 121 120000 120001 1e3 1e400 -1e400 1_0 +5 0x5 nan -nan inf -inf +Infinity".split()]
OTHERS = ["", "soon", " 7 ", "Mon, 01 Foo 2024 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 GMT", "9" * 400]
AFTER = st.none() | st.sampled_from(NUMBERS + OTHERS) | st.floats().map(str)


@pytest.fixture(scope="module")
def official() -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url="http://127.0.0.1:1/v1", api_key="k", max_retries=2) as client:
        yield client


@given(
    status=st.sampled_from([200, 400, 401, 404, 408, 409, 418, 422, 425, 429, 499, 500, 501, 503, 504, 599]),
    milliseconds=AFTER,
    seconds=AFTER,
    should=st.sampled_from([None, "true", "false", "True", "1"]),
    taken=st.integers(0, 2),
)
def test_the_official_client_decides_the_same(official, status, milliseconds, seconds, should, taken):
    given = {"retry-after-ms": milliseconds, "retry-after": seconds, "x-should-retry": should}
    headers = {name: value for name, value in given.items() if value is not None}
    response = httpx2.Response(status, headers=headers)
    answer = refused(
        status, retry_after(milliseconds, seconds), should={"true": True, "false": False}.get(should or "")
    )
    found = bounds(answer, taken, 2)
    if status == 200 or taken == 2 or not official._should_retry(response):  # the first two it does not even ask about
        assert found is None
    else:
        options = SimpleNamespace(get_max_retries=lambda default: default)
        wait = official._calculate_retry_timeout(2 - taken, options, response.headers)
        assert found is not None
        assert found[0] - 1e-9 <= wait <= found[1] + 1e-9


def test_a_date_is_read_as_the_official_client_reads_it(official):
    for text in ("Fri, 31 Dec 2100 23:59:59 GMT", "Mon, 01 Jan 2024 00:00:00 GMT"):
        theirs = official._parse_retry_after_header(httpx2.Headers({"retry-after": text}))
        assert retry_after(None, text) == pytest.approx(theirs, abs=1)


# Run: the official client against a server, beside ours.

SOON = {"retry_after_ms": "20"}
TRUE, FALSE = {"X_Should_Retry": "true"}, {"X_Should_Retry": "false"}
STREAM_HEAD = head(Transfer_Encoding="chunked")
ERROR = {"error": {"message": "no", "code": "x"}}

CASES: dict[str, Script] = {
    **{f"status {n}": says(whole(ERROR, n, **SOON)) for n in (400, 401, 404, 408, 409, 422, 425, 429, 499, 500, 503)},
    "no time named": says(whole(ERROR, 503)),
    "a broken number": says(whole(ERROR, 503, retry_after_ms="soon", Retry_After="0.02")),
    "told to": says(whole(ERROR, 400, **SOON, **TRUE)),
    "told not to": says(whole(ERROR, 503, **SOON, **FALSE)),
    "too long": says(whole(ERROR, 503, Retry_After="121", **TRUE)),
    "not modified": says(head(304, "", **SOON, **TRUE)),
    "whole": says(whole(completion("a"))),
    "whole stream": says(streamed(chunk("a"), chunk(finish="stop"))),
    "nothing": says_and_closes(b""),
    "reset": says_and_resets(b""),
    "half a head": says_and_closes(b"HTTP/1.1 200 OK\r\nContent-"),
    "no HTTP": says_and_closes(b"hello\r\n\r\n"),
    "half a body": says_and_closes(whole(completion("a"))[:-5]),
    "half a refusal": says_and_closes(whole(ERROR, 503, **SOON)[:-5]),
    "half another refusal": says_and_closes(whole(ERROR, 400, **SOON)[:-5]),
    "half a stream": says_and_closes(STREAM_HEAD + http_chunk(events(chunk("a"), done=False))),
    "a stream without its end": says(STREAM_HEAD + http_chunk(events(chunk("a"), done=False)) + LAST_CHUNK),
    "no chunk": says_and_closes(STREAM_HEAD + b"zz\r\n"),
    "no JSON": says(whole(b"hello")),
    "an error in the stream": says(streamed(chunk("a"), ERROR)),
}


async def ask_official(url: str, *, stream: bool, retries: int) -> None:
    async with openai.AsyncOpenAI(base_url=url, api_key="k", max_retries=retries, timeout=10) as client:
        with suppress(Exception):  # what it makes of it is not our concern, but how often it asked
            messages = [{"role": "user", "content": "hello"}]
            answer = await client.chat.completions.create(model="m", messages=messages, stream=stream)
            if stream:
                async for _ in answer:
                    pass


async def both(script: Script, *, stream: bool, retries: int = 1) -> tuple[list[float], list[Answer]]:
    """The waits between the official client's attempts, and as many answers of ours as it could get."""
    times: list[float] = []

    async def timed(exchange: Exchange) -> None:
        times.append(monotonic())
        await script(exchange)

    async with ScriptedBackend(timed) as backend, wired(backend.base_url) as wire:
        await ask_official(backend.base_url, stream=stream, retries=retries)
        waits = [after - before for before, after in pairwise(times)]
        return waits, [await ask(wire, stream=stream) for _ in range(retries + 1)]


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_the_official_client_does_the_same(stream: bool):
    found = await asyncio.gather(*(both(script, stream=stream) for script in CASES.values()))
    for name, (waits, (answer, _)) in zip(CASES, found, strict=True):
        expected = bounds(answer)
        assert len(waits) == (0 if expected is None else 1), (name, answer)
        if expected is not None:
            # Ours is the time between answer and attempt; on the wire the way of both comes on top.
            assert expected[0] - 0.005 <= waits[0] <= expected[1] + 0.5, (name, answer)


@pytest.mark.slow
async def test_the_official_client_waits_longer_the_second_time():
    waits, answers = await both(says(whole(ERROR, 503)), stream=False, retries=2)
    for taken, (wait, answer) in enumerate(zip(waits, answers, strict=False)):
        low, high = bounds(answer, taken, 2) or (0, 0)
        assert low - 0.005 <= wait <= high + 0.2
    assert len(waits) == 2


@pytest.mark.slow
async def test_the_official_client_tries_again_where_nobody_listens():
    async with ScriptedBackend() as backend:
        url = backend.base_url
    async with wired(url) as wire:
        answer = await ask(wire)
    low, high = bounds(answer) or (0, 0)
    began = monotonic()
    await ask_official(url, stream=False, retries=1)
    assert low <= monotonic() - began <= high + 0.5
