"""`POST /v1/chat/completions`, as bytes on the wire."""

import re

import pytest

from tests.edge.scripted import ScriptedWorker, scripted_config
from tests.edge.wire import ask, chat, connected, post
from tests.flows import config
from tests.http import serving
from workers.base import Delta, DeltaBatch, Usage

CONFIG = scripted_config()


@pytest.fixture
def said() -> ScriptedWorker:
    return ScriptedWorker()


async def test_an_answer_that_is_not_streamed(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, post(chat("hello there"), "/v1/chat/completions", "X-Request-Id: req-7"))
        assert answer.status == 200
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["x-request-id"] == "req-7"
        assert answer.headers["x-headgate-shard"] == "0"
        assert answer.json["id"] == "chatcmpl-req-7"
        assert answer.json["choices"][0]["message"]["content"] == "hello there"
        assert answer.json["usage"] == {"prompt_tokens": 2, "completion_tokens": 2, "total_tokens": 4}


async def test_server_timing_tells_every_stages_queue_and_service(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        async with connected(server.port) as wire:
            await wire.send(post(chat(model="said")))
            await said.called.wait()
            said.say("a", end=True)
            answer = await wire.answer()
        entries = dict(entry.split(";dur=") for entry in answer.headers["server-timing"].split(", "))
        assert list(entries) == [
            name for stage in ("rag", "assemble", "inference", "post", "stream") for name in (f"{stage}_q", stage)
        ]
        assert all(float(milliseconds) >= 0 for milliseconds in entries.values())
        assert float(entries["inference"]) > 0


async def test_a_streamed_answer(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        body = chat("hello there", stream=True, stream_options={"include_usage": True})
        answer = await ask(server.port, post(body))
        assert answer.status == 200
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["cache-control"] == "no-cache"
        assert answer.headers["x-accel-buffering"] == "no"
        assert re.fullmatch(r"[0-9a-f]{22}", answer.headers["x-request-id"])
        assert "server-timing" not in answer.headers
        *chunks, usage, done = [data for _, data in answer.events]
        assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "hello there"
        assert usage["usage"]["total_tokens"] == 4
        assert done == "[DONE]"


async def test_what_is_ready_together_is_one_chunk_of_the_transfer(said):
    async with serving(CONFIG, workers={"said": said}) as server, connected(server.port) as wire:
        await wire.send(post(chat(model="said", stream=True)))
        await said.called.wait()
        said.batches.put_nowait(DeltaBatch((Delta("a"), Delta("b"), Delta("c"))))
        await wire.head()
        first = await wire.chunk()
        assert first.count(b"data: ") == 4  # the role, and three texts
        said.say("d")
        assert (await wire.chunk()).count(b"data: ") == 1
        said.say(end=True)
        assert b"stop" in await wire.chunk()
        assert (await wire.chunk()).endswith(b"data: [DONE]\n\n")
        assert await wire.chunk() == b""


@pytest.mark.parametrize("stream", [True, False])
async def test_the_worker_is_asked_for_what_the_client_asked_for(said, stream):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.say("x", end=True)
        body = chat(
            "why?", model="said", stream=stream, max_completion_tokens=5, max_tokens=9, temperature=0.5, top_p=0.9, n=1,
            stop="END", seed=3, unknown={"kept": [1]},
        )  # fmt: skip
        sent = post(body)
        await ask(server.port, sent)
        (request,) = said.requests
        assert sent.endswith(request.body)
        assert request.body
        parameters = request.parameters
        assert (parameters.max_tokens, parameters.temperature, parameters.top_p) == (5, 0.5, 0.9)
        assert (parameters.stop, parameters.seed, parameters.n, request.stream) == (("END",), 3, 1, stream)


@pytest.mark.parametrize(
    ("lines", "fields", "session_id"),
    [
        (("X-Session-Id: head",), {"prompt_cache_key": "body"}, "head"),
        ((), {"prompt_cache_key": "body"}, "body"),
        (("X-Session-Id: ",), {"prompt_cache_key": ""}, None),
        ((), {"user": "everyone"}, None),
    ],
)
async def test_the_session_is_named_by_the_head_or_by_the_cache_key(said, lines, fields, session_id):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.say("x", end=True)
        await ask(server.port, post(chat(model="said", **fields), "/v1/chat/completions", *lines))
        assert said.requests[0].session_id == session_id


async def test_the_deadline_is_the_clients(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        request = post(chat(model="said"), "/v1/chat/completions", "X-Request-Timeout-Ms: 50")
        answer = await ask(server.port, request)
        assert answer.status == 504
        assert answer.code == "deadline_exceeded"
        assert answer.headers["x-should-retry"] == "false"
        await said.closed.wait()


async def test_the_official_clients_read_timeout_limits_the_wait_for_the_first_delta(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        request = post(chat(model="said"), "/v1/chat/completions", "x-stainless-read-timeout: 0.05")
        answer = await ask(server.port, request)
        assert answer.status >= 500
        await said.closed.wait()


@pytest.mark.parametrize(
    "line",
    ["X-Request-Timeout-Ms: soon", "X-Request-Timeout-Ms: -1", "X-Session-Id: " + "x" * 257, "X-Session-Id: a\tb"],
)
async def test_a_bad_header_is_refused_by_its_name(said, line):
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, post(chat(), "/v1/chat/completions", line))
        assert answer.status == 400
        assert answer.json["error"]["param"] == line.partition(":")[0]


async def test_a_trace_context_comes_back(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        context = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        answer = await ask(server.port, post(chat(), "/v1/chat/completions", f"traceparent: {context}"))
        assert answer.headers["traceparent"] == context
        answer = await ask(server.port, post(chat(), "/v1/chat/completions", "traceparent: nonsense"))
        assert "traceparent" not in answer.headers


async def test_a_refused_request_counts_once_and_tells_its_id(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        answer = await ask(server.port, post(b"{", "/v1/chat/completions", "X-Request-Id: bad-1"))
        assert (answer.status, answer.headers["x-request-id"]) == (400, "bad-1")
        (ticket,) = server.books.ended
        assert ticket.ending is not None
        assert (ticket.request_id, ticket.ending.outcome) == ("bad-1", "rejected")


async def test_what_was_cut_is_in_the_answers_head():
    small = config(workers=[{"name": "echo", "kind": "echo", "context_tokens": 64, "answer_tokens": 16}])
    turns = [{"role": "user", "content": "old " * 40}, {"role": "assistant", "content": "older " * 40}]
    body = {"model": "echo", "messages": [*turns, {"role": "user", "content": "new"}]}
    async with serving(small) as server:
        for stream in (False, True):
            answer = await ask(server.port, post({**body, "stream": stream}))
            assert answer.status == 200
            assert answer.headers["x-headgate-cut"] == "turns=1"


async def test_a_worker_that_does_not_stream_gives_its_usage_too(said):
    async with serving(CONFIG, workers={"said": said}) as server:
        said.batches.put_nowait(DeltaBatch((Delta("whole", 0, "stop"),), Usage(3, 1)))
        said.batches.put_nowait(None)
        answer = await ask(server.port, post(chat(model="said")))
        assert answer.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
