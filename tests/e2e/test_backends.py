"""What a misbehaving backend does to the client of Headgate: a status and an error, or one in the stream; nothing
leaks."""

import asyncio
import json
from collections.abc import AsyncIterator

import aiohttp
import pytest

from config.schema import Config
from pipeline.core.outcomes import Outcome, Reason
from tests.flows import config
from tests.http import Serving, serving
from tests.servers import (
    LAST_CHUNK,
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
    says_and_waits,
    streamed,
    usage_chunk,
    whole,
)

WHOLE_STREAM = streamed(chunk("a"), chunk("b"), chunk(finish="stop"), usage_chunk())
BEGUN = head(Transfer_Encoding="chunked") + http_chunk(events(chunk("a"), done=False))


@pytest.fixture
async def backend() -> AsyncIterator[ScriptedBackend]:
    async with ScriptedBackend() as scripted:
        yield scripted


def behind(backend: ScriptedBackend, **limits: int) -> Config:
    alone = {"health_interval_ms": 0, "breaker_failures": 0, "breaker_rate": 0.0}  # each request is to reach it
    worker = {"name": "b", "kind": "openai", "base_url": backend.base_url, **alone, **limits}
    return config(workers=[worker], routes=[{"name": "chat", "worker": "b"}])


async def ask(server: Serving, *, stream: bool, **headers: str) -> tuple[int, str, "aiohttp.typedefs.LooseHeaders"]:
    """Status, body and headers of one question, over a connection of its own."""
    body = {"model": "chat", "messages": [{"role": "user", "content": "hi"}], "stream": stream}
    connector = aiohttp.TCPConnector(force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.post(f"{server.base_url}/chat/completions", json=body, headers=headers) as response,
    ):
        return response.status, await response.text(), response.headers


def error_of(text: str) -> dict[str, str]:
    error: dict[str, str] = json.loads(text)["error"]
    return error


BEFORE = {
    "refuses with 400": (says(whole({"error": {"message": "bad temperature"}}, 400)), 400, "backend_refused"),
    "refuses with 422": (says(whole({"detail": "no such field"}, 422)), 400, "backend_refused"),
    "does not know the model": (says(whole({"error": {"message": "no model m"}}, 404)), 400, "backend_refused"),
    "does not accept our key": (says(whole({"error": {"message": "bad key"}}, 401)), 502, "backend_error"),
    "is rate limited": (says(whole({}, 429, Retry_After="7")), 502, "backend_error"),
    "fails": (says(whole(b"Internal Server Error", 500, "text/plain")), 502, "backend_error"),
    "answers HTML": (says(whole(b"<html>hello</html>", 200, "text/html")), 502, "backend_error"),
    "answers HTML with 502": (says(whole(b"<html>bad gateway</html>", 502, "text/html")), 502, "backend_error"),
    "answers broken JSON": (
        says(head(Transfer_Encoding="chunked") + http_chunk(b"data: {nope\n\n")),
        502,
        "backend_error",
    ),
    "redirects": (says(whole(b"", 302, Location="http://127.0.0.1:1/")), 502, "backend_error"),
    "closes at once": (says_and_closes(b""), 502, "backend_error"),
    "resets at once": (says_and_resets(b""), 502, "backend_error"),
    "sends half a head": (says_and_closes(b"HTTP/1.1 200 O"), 502, "backend_error"),
    "sends no frame": (says(head(Transfer_Encoding="chunked") + LAST_CHUNK), 502, "backend_error"),
    "says an error in its stream": (says(streamed({"error": {"message": "out of memory"}})), 502, "backend_error"),
    "stalls before its head": (says_and_waits(b""), 502, "backend_error"),
    "stalls before its first token": (says_and_waits(head(Transfer_Encoding="chunked")), 502, "backend_error"),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("what", BEFORE)
async def test_a_failure_before_the_answer_began_has_its_status(backend: ScriptedBackend, what: str, stream: bool):
    backend.script, status, code = BEFORE[what]
    async with serving(behind(backend, first_delta_timeout_ms=150)) as server:
        answered, text, headers = await ask(server, stream=stream)
        assert (answered, error_of(text)["code"]) == (status, code), text
        assert headers["Content-Type"].startswith("application/json")
        assert "bad key" not in text
        if what == "is rate limited":
            assert headers["Retry-After"] == "7"
        ending = server.books.ended[0].ending
        assert ending is not None
        assert ending.outcome is (Outcome.REJECTED if status == 400 else Outcome.FAILED)


AFTER: dict[str, tuple[Script, Reason]] = {
    "cuts the stream": (says(BEGUN + LAST_CHUNK), Reason.BACKEND_CUT),
    "closes the connection": (says_and_closes(BEGUN), Reason.BACKEND_CUT),
    "resets the connection": (says_and_resets(BEGUN), Reason.BACKEND_RESET),
    "sends half a frame": (says_and_closes(BEGUN + http_chunk(b'data: {"choices":[{"del')), Reason.BACKEND_CUT),
    "sends a broken frame": (says(BEGUN + http_chunk(b"data: {nope\n\n")), Reason.BACKEND_PROTOCOL),
    "sends what is not UTF-8": (
        says(BEGUN + http_chunk(b'data: {"choices":[{"index":0,"delta":{"content":"\xff"}}]}\n\n')),
        Reason.BACKEND_PROTOCOL,
    ),
    "says an error": (says(BEGUN + http_chunk(events({"error": {"message": "oom"}}))), Reason.BACKEND_UNAVAILABLE),
    "stalls between tokens": (says_and_waits(BEGUN), Reason.BACKEND_TIMEOUT),
}


@pytest.mark.parametrize("what", AFTER)
async def test_a_failure_after_the_answer_began_is_told_in_the_stream(backend: ScriptedBackend, what: str):
    backend.script, reason = AFTER[what]
    async with serving(behind(backend, gap_timeout_ms=150)) as server:
        status, text, _ = await ask(server, stream=True)
        assert status == 200
        frames = [line.removeprefix("data: ") for line in text.splitlines() if line]
        assert json.loads(frames[0])["choices"][0]["delta"]["content"] == "a"
        assert error_of(frames[-1])["code"] == "backend_error", text
        assert "[DONE]" not in text
        ending = server.books.ended[0].ending
        assert ending is not None
        assert (ending.outcome, ending.place.label) == (Outcome.FAILED, "inference")
        assert ending.reason in (reason, Reason.BACKEND_RESET if reason is Reason.BACKEND_CUT else reason)


async def test_a_reset_at_any_byte_gives_an_answer_or_one_error(backend: ScriptedBackend):
    async with serving(behind(backend)) as server:
        for at in range(0, len(WHOLE_STREAM), 7):
            backend.script = says_and_resets(WHOLE_STREAM[:at])
            status, text, _ = await ask(server, stream=True)
            whole_answer = status == 200 and "[DONE]" in text
            assert whole_answer or status == 502 or '"error"' in text, (at, status, text)
            assert not ("[DONE]" in text and '"error"' in text)
        assert len(server.books.ended) == len(range(0, len(WHOLE_STREAM), 7))


async def test_the_backend_s_own_answers_pass_untouched(backend: ScriptedBackend):
    own = completion("hello") | {"system_fingerprint": "fp_1", "x_unknown": [1, {"deep": None}]}
    body = json.dumps(own, separators=(" , ", " : "))
    async with serving(behind(backend)) as server:
        backend.script = says(whole(body.encode()))
        assert (await ask(server, stream=False))[1] == body
        tool = chunk(tool_calls=[{"index": 0, "id": "c1", "function": {"name": "f", "arguments": "{}"}}])
        backend.script = says(streamed(tool, chunk(finish="tool_calls"), usage_chunk()))
        _, text, _ = await ask(server, stream=True)
        assert f"data: {json.dumps(tool)}\n\n" in text
        assert '"usage"' not in text  # the client did not ask for it


async def test_a_client_that_leaves_stops_the_backend_call(backend: ScriptedBackend):
    backend.script = says_and_waits(BEGUN)
    async with serving(behind(backend)) as server:
        asking = asyncio.create_task(ask(server, stream=True))
        await backend.until(lambda b: len(b.exchanges) == 1)
        while not server.books.deltas:
            await asyncio.sleep(0.005)
        asking.cancel()
        async with asyncio.timeout(1.0):  # guarantee 6
            await backend.exchanges[0].gone.wait()
        while not server.books.ended:
            await asyncio.sleep(0.005)
        ending = server.books.ended[0].ending
        assert ending is not None
        assert ending.reason is Reason.CLIENT_GONE


async def test_a_client_that_leaves_before_the_first_token_stops_the_backend_call(backend: ScriptedBackend):
    backend.script = says_and_waits(b"")
    async with serving(behind(backend)) as server:
        for stream in (True, False):
            asking = asyncio.create_task(ask(server, stream=stream))
            await backend.until(lambda b: b.open == 1)
            asking.cancel()
            await backend.until(lambda b: b.open == 0, 1.0)
        while len(server.books.ended) < 2:
            await asyncio.sleep(0.005)


async def test_the_deadline_is_told_before_and_within_the_answer(backend: ScriptedBackend):
    async with serving(behind(backend)) as server:
        backend.script = says_and_waits(b"")
        status, text, headers = await ask(server, stream=True, **{"X-Request-Timeout-Ms": "100"})
        assert (status, error_of(text)["code"]) == (504, "deadline_exceeded")
        assert headers["x-should-retry"] == "false"
        backend.script = says_and_waits(BEGUN)
        status, text, _ = await ask(server, stream=True, **{"X-Request-Timeout-Ms": "100"})
        assert status == 200
        assert '"deadline_exceeded"' in text


async def test_a_backend_that_is_not_there():
    workers = [{"name": "b", "kind": "openai", "base_url": "http://127.0.0.1:9/v1"}]
    async with serving(config(workers=workers, routes=[{"name": "chat", "worker": "b"}])) as server:
        status, text, _ = await ask(server, stream=True)
        assert (status, error_of(text)["code"]) == (502, "backend_error")
        ending = server.books.ended[0].ending
        assert ending is not None
        assert ending.reason is Reason.BACKEND_UNREACHABLE
