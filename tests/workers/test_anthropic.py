"""The `anthropic` worker: what it calls, and what it makes of refusals. What all workers do is in the conformance
suite."""

import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec
import pytest

from config.schema import AnthropicWorker, AnyWorker
from tests.servers import Script, ScriptedBackend, TinyLlama, says, whole
from tests.workers.helpers import NOW, ask, told
from tests.workers.test_anthropic_dialect import WHOLE
from workers.anthropic import Anthropic
from workers.base import CountingWorker, GenerationRequest
from workers.errors import WorkerError, WorkerErrorKind

EVENTS = whole(WHOLE, content_type="text/event-stream")
KEY = "sk-ant-a-key-of-our-own"


def section(address: str, **fields: Any) -> AnthropicWorker:
    given: Any = msgspec.convert({"kind": "anthropic", "name": "w", "base_url": address, **fields}, AnyWorker)
    assert isinstance(given, AnthropicWorker)
    return given


@asynccontextmanager
async def calling(script: Script, **fields: Any) -> AsyncIterator[tuple[Anthropic, ScriptedBackend]]:
    async with ScriptedBackend(script) as backend:
        given = section(backend.base_url.removesuffix("/v1"), **fields)
        worker = Anthropic(given, given.urls[0], resolve=lambda _: KEY, now=lambda: NOW)
        async with aclosing(worker):
            yield worker, backend


def native(request: GenerationRequest, **body: Any) -> GenerationRequest:
    given = {"model": "route", "max_tokens": 5, "messages": [{"role": "user", "content": "w1"}], **body}
    return msgspec.structs.replace(request, native=json.dumps(given).encode(), native_dialect="messages")


async def test_where_it_calls_and_who_it_says_it_is():
    async with calling(says(EVENTS), api_key="env:KEY", version="2024-01-01", model="claude") as (worker, backend):
        assert (await told(worker, ask())).text == "Hello"
        (exchange,) = backend.exchanges
        assert (exchange.method, exchange.path) == ("POST", "/v1/messages")
        assert (exchange.headers["x-api-key"], exchange.headers["anthropic-version"]) == (KEY, "2024-01-01")
        assert exchange.headers["x-request-id"] == "req-1"
        assert "authorization" not in exchange.headers
        assert (exchange.json["model"], exchange.json["max_tokens"]) == ("claude", 1024)


async def test_without_a_key_none_is_sent():
    async with calling(says(EVENTS), answer_tokens=50) as (worker, backend):
        await told(worker, ask())
        assert "x-api-key" not in backend.exchanges[0].headers
        assert backend.exchanges[0].json["max_tokens"] == 50


async def test_a_native_request_goes_as_it_came_and_is_answered_in_frames():
    async with calling(says(EVENTS), model="claude") as (worker, backend):
        answer = await told(worker, native(ask(), container="kept"))
        assert backend.exchanges[0].json == {
            "model": "claude",
            "max_tokens": 5,
            "messages": [{"role": "user", "content": "w1"}],
            "container": "kept",
            "stream": True,
        }
        assert b"".join([delta.raw for delta in answer.deltas]) == WHOLE


async def test_a_native_request_whose_answer_has_to_be_changed_is_answered_in_our_form():
    async with calling(says(EVENTS)) as (worker, backend):
        request = msgspec.structs.replace(native(ask(), container="kept"), native_answer=False)
        answer = await told(worker, request)
        assert answer.text
        assert not any(delta.native for delta in answer.deltas)
        assert backend.exchanges[0].json["container"] == "kept"


async def test_a_request_of_another_native_dialect_is_translated():
    async with calling(says(EVENTS)) as (worker, backend):
        await told(worker, msgspec.structs.replace(native(ask("hi")), native_dialect="completions"))
        assert backend.exchanges[0].json["messages"] == [{"role": "user", "content": [{"type": "text", "text": "hi"}]}]


async def test_a_refusal_keeps_its_kind_its_wait_and_our_secret():
    body = {"type": "error", "error": {"type": "overloaded_error", "message": f"Overloaded, {KEY}"}}
    async with calling(says(whole(body, 529, Retry_After="3")), api_key="env:KEY") as (worker, _):
        with pytest.raises(WorkerError) as refused:
            await told(worker, ask())
        error = refused.value
        assert (error.kind, error.retry_after, error.status) == (WorkerErrorKind.OVERLOADED, 3.0, 529)
        assert error.retryable
        assert KEY not in error.message


@pytest.mark.parametrize(
    ("answer", "tokens"),
    [
        (whole({"input_tokens": 42}), 42),
        (whole({"tokens": 42}), None),
        (whole(b"<html>"), None),
        (whole(b"", 404), None),
        (whole(b"", 405), None),
    ],
)
async def test_counting_tokens(answer, tokens):
    async with calling(says(answer)) as (worker, backend):
        assert isinstance(worker, CountingWorker)
        assert await worker.count_tokens(ask("hi")) == tokens
        (exchange,) = backend.exchanges
        assert exchange.path == "/v1/messages/count_tokens"
        assert sorted(exchange.json) == ["messages", "model"]


async def test_counting_tells_what_went_wrong():
    async with calling(says(whole(b"", 500))) as (worker, _):
        with pytest.raises(WorkerError) as refused:
            await worker.count_tokens(ask())
        assert refused.value.kind is WorkerErrorKind.UNAVAILABLE


@pytest.mark.parametrize(("status", "ok"), [(200, True), (404, True), (405, True), (401, False), (529, False)])
async def test_health(status, ok):
    async with calling(says(whole(b"{}", status))) as (worker, backend):
        health = await worker.health()
        assert (health.ok, bool(health.detail)) == (ok, not ok)
        assert backend.exchanges[0].path == "/v1/models"


# The real thing.


@pytest.mark.slow
async def test_a_llama_cpp_server(llama: TinyLlama):
    given = section(llama.address)
    async with aclosing(Anthropic(given, llama.address, resolve=str)) as worker:
        assert (await worker.health()).ok
        for stream in (True, False):
            for request in (ask("w1 w2", stream=stream, max_tokens=5), native(ask(stream=stream))):
                answer = await told(worker, request)
                assert len(answer.text.split()) == 5
                assert answer.reasons == {0: ["length"]}
                (usage,) = answer.usages
                assert usage.completion_tokens == 5
                assert usage.prompt_tokens > 2
        counted = await worker.count_tokens(ask("w1 w2"))
        assert counted is not None
        assert counted > 2
        with pytest.raises(WorkerError) as refused:
            await told(worker, ask("w1 " * 9000))
        assert refused.value.kind is WorkerErrorKind.CONTEXT_TOO_LONG
