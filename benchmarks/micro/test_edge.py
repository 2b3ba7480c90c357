"""What the edge does with bytes: a request's body in, an answer's frames out."""

import asyncio
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from benchmarks.micro.measure import Measure
from config.schema import RouteSection, ServerSection
from pipeline.core.ports import Answer
from pipeline.core.ticket import Ticket
from pipeline.edge import sse
from pipeline.edge.call import Edge
from pipeline.edge.native import NativeEncoder
from pipeline.edge.openai import ChatDialect
from pipeline.edge.openai_answers import Answering
from pipeline.edge.openai_chunks import ChunkEncoder
from pipeline.edge.openai_types import ChatCompletionChunk, ChunkChoice, ChunkDelta
from pipeline.edge.replies import HttpCall
from workers.base import Delta

TOKENS = 64
WORDS = [f"word{number} " for number in range(TOKENS)]
TURNS = [
    {"role": "user" if turn % 2 == 0 else "assistant", "content": f"turn {turn} " + "word " * 60} for turn in range(9)
]


def ticket() -> Ticket:
    return Ticket("r1", 0.0, lambda _: None)


def contents(frames: bytes) -> list[str]:
    """The text of each `chat.completion.chunk`."""
    chunks = [msgspec.json.decode(frame.removeprefix(b"data: ")) for frame in frames.split(b"\n\n")[:-1]]
    return [chunk["choices"][0]["delta"]["content"] for chunk in chunks]


def body_of(messages: list[Any]) -> bytes:
    return msgspec.json.encode({"model": "m", "messages": messages, "temperature": 0.5, "max_tokens": 100})


@pytest.mark.parametrize("turns", [1, 9])
def test_decode(measure: Measure, loop: asyncio.AbstractEventLoop, turns: int) -> None:
    """From the body's bytes to what enters the pipeline, every field checked, with the sink for its answer."""
    body, following = body_of(TURNS[:turns]), ticket()
    call = HttpCall(make_mocked_request("POST", "/v1/chat/completions"), "r1", "", "", Edge(ServerSection(), loop))
    dialect = ChatDialect({"m": RouteSection(name="m", worker="w")})
    prompt, _ = measure(
        f"decode: OpenAI body, messages: {turns}",
        lambda: dialect(call, following, body),
        units=1,
        unit="request",
        group=f"decode {turns}",
    )
    assert [message.text for message in prompt.messages] == [turn["content"] for turn in TURNS[:turns]]
    assert prompt.parameters.max_tokens == 100


@pytest.mark.parametrize("turns", [1, 9])
def test_decode_yardstick(measure: Measure, turns: int) -> None:
    body = body_of(TURNS[:turns])
    fields = measure(
        f"msgspec to a dict, unchecked, messages: {turns}",
        lambda: msgspec.json.decode(body),
        units=1,
        unit="request",
        group=f"decode {turns}",
        yardstick=True,
    )
    assert fields["messages"] == TURNS[:turns]


@pytest.mark.parametrize("together", [1, 8])
def test_frames(measure: Measure, together: int) -> None:
    encoder = ChunkEncoder(Answering("r1", "m", rename=False), usage=False)
    encoder.deltas(Answer((Delta("the first has a lead of its own"),)))
    answers = [Answer(tuple(map(Delta, WORDS[at : at + together]))) for at in range(0, TOKENS, together)]
    writes = measure(
        f"frames: SSE chunk, {together} in a write",
        lambda: [encoder.deltas(answer) for answer in answers],
        units=TOKENS,
        unit="token",
        group="frames",
    )
    assert len(writes) == TOKENS // together
    assert contents(b"".join(writes)) == WORDS


def test_frames_yardstick(measure: Measure) -> None:
    """Each chunk made as an object and encoded whole."""

    def write(word: str) -> bytes:
        choices = [ChunkChoice(0, ChunkDelta(content=word))]
        return sse.data(msgspec.json.encode(ChatCompletionChunk(id="r1", created=7, model="m", choices=choices)))

    writes = measure(
        "msgspec encodes the whole chunk",
        lambda: [write(word) for word in WORDS],
        units=TOKENS,
        unit="token",
        group="frames",
        yardstick=True,
    )
    assert contents(b"".join(writes)) == WORDS


def test_frames_of_a_backend(measure: Measure) -> None:
    """A backend's own chunks, passed on as they are."""
    raws = [
        b'{"id":"x","object":"chat.completion.chunk","created":7,"model":"m","choices":[{"index":0,"delta":'
        b'{"content":%b},"finish_reason":null}]}' % msgspec.json.encode(word)
        for word in WORDS
    ]
    encoder = ChunkEncoder(Answering("r1", "m", rename=False), usage=False)
    answers = [Answer((Delta(word, raw=raw),)) for word, raw in zip(WORDS, raws, strict=True)]
    writes = measure(
        "frames: a backend's chunk, passed on",
        lambda: [encoder.deltas(answer) for answer in answers],
        units=TOKENS,
        unit="token",
        group="frames",
    )
    assert writes == [b"data: " + raw + b"\n\n" for raw in raws]


def test_native_frames(measure: Measure) -> None:
    encoder = NativeEncoder(ticket(), retrieves=False)
    answers = [Answer((Delta(word),)) for word in WORDS]
    writes = measure(
        "frames: native `delta` event",
        lambda: [encoder.deltas(answer) for answer in answers],
        units=TOKENS,
        unit="token",
    )
    assert writes == [f'event: delta\ndata: {{"text":"{word}","index":0}}\n\n'.encode() for word in WORDS]
