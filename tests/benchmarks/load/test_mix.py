"""What each arrival asks: the same for the same seed, as large and as often as the scenario says."""

import asyncio
import json
import math
from collections import Counter
from time import perf_counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import AsyncOpenAI

from benchmarks.load.mix import Intent, Mix, body, headers
from benchmarks.load.reading import read
from benchmarks.load.scenario import Kind, Leave, Phase, Scenario, Sessions, Sizes
from benchmarks.load.trace import Entry
from benchmarks.service import Service

MANY = 20_000


def scenario(**keys) -> Scenario:
    return Scenario(phases=[Phase(name="p", seconds=1, rate=1)], **keys)


def intents(seed: int = 1, **keys) -> list[Intent]:
    mix = Mix(scenario(**keys), seed)
    return [mix.intent(float(index)) for index in range(MANY)]


def share(found: list[Intent], wanted) -> float:
    return sum(map(wanted, found)) / len(found)


def test_numbers_and_times():
    mix = Mix(scenario(), 1)
    assert mix.next_number == 0
    assert [mix.intent(at)[:2] for at in (0.0, 0.5, 0.0)] == [(0, 0.0), (1, 0.5), (2, 0.0)]
    assert mix.next_number == 3


def test_the_same_again_and_another_with_another_seed():
    smoke = read("smoke")[1]
    one, same, other = (Mix(smoke, seed) for seed in (1, 1, 2))
    first = [one.intent(0.0) for _ in range(1000)]
    assert first == [same.intent(0.0) for _ in range(1000)]
    assert first != [other.intent(0.0) for _ in range(1000)]


def test_kinds_by_weight():
    kinds = [Kind(name="a", weight=3), Kind(name="b", weight=0.5), Kind(name="c", weight=1.5)]
    found = Counter(intent.kind.name for intent in intents(requests=kinds))
    assert found["a"] / MANY == pytest.approx(0.6, abs=0.02)
    assert found["b"] / MANY == pytest.approx(0.1, abs=0.02)
    assert found["c"] / MANY == pytest.approx(0.3, abs=0.02)


def test_sizes_are_lognormal():
    sizes = Sizes(mean=200, spread=0.5)
    words = [intent.words for intent in intents(requests=[Kind(prompt_words=sizes)])]
    mean = sum(words) / MANY
    assert mean == pytest.approx(200, rel=0.02)
    assert math.sqrt(sum((one - mean) ** 2 for one in words) / MANY) == pytest.approx(100, rel=0.05)
    assert sorted(words)[MANY // 2] == pytest.approx(200 / math.sqrt(1.25), rel=0.02)  # the median, below the mean


@pytest.mark.parametrize(
    "sizes",
    [
        Sizes(mean=20),
        Sizes(mean=0.2),
        Sizes(mean=100, spread=0.2),
        Sizes(mean=100, spread=2.0),
        Sizes(mean=100, spread=1.0, least=50, most=150),
        Sizes(mean=100, spread=1.0, least=100, most=100),
        Sizes(mean=1000, spread=10.0, most=2000),
    ],
)
def test_what_is_expected_is_what_comes(sizes):
    drawn = scenario(requests=[Kind(prompt_words=sizes, max_tokens=sizes)])
    found = intents(requests=drawn.requests)
    words, tokens = Mix(drawn, 1).expected()
    assert words == tokens
    assert sum(intent.words for intent in found) / MANY == pytest.approx(words, rel=0.06)
    assert all(sizes.least <= intent.words <= sizes.most for intent in found)


def test_expected_over_kinds_and_without_max_tokens():
    kinds = [
        Kind(name="a", weight=3, prompt_words=Sizes(mean=10), max_tokens=Sizes(mean=40)),
        Kind(name="b", weight=1, prompt_words=Sizes(mean=50)),
    ]
    assert Mix(scenario(requests=kinds, backend=Service(tokens=80)), 1).expected() == (20, 50)
    assert Mix(scenario(requests=kinds), 1).expected() == (20, 34)  # as many as a backend gives by itself


def test_sessions_by_zipfs_law():
    found = intents(sessions=Sessions(count=1000, skew=1.2, share=0.5))
    counts = Counter(intent.session for intent in found)
    assert counts[None] / MANY == pytest.approx(0.5, abs=0.02)
    total = sum(rank**-1.2 for rank in range(1, 1001))
    for rank in (1, 2, 5, 20):
        assert counts[f"s-{rank}"] / (MANY / 2) == pytest.approx(rank**-1.2 / total, rel=0.25)


@pytest.mark.parametrize("skew", [0.0, 1e-9])
def test_sessions_that_are_equally_busy(skew):
    counts = Counter(intent.session for intent in intents(sessions=Sessions(count=10, skew=skew)))
    assert set(counts) == {f"s-{number}" for number in range(1, 11)}
    assert max(counts.values()) < 1.15 * min(counts.values())


@pytest.mark.parametrize("skew", [0, 0.5])
def test_heavy_sessions_ask_so_many_times_as_often(skew):
    sessions = Sessions(count=20, heavy=2, times=10, skew=skew)
    counts = Counter(intent.session for intent in intents(sessions=sessions))
    weights = [rank**-skew * (10 if rank <= 2 else 1) for rank in range(1, 21)]
    for rank, weight in enumerate(weights, 1):
        assert counts[f"s-{rank}"] / MANY == pytest.approx(weight / sum(weights), rel=0.2)
    assert len(counts) == 20


def test_no_sessions():
    assert {intent.session for intent in intents()} == {None}


def test_a_share_leaves():
    found = intents(requests=[Kind(leave=Leave(share=0.3, after="sent"))])
    assert share(found, lambda intent: intent.leaves) == pytest.approx(0.3, abs=0.02)
    assert not any(intent.leaves for intent in intents())


def test_what_a_trace_says_goes_before_the_mix():
    kind = Kind(stream=True, leave=Leave(share=1, after="tokens"), max_tokens=Sizes(mean=5), deadline_ms=5)
    mix = Mix(scenario(requests=[kind], sessions=Sessions(count=1)), 1)
    assert mix.intent(0.0, Entry(at=0)) == Intent(0, 0.0, kind, "s-1", 20, 5, leaves=True)
    changed = mix.intent(0.0, Entry(at=0, words=7, max_tokens=9, stream=False, session="x", class_="low"))
    assert (changed.words, changed.max_tokens, changed.session) == (7, 9, "x")
    assert (changed.kind.stream, changed.kind.class_, changed.kind.deadline_ms) == (False, "low", 5)
    assert not changed.leaves, "an unstreamed answer has no tokens to leave after"
    again = mix.intent(0.0, Entry(at=0, stream=False, class_="low"))
    assert again.kind is changed.kind


def test_a_client_that_leaves_at_another_point_still_does():
    mix = Mix(scenario(requests=[Kind(stream=True, leave=Leave(share=1, after="head"))]), 1)
    assert mix.intent(0.0, Entry(at=0, stream=False)).leaves


def intent(
    number: int = 7, words: int = 5, session: str | None = None, max_tokens: int | None = None, **kind
) -> Intent:
    return Intent(number, 0.0, Kind(**kind), session, words, max_tokens, leaves=False)


@given(number=st.integers(0, 999_999_999), words=st.integers(1, 2000), model=st.text(max_size=20))
def test_a_prompt_has_its_mark_and_its_words(number, words, model):
    decoded = json.loads(body(intent(number, words), model, "00c0ffee"))
    assert decoded["model"] == model
    (message,) = decoded["messages"]
    first, *rest = message["content"].split(" ")
    assert first == f"#00c0ffee.{number}"
    assert len(rest) == words - 1
    assert all(word.isalpha() for word in rest)


def test_the_bodies_keys():
    plain = json.loads(body(intent(), "m", "00c0ffee"))
    assert set(plain) == {"messages", "model"}
    full = json.loads(body(intent(max_tokens=9, stream=True), "m", "00c0ffee"))
    assert (full["max_tokens"], full["stream"]) == (9, True)


def test_headers():
    assert headers(intent(), 1.0) == b""
    full = intent(session="s-17", class_="high", send_deadline=True, deadline_ms=500, headers={"X-A": "b", "c": ""})
    assert headers(full, 0.4567) == (
        b"X-Session-Id: s-17\r\nX-Headgate-Class: high\r\nX-Request-Timeout-Ms: 456\r\nX-A: b\r\nc: \r\n"
    )
    assert headers(full, -1.0) == headers(full, 0.001)  # 0 would not be a deadline


def test_an_intent_costs_little():
    """2 µs on a quiet machine; at 10,000 requests a second, 20 µs would be a fifth of the generator's only core."""
    mix = Mix(read("smoke")[1], 1)

    def once() -> float:
        begun = perf_counter()
        for _ in range(2000):
            mix.intent(0.0)
        return (perf_counter() - begun) / 2000

    assert min(once() for _ in range(10)) < 20e-6


async def _what_the_official_client_sends(stream: bool, text: str) -> bytes:
    """The body of its request, caught by a server that answers nothing of use."""
    caught: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def catch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        (length,) = (line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        caught.set_result(await reader.readexactly(int(length.split(b":")[1])))
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(catch, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    messages = [{"role": "user", "content": text}]
    async with server, AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="x", max_retries=0) as client:
        extra = {"stream": True} if stream else {}
        with pytest.raises(Exception, match="400"):
            await client.chat.completions.create(model="m", messages=messages, max_tokens=9, **extra)
        return await caught


@pytest.mark.slow
@pytest.mark.parametrize("stream", [False, True])
async def test_the_body_is_what_the_official_client_sends(stream):
    ours = body(intent(max_tokens=9, stream=stream), "m", "00c0ffee")
    text = json.loads(ours)["messages"][0]["content"]
    assert json.loads(await _what_the_official_client_sends(stream, text)) == json.loads(ours)
