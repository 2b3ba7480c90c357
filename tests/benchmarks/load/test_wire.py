"""What the client says of each kind of answer."""

import asyncio
from email.utils import formatdate
from time import monotonic, time

import msgspec
import pytest

from benchmarks.load.answer import Answer, End
from tests.benchmarks.load.asking import BODY, OK, REFUSAL, STREAM, STREAM_HEAD, THREE, answer_to, ask, wired
from tests.servers import (
    LAST_CHUNK,
    Exchange,
    ScriptedBackend,
    chunk,
    completion,
    events,
    head,
    http_chunk,
    says,
    says_and_closes,
    says_and_waits,
    streamed,
    whole,
)

TIMES = ("sent", "head", "first", "ended")


def timeless(answer: Answer) -> dict[str, object]:
    """All but what differs from time to time."""
    fields = msgspec.structs.asdict(answer)
    gaps = sum(times for _, times in fields.pop("gaps"))
    return fields | {name: bool(fields[name]) for name in TIMES} | {"gaps": gaps}


async def test_a_request_holds_all_that_it_should():
    async with (
        ScriptedBackend(says(OK)) as backend,
        wired(backend.base_url + "/", api_key="sk-1", headers={"user-agent": "mine", "X-More": "1"}) as wire,
    ):
        answer = await ask(wire, headers=b"X-Session-Id: s-1\r\nX-Headgate-Class: high\r\n")
    (exchange,) = backend.exchanges
    assert answer.end is End.WHOLE
    assert (exchange.method, exchange.path, exchange.body) == ("POST", "/v1/chat/completions", BODY)
    assert exchange.headers == {
        "host": backend.base_url.removeprefix("http://").removesuffix("/v1"),
        "accept": "application/json",
        "content-type": "application/json",
        "user-agent": "mine",
        "authorization": "Bearer sk-1",
        "x-more": "1",
        "x-session-id": "s-1",
        "x-headgate-class": "high",
        "content-length": str(len(BODY)),
    }


async def test_an_unstreamed_answer():
    async with ScriptedBackend(says(whole(completion("hello"), Server="s/1"))) as backend, wired(backend.base_url) as w:
        before = monotonic()
        answer = await ask(w)
        assert before <= answer.sent <= answer.head <= answer.first == answer.ended <= monotonic()
        assert (answer.end, answer.status, answer.tokens, answer.gaps) == (End.WHOLE, 200, 2, [])
        assert w.server == "s/1"


async def test_an_unstreamed_answer_that_does_not_count_its_tokens():
    body = completion("hello")
    for usage in (None, {"completion_tokens": None}, {}):
        assert (await answer_to(says(whole(body | {"usage": usage})))).tokens == 1
    assert (await answer_to(says(whole(body | {"usage": {"completion_tokens": 0}})))).tokens == 0


async def test_a_streamed_answer_token_by_token():
    step = asyncio.Semaphore(0)
    times = []

    async def script(exchange: Exchange) -> None:
        parts = [STREAM_HEAD, *(http_chunk(events(each, done=False)) for each in THREE)]
        for part in [*parts, http_chunk(events()) + LAST_CHUNK]:
            await step.acquire()
            times.append(monotonic())
            await exchange.send(part)

    async with ScriptedBackend(script) as backend, wired(backend.base_url) as wire:
        asking = asyncio.ensure_future(ask(wire, stream=True))
        for _ in range(len(THREE) + 2):
            step.release()
            await asyncio.sleep(0.01)
        answer = await asking
    assert (answer.end, answer.status, answer.tokens, answer.detail) == (End.WHOLE, 200, 3, "")
    assert times[0] <= answer.head <= times[1] <= times[2] <= answer.first <= times[3]
    assert answer.ended >= times[-1]
    assert [n for _, n in answer.gaps] == [1, 1]
    assert times[3] - times[2] - 0.01 < answer.gaps[0][0] < times[4] - times[2]
    assert times[4] <= answer.first + sum(gap * n for gap, n in answer.gaps) <= times[5]


async def test_tokens_that_come_together_share_the_gap_before_them():
    more = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.send(STREAM_HEAD + http_chunk(events(chunk("a"), chunk("b"), chunk("c"), done=False)))
        await more.wait()
        await exchange.send(http_chunk(events(chunk("d"), chunk("e"), chunk(finish="stop"))) + LAST_CHUNK)

    async with ScriptedBackend(script) as backend, wired(backend.base_url) as wire:
        asking = asyncio.ensure_future(ask(wire, stream=True))
        await asyncio.sleep(0.05)
        more.set()
        answer = await asking
    (none, two), (gap, last) = answer.gaps
    assert (answer.tokens, none, two, last) == (5, 0.0, 2, 2)
    assert 2 * gap == pytest.approx(answer.ended - answer.first)


ANSWERS = {
    "whole": (False, OK),
    "chunked": (False, head(200, "application/json", Transfer_Encoding="chunked")
                + http_chunk(b'{"choices":[{"message"') + http_chunk(b":{}}]}") + LAST_CHUNK),
    "stream": (True, STREAM),
    "stream of \\r\\n": (True, STREAM_HEAD + http_chunk(events(*THREE).replace(b"\n", b"\r\n")) + LAST_CHUNK),
    "trailers": (True, STREAM[: -len(LAST_CHUNK)] + b"0\r\nServer-Timing: a\r\n\r\n"),
    "interim": (True, b"HTTP/1.1 103 Early Hints\r\nRetry-After: 9\r\n\r\n" + STREAM),
    "no done": (True, streamed(*THREE, done=False)),
    "error event": (True, streamed(chunk("a"), {"error": {"message": "no", "code": "backend_error"}}, done=False)),
    "refusal": (True, whole(b'{"error":{"code":"overloaded"}}', 503, Retry_After="1", X_Headgate_Shed_Stage="rag")),
}  # fmt: skip


@pytest.mark.parametrize("name", ANSWERS)
async def test_an_answer_in_single_bytes_is_the_same(name: str):
    stream, data = ANSWERS[name]

    async def drip(exchange: Exchange) -> None:
        for byte in data:
            await exchange.send(bytes([byte]))
            await asyncio.sleep(0)

    at_once = await answer_to(says(data), stream=stream)
    assert at_once.end in (End.WHOLE, End.REFUSED, End.ERROR_EVENT)
    assert timeless(await answer_to(drip, stream=stream)) == timeless(at_once)


async def test_a_refusal_says_where_why_and_when_to_come_back():
    fields = {"Retry_After": "3", "retry_after_ms": "2500", "X_Should_Retry": "true"}
    stage = {"X_Headgate_Shed_Stage": "inference", "X_Headgate_Shed_Reason": "queue_full"}
    for stream in (False, True):
        answer = await answer_to(says(whole(REFUSAL, 503, **fields, **stage)), stream=stream)
        assert (answer.end, answer.status, answer.code) == (End.REFUSED, 503, "overloaded")
        assert (answer.stage, answer.reason, answer.detail) == ("inference", "queue_full", "the queue is full")
        assert (answer.retry_after, answer.should_retry, answer.tokens) == (2.5, True, 0)
        assert 0 < answer.sent <= answer.head <= answer.ended
        assert answer.first == 0.0
        assert not answer.connection_error


@pytest.mark.parametrize(
    ("body", "code", "detail"),
    [
        ({"error": {"message": "m", "type": "t", "code": None}}, "t", "m"),
        ({"error": {"message": "m", "code": 404}}, "404", "m"),
        ({"object": "error", "message": "m", "type": "BadRequestError", "code": 400}, "400", "m"),
        ({"detail": "Not Found"}, "Not Found", "Not Found"),
        ({"detail": [{"loc": ["body"]}]}, '[{"loc":["body"]}]', '[{"loc":["body"]}]'),
        ({"error": "x" * 300}, "x" * 60, "x" * 200),
        ({}, "", "{}"),
        (b"<h1>Bad Gateway</h1>", "", "<h1>Bad Gateway</h1>"),
        (b"\xff" * 500, "", "\ufffd" * 200),
        (b'{"error":{"code":"\xff"}}', "", '{"error":{"code":"\ufffd"}}'),
        (b"", "", ""),
        (b"[" * 100_000, "", "[" * 200),
    ],
)
async def test_errors_of_other_shapes(body: object, code: str, detail: str):
    answer = await answer_to(says(whole(body, 502)))
    assert (answer.end, answer.status, answer.code, answer.detail) == (End.REFUSED, 502, code, detail)


@pytest.mark.parametrize("status", [201, 204, 304, 400, 599])
async def test_every_other_status_is_a_refusal(status: int):
    data = head(status, "") if status in (204, 304) else whole(b"{}", status)
    answer = await answer_to(says(data), stream=True)
    assert (answer.end, answer.status) == (End.REFUSED, status)


async def test_of_a_long_refusal_only_the_begin_is_looked_at():
    body = b'{"error":{"message":"no","code":"overloaded"},"more":"' + b"x" * (1 << 20) + b'"}'
    answer = await answer_to(says(whole(body, 503)))
    assert (answer.end, answer.status, answer.detail[:30]) == (End.REFUSED, 503, body[:30].decode())
    answer = await answer_to(says(whole(b"x" * (5 << 20), 503)))
    assert (answer.end, answer.status) == (End.NONSENSE, 503)


async def test_a_retry_after_date():
    answer = await answer_to(says(whole(b"{}", 429, Retry_After=formatdate(time() + 30, usegmt=True))))
    assert answer.retry_after == pytest.approx(30, abs=2)


@pytest.mark.parametrize("value", ["soon", "nan", "inf", "", "Mon, 01 Foo 2024 00:00:00 GMT"])
async def test_a_retry_after_that_cannot_be_read(value: str):
    answer = await answer_to(says(whole(b"{}", 429, Retry_After=value, X_Should_Retry="perhaps")))
    assert (answer.end, answer.retry_after, answer.should_retry) == (End.REFUSED, None, None)


async def test_an_error_in_the_stream_ends_it():
    error = {"error": {"message": "backend gone", "code": "backend_error"}}
    answer = await answer_to(
        says_and_waits(STREAM_HEAD + http_chunk(events(chunk("a"), error, done=False))), stream=True
    )
    assert (answer.end, answer.status, answer.tokens) == (End.ERROR_EVENT, 200, 1)
    assert (answer.code, answer.detail) == ("backend_error", "backend gone")
    named = b'event: error\ndata: {"message": "bad", "type": "t"}\n\n'
    answer = await answer_to(says(STREAM_HEAD + http_chunk(named) + LAST_CHUNK), stream=True)
    assert (answer.end, answer.code, answer.detail) == (End.ERROR_EVENT, "t", "bad")


async def test_bodies_that_end_with_their_connection():
    body = whole(completion("a")).partition(b"\r\n\r\n")[2]
    assert (await answer_to(says_and_closes(head(200, "application/json") + body))).end is End.WHOLE
    assert (await answer_to(says_and_closes(head() + events(*THREE)), stream=True)).end is End.WHOLE
    assert (await answer_to(says_and_closes(head(500, "") + b"no"))).end is End.REFUSED
    assert (await answer_to(says_and_closes(b"HTTP/1.0 200 OK\r\n\r\n" + body))).end is End.WHOLE

    async def reset(exchange: Exchange) -> None:
        await exchange.send(head(200, "application/json") + body)
        await asyncio.sleep(0.02)  # else the kernel drops what the client has not read
        exchange.reset()

    answer = await answer_to(reset)
    assert (answer.end, answer.status, answer.connection_error) == (End.BROKEN, 200, True)
    assert "reset" in answer.detail
