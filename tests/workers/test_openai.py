"""The `openai` worker against a backend that answers by the book, and one that refuses."""

import gzip
import json
import time
from contextlib import aclosing

import pytest

from tests.servers import (
    LAST_CHUNK,
    chunk,
    completion,
    events,
    head,
    http_chunk,
    says,
    says_and_closes,
    says_and_waits,
    streamed,
    usage_chunk,
    whole,
)
from tests.workers.helpers import ask, calling, told
from workers.errors import WorkerError, WorkerErrorKind

ANSWER = streamed(chunk("he"), chunk("llo"), chunk(finish="stop"), usage_chunk())


async def test_a_streamed_answer():
    async with calling(says(ANSWER)) as (worker, backend):
        answer = await told(worker, ask())
    assert answer.text == "hello"
    assert answer.reasons == {0: ["stop"]}
    assert [usage.completion_tokens for usage in answer.usages] == [2]
    assert all(delta.raw for delta in answer.deltas)
    assert backend.exchanges[0].json["stream_options"] == {"include_usage": True}


async def test_a_whole_answer():
    async with calling(says(whole(completion("hello")))) as (worker, backend):
        answer = await told(worker, ask(stream=False))
    (batch,) = answer.batches
    assert answer.text == "hello"
    assert batch.body == json.dumps(completion("hello")).encode()
    assert batch.usage.prompt_tokens == 3
    assert "stream_options" not in backend.exchanges[0].json


async def test_several_choices():
    answers = [chunk("a"), chunk("b", index=1), chunk(finish="stop", index=1), chunk(finish="length")]
    async with calling(says(streamed(*answers))) as (worker, backend):
        answer = await told(worker, ask(n=2))
        assert answer.reasons == {0: ["length"], 1: ["stop"]}
        backend.script = says(whole(completion("a", "b")))
        answer = await told(worker, ask(n=2, stream=False))
        assert answer.reasons == {0: ["stop"], 1: ["stop"]}
        assert [delta.text for delta in answer.deltas] == ["a", "b"]


async def test_what_is_sent():
    async with calling(says(ANSWER), api_key="sk-secret-1", headers={"X-Team": "blue", "User-Agent": "u"}) as (
        worker,
        backend,
    ):
        await told(worker, ask("hi"))
    (exchange,) = backend.exchanges
    assert (exchange.method, exchange.path) == ("POST", "/v1/chat/completions")
    sent = exchange.headers
    assert sent["authorization"] == "Bearer sk-secret-1"
    assert sent["x-request-id"] == "req-1"
    assert sent["accept-encoding"] == "identity"
    assert sent["content-type"] == "application/json"
    assert (sent["x-team"], sent["user-agent"]) == ("blue", "u")
    assert exchange.json["messages"] == [{"role": "user", "content": "hi"}]
    assert exchange.json["model"] == "asked-for"


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_a_shortened_request_over_the_wire(name):
    """A backend that counts as it is told to: the answer ends with `length`, and the rest of the body is as it was."""

    async def counts(exchange):
        words = [chunk(f"w{at} ") for at in range(exchange.json[name])]
        await says(streamed(*words, chunk(finish="length"), usage_chunk(3, len(words))))(exchange)

    body = b'{"model":"m","messages":[{"role":"user","content":"hi"}], "%s" : 100,"x": [1.50, 1e2]}' % name.encode()
    async with calling(counts) as (worker, backend):
        answer = await told(worker, ask(body=body, rewritten=False, shortened=True, max_tokens=3))
    assert (answer.text, answer.reasons) == ("w0 w1 w2 ", {0: ["length"]})
    assert backend.exchanges[0].body == (
        b'{"model":"asked-for","messages":[{"role":"user","content":"hi"}],"%s":3,"x":[1.50, 1e2],"stream":true,'
        b'"stream_options":{"include_usage":true}}' % name.encode()
    )


async def test_the_sections_own_headers_win():
    headers = {"Authorization": "Basic abc"}
    async with calling(says(ANSWER), api_key="sk-secret-1", headers=headers, model="theirs") as (worker, backend):
        await told(worker, ask())
    assert backend.exchanges[0].headers["authorization"] == "Basic abc"
    assert backend.exchanges[0].json["model"] == "theirs"


async def test_a_connection_serves_again():
    async with calling(says(ANSWER)) as (worker, backend):
        for _ in range(3):
            await told(worker, ask())
        backend.script = says(whole(completion("x")))
        await told(worker, ask(stream=False))
        backend.script = says(whole({"error": "no"}, 400))
        with pytest.raises(WorkerError):
            await told(worker, ask())
        backend.script = says(ANSWER)
        await told(worker, ask())
        assert backend.connections == 1


async def test_the_end_of_the_http_body_may_come_late():
    async def script(exchange):
        await exchange.send(head(Transfer_Encoding="chunked") + http_chunk(events(chunk("a", finish="stop"))))
        await exchange.send(LAST_CHUNK)

    async with calling(script) as (worker, backend):
        for _ in range(5):
            await told(worker, ask())
        assert backend.connections == 1


async def test_proxies_of_the_environment_are_not_used(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    async with calling(says(ANSWER)) as (worker, _):
        assert (await told(worker, ask())).text == "hello"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("reply", "kind", "message"),
    [
        (whole({"error": {"message": "bad n"}}, 400), WorkerErrorKind.BAD_REQUEST, "400: bad n"),
        (whole({"detail": "gone"}, 404), WorkerErrorKind.BAD_REQUEST, "404: gone"),
        (whole(b"x" * 200_000, 422, "text/plain"), WorkerErrorKind.BAD_REQUEST, "422: xxx"),
        (
            whole({"error": {"message": "key sk-secret-1 bad"}}, 401),
            WorkerErrorKind.AUTH,
            "401 to our credentials",
        ),
        (whole(b"<html>oops</html>", 502, "text/html"), WorkerErrorKind.UNAVAILABLE, "the backend answered 502"),
        (whole(b"", 302, Location="http://127.0.0.1:1/"), WorkerErrorKind.UNAVAILABLE, "the backend answered 302"),
        (whole(b"", 503), WorkerErrorKind.OVERLOADED, "the backend answered 503"),
        (whole({"error": {"message": "sent sk-secret-1"}}, 400), WorkerErrorKind.BAD_REQUEST, r"sent \[secret\]"),
    ],
)
async def test_refusals(stream, reply, kind, message):
    async with calling(says(reply), api_key="sk-secret-1") as (worker, backend):
        with pytest.raises(WorkerError, match=message) as raised:
            await told(worker, ask(stream=stream))
        assert len(backend.exchanges) == 1
    assert raised.value.kind is kind
    assert "sk-secret" not in raised.value.message
    assert len(raised.value.message) < 600


async def test_rate_limits_say_when_to_come_back():
    async with calling(says(whole({"error": "slow"}, 429, Retry_After="Tue, 14 Nov 2023 22:13:25 GMT"))) as (
        worker,
        backend,
    ):
        with pytest.raises(WorkerError) as raised:
            await told(worker, ask())
        assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.RATE_LIMITED, True)
        assert raised.value.retry_after == 5.0
        backend.script = says(whole({"error": "slow"}, 503, retry_after_ms="1500"))
        with pytest.raises(WorkerError) as raised:
            await told(worker, ask())
        assert (raised.value.kind, raised.value.retryable) == (WorkerErrorKind.OVERLOADED, True)
        assert raised.value.retry_after == 1.5


@pytest.mark.slow
@pytest.mark.parametrize("begun", [b"", b'{"error"'])
async def test_an_error_body_is_not_waited_for_long(begun):
    reply = head(500, "application/json", Content_Length="1000") + begun
    async with calling(says_and_waits(reply)) as (worker, _):
        started = time.monotonic()
        with pytest.raises(WorkerError, match="answered 500"):
            await told(worker, ask())
        assert time.monotonic() - started < 3


async def test_an_error_body_without_end_is_not_read_to_the_end():
    async def script(exchange):
        await exchange.send(head(500, "text/plain"))
        while not exchange.gone.is_set():
            await exchange.send(b"words " * 1000)

    async with calling(script) as (worker, _):
        with pytest.raises(WorkerError, match="answered 500: words words"):
            await told(worker, ask())


@pytest.mark.parametrize("content_type", ["text/html", "application/json", "text/plain"])
async def test_an_answer_that_is_no_event_stream(content_type):
    async with calling(says(whole(b"<html></html>", 200, content_type))) as (worker, _):
        with pytest.raises(WorkerError, match=content_type) as raised:
            await told(worker, ask())
        assert raised.value.kind is WorkerErrorKind.PROTOCOL


@pytest.mark.parametrize("reply", [whole(b"<html></html>", 200, "text/html"), ANSWER, whole(b"", 204), whole(b"")])
async def test_an_answer_that_is_no_completion(reply):
    async with calling(says(reply)) as (worker, _):
        with pytest.raises(WorkerError) as raised:
            await told(worker, ask(stream=False))
        assert raised.value.kind is WorkerErrorKind.PROTOCOL


async def test_an_answer_without_content_type_or_length():
    async with calling(says_and_closes(head(content_type="") + events(chunk("a", finish="stop")))) as (worker, _):
        assert (await told(worker, ask())).text == "a"


async def test_an_error_within_the_stream_comes_after_what_was_said():
    reply = streamed(chunk("a"), {"error": {"message": "out of memory"}})
    async with calling(says(reply)) as (worker, _):
        async with aclosing(worker.generate(ask())) as batches:
            assert [delta.text for delta in (await anext(batches)).deltas] == ["a"]
            with pytest.raises(WorkerError, match="out of memory") as raised:
                await anext(batches)
        assert raised.value.kind is WorkerErrorKind.UNAVAILABLE


@pytest.mark.parametrize("stream", [True, False])
async def test_compression_that_was_not_asked_for(stream):
    body = events(chunk("a", finish="stop")) if stream else json.dumps(completion("a")).encode()
    content_type = "text/event-stream" if stream else "application/json"
    async with calling(says(whole(gzip.compress(body), 200, content_type, Content_Encoding="gzip"))) as (
        worker,
        backend,
    ):
        assert (await told(worker, ask(stream=stream))).text == "a"
        for encoding, data in (("gzip", b"no gzip at all"), ("gzip", gzip.compress(body)[:40]), ("br", b"\x00\x01")):
            backend.script = says(whole(data, 200, content_type, Content_Encoding=encoding))
            with pytest.raises(WorkerError) as raised:
                await told(worker, ask(stream=stream))
            assert raised.value.kind in {WorkerErrorKind.PROTOCOL, WorkerErrorKind.CUT}


async def test_a_thousand_events_in_one_read_are_few_batches():
    reply = (
        head(Transfer_Encoding="chunked") + http_chunk(events(*[chunk("a ")] * 1000, chunk(finish="stop"))) + LAST_CHUNK
    )
    async with calling(says(reply)) as (worker, _):
        answer = await told(worker, ask())
    assert answer.text == "a " * 1000
    assert len(answer.batches) < 50


async def test_an_event_of_20_megabytes_is_refused_before_it_is_whole():
    async def script(exchange):
        await exchange.send(head() + b'data: {"choices":[{"delta":{"content":"')
        for _ in range(20):
            if exchange.gone.is_set():
                return
            await exchange.send(b"x" * 1_000_000)

    async with calling(script) as (worker, _):
        with pytest.raises(WorkerError) as raised:
            await told(worker, ask())
        assert raised.value.kind is WorkerErrorKind.PROTOCOL


async def test_a_whole_answer_beyond_the_limit_is_refused(monkeypatch):
    monkeypatch.setattr("workers.http._MAX_BODY", 1_000_000)
    async with calling(says(whole(b" " * 2_000_000))) as (worker, _):
        with pytest.raises(WorkerError, match="larger than") as raised:
            await told(worker, ask(stream=False))
        assert raised.value.kind is WorkerErrorKind.PROTOCOL


async def test_a_body_that_is_no_json_is_not_sent():
    async with calling() as (worker, backend):
        with pytest.raises(WorkerError) as raised:
            await told(worker, ask(body=b"[1]"))
        assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
        assert not backend.exchanges


@pytest.mark.parametrize(
    ("reply", "ok", "detail"),
    [
        (whole({"data": []}), True, ""),
        (whole(b"", 404), True, ""),
        (whole(b"", 405), True, ""),
        (whole(b"", 503), False, "GET /models answered 503"),
        (whole(b"", 401), False, "GET /models answered 401"),
    ],
)
async def test_health(reply, ok, detail):
    async with calling(says(reply), api_key="sk-secret-1") as (worker, backend):
        health = await worker.health()
        assert (health.ok, health.detail) == (ok, detail)
        assert (backend.exchanges[0].method, backend.exchanges[0].path) == ("GET", "/v1/models")
        assert backend.exchanges[0].headers["authorization"] == "Bearer sk-secret-1"
        await worker.health()
        assert backend.connections == 1


@pytest.mark.slow
async def test_health_has_a_time_limit():
    async with calling(says_and_waits(b"")) as (worker, _):
        health = await worker.health()
        assert (health.ok, health.detail) == (False, "no answer within 2 s")
