"""Answers that are no answers: nonsense, broken, endless."""

import asyncio

import pytest

from benchmarks.load.answer import End
from tests.benchmarks.load.asking import REFUSAL, STREAM, STREAM_HEAD, answer_to
from tests.servers import (
    LAST_CHUNK,
    Exchange,
    chunk,
    completion,
    events,
    head,
    http_chunk,
    says,
    says_and_closes,
    streamed,
    whole,
)


def sse(data: bytes) -> bytes:
    return STREAM_HEAD + http_chunk(data) + LAST_CHUNK


NONSENSE: dict[str, tuple[bool, bytes, str]] = {
    "not HTTP": (False, b"SSH-2.0-OpenSSH_9.2\r\n", "malformed HTTP"),
    "HTTP/2": (False, b"\0\0\x12\4\0\0\0\0\0", "malformed HTTP"),
    "status 0": (False, b"HTTP/1.1 000 Zero\r\nContent-Length: 0\r\n\r\n", "malformed HTTP: status 0"),
    "another protocol": (False, b"HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n", "another protocol"),
    "two lengths": (False, b"HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "malformed HTTP"),
    "chunk size": (True, STREAM_HEAD + b"zz\r\n", "malformed HTTP"),
    "no JSON": (False, whole(b"hello"), "no chat completion"),
    "cut JSON": (False, whole(b'{"choices":[{"message":{}}'), "no chat completion"),
    "deep JSON": (False, whole(b"[" * 100_000), "no chat completion"),
    "an empty body": (False, whole(b""), "no chat completion"),
    "no choices": (False, whole({"choices": []}), "no chat completion"),
    "no message": (False, whole({"choices": [{"text": "a"}]}), "message"),
    "tokens in words": (False, whole(completion("a") | {"usage": {"completion_tokens": "two"}}), "completion_tokens"),
    "an error of status 200": (False, whole(REFUSAL), "error overloaded: the queue is full"),
    "a stream unasked": (False, STREAM, "no chat completion"),
    "no stream": (True, whole(completion("a")), "application/json instead of text/event-stream"),
    "no stream but an error": (True, whole(REFUSAL), "the queue is full"),
    "no content type": (True, head(200, "", Content_Length="0"), "no content type"),
    "no JSON in an event": (True, sse(b"data: hello\n\n"), "no chunk of a chat completion"),
    "cut JSON in an event": (True, sse(b'data: {"choices":[\n\n'), "no chunk of a chat completion"),
    "deep JSON in an event": (True, sse(b"data: " + b"[" * 100_000 + b"\n\n"), "no chunk of a chat completion"),
    "no UTF-8 in an event": (True, sse(b'data: {"choices":[{"text":"\xff"}]}\n\n'), "no chunk of a chat completion"),
    "no UTF-8": (False, whole(b'{"choices":[{"message":{}}],"usage":"\xff"}'), "no chat completion"),
    "nothing but an end": (True, sse(b"data: [DONE]\n\n"), "nothing but [DONE]"),
    "another shape in an event": (True, sse(b'data: {"choices":{}}\n\n'), "no chunk of a chat completion"),
}


@pytest.mark.parametrize("name", NONSENSE)
async def test_nonsense(name: str):
    stream, data, detail = NONSENSE[name]
    answer = await answer_to(says(data), stream=stream)
    assert (answer.end, detail in answer.detail) == (End.NONSENSE, True), answer.detail
    assert answer.ended >= answer.sent > 0
    assert len(answer.detail) <= 200


async def endless(exchange: Exchange, begin: bytes, piece: bytes) -> None:
    await exchange.send(begin)
    while not exchange.gone.is_set():
        await exchange.send(piece)
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("stream", "begin", "piece", "detail"),
    [
        (False, b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 5000, "without any of a body"),
        (False, b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 500, "without any of a body"),
        (False, b"", b"HTTP/1.1 102 Wait\r\n\r\n" * 500, "without any of a body"),
        (True, STREAM_HEAD + b"0\r\n", b"X-A: b\r\n" * 500, "without any of a body"),
        (
            False,
            head(200, "application/json", Content_Length="9" * 12),
            b"a" * 5000,
            "a body of more than 100000 bytes",
        ),
        (False, head(503, "application/json"), b"a" * 5000, "a body of more than 100000 bytes"),
        (True, head(), b"data: a", "an event of more than 100000 bytes"),
        (True, head(), b"data: a\r", "an event of more than 100000 bytes"),
    ],
)
async def test_what_never_ends_is_cut_off(stream: bool, begin: bytes, piece: bytes, detail: str):
    answer = await answer_to(
        lambda exchange: endless(exchange, begin, piece * (1 if len(piece) > 1000 else 500)),
        stream=stream,
        max_answer_bytes=100_000,
    )
    assert (answer.end, detail in answer.detail) == (End.NONSENSE, True), answer


async def test_a_long_stream_is_no_long_event():
    tokens = 3000
    answer = await answer_to(says(streamed(*[chunk("a")] * tokens)), stream=True, max_answer_bytes=1000)
    assert (answer.end, answer.tokens) == (End.WHOLE, tokens)
    assert sum(n for _, n in answer.gaps) == tokens - 1


@pytest.mark.parametrize(
    ("stream", "data", "status", "detail"),
    [
        (False, b"", 0, "before the head was there: closed by the target"),
        (False, b"HTTP/1.1 200 OK\r\nContent-", 0, "before the head was there"),
        (False, b"HTTP/1.1 100 Continue\r\n\r\n", 0, "before the head was there"),
        (False, whole(completion("a"))[:-1], 200, "in the body"),
        (False, whole(REFUSAL, 503)[:-1], 503, "in the body"),
        (True, STREAM_HEAD, 200, "in the body"),
        (True, STREAM[:-1], 200, "in the body"),
        (True, streamed(chunk("a"), done=False), 200, "without [DONE]"),
        (True, STREAM_HEAD + LAST_CHUNK, 200, "without [DONE]"),
        (True, head() + events(chunk("a"), done=False), 200, "without [DONE]"),
    ],
)
async def test_a_broken_answer(stream: bool, data: bytes, status: int, detail: str):
    answer = await answer_to(says_and_closes(data), stream=stream)
    assert (answer.end, answer.status, detail in answer.detail) == (End.BROKEN, status, True), answer.detail
    assert answer.ended >= answer.sent > 0
