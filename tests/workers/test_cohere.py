"""The `cohere` worker over sockets: where its calls go. Chat itself is in the conformance suite."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.servers import Exchange, Script, ScriptedBackend, says, whole
from tests.workers.helpers import NOW, ask, section
from workers.base import CountingWorker, EmbeddingRequest, EmbeddingWorker
from workers.cohere import Cohere
from workers.errors import WorkerError, WorkerErrorKind


@asynccontextmanager
async def calling(script: Script, **fields: Any) -> AsyncIterator[tuple[Cohere, ScriptedBackend]]:
    async with ScriptedBackend(script) as backend:
        given = section("cohere", base_url=backend.base_url.removesuffix("/v1") + "/", api_key="env:KEY", **fields)
        worker = Cohere(given, given.urls[0], resolve=lambda _: "sk-secret-1", now=lambda: NOW)
        yield worker, backend
        await worker.aclose()
        await backend.until(lambda backend: backend.open == 0)


async def embeds(exchange: Exchange) -> None:
    """One vector a text, of its number among all, and one token each."""
    numbers = [float(text) for text in exchange.json["texts"]]
    body = {
        "id": "e",
        "response_type": "embeddings_by_type",
        "embeddings": {"float": [[number, 0.5] for number in numbers]},
        "meta": {"billed_units": {"input_tokens": float(len(numbers))}},
    }
    await says(whole(body))(exchange)


async def test_texts_are_embedded_in_calls_of_so_many():
    async with calling(embeds, model="embed-v4.0") as (worker, backend):
        assert isinstance(worker, EmbeddingWorker)
        answer = await worker.embed(EmbeddingRequest("req-1", "m", tuple(map(str, range(200))), purpose="document"))
    assert answer.vectors == tuple([(float(number), 0.5) for number in range(200)])
    assert answer.model == "embed-v4.0"
    assert answer.usage.prompt_tokens == 200
    assert [(exchange.path, len(exchange.json["texts"])) for exchange in backend.exchanges] == [
        ("/v2/embed", 96),
        ("/v2/embed", 96),
        ("/v2/embed", 8),
    ]
    first = backend.exchanges[0]
    assert (first.json["model"], first.json["input_type"]) == ("embed-v4.0", "search_document")
    assert (first.headers["authorization"], first.headers["x-request-id"]) == ("Bearer sk-secret-1", "req-1")


async def test_nothing_is_embedded_without_a_call():
    async with calling(embeds) as (worker, backend):
        assert (await worker.embed(EmbeddingRequest("req-1", "m", ()))).vectors == ()
    assert not backend.exchanges


async def test_tokens_cannot_be_embedded():
    async with calling(embeds) as (worker, backend):
        with pytest.raises(WorkerError) as raised:
            await worker.embed(EmbeddingRequest("req-1", "m", ("a", (1, 2))))
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
    assert not backend.exchanges


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (whole({"message": "invalid api token"}, 401), WorkerErrorKind.AUTH),
        (whole({"message": "slow down"}, 429, Retry_After="7"), WorkerErrorKind.RATE_LIMITED),
        (whole(b"<html>", 200, "text/html"), WorkerErrorKind.PROTOCOL),
        (whole({"embeddings": {"float": [[1.0]]}}), WorkerErrorKind.PROTOCOL),  # for two texts
    ],
)
async def test_a_call_to_embed_that_fails(answer, kind):
    async with calling(says(answer)) as (worker, _):
        with pytest.raises(WorkerError) as raised:
            await worker.embed(EmbeddingRequest("req-1", "m", ("1", "2")))
    assert raised.value.kind is kind
    assert raised.value.retry_after == (7.0 if kind is WorkerErrorKind.RATE_LIMITED else None)


async def counts(exchange: Exchange) -> None:
    words = exchange.json["text"].split()
    await says(whole({"tokens": list(range(len(words))), "token_strings": words}))(exchange)


async def test_tokens_are_counted():
    async with calling(counts) as (worker, backend):
        assert isinstance(worker, CountingWorker)
        assert await worker.count_tokens(ask("one two three")) == 3
        assert await worker.count_tokens(ask("word " * 20_000)) == 20_001  # a word is cut in two
    assert [exchange.path for exchange in backend.exchanges] == ["/v1/tokenize"] * 3


@pytest.mark.parametrize("status", [400, 404, 405, 422, 501])
async def test_a_model_whose_tokens_are_not_told(status):
    async with calling(says(whole({"message": "no"}, status))) as (worker, _):
        assert await worker.count_tokens(ask()) is None


@pytest.mark.parametrize("answer", [whole({"message": "no"}, 500), whole({"tokens": 5}), whole(b"<html>")])
async def test_a_count_that_fails(answer):
    async with calling(says(answer)) as (worker, _):
        with pytest.raises(WorkerError):
            await worker.count_tokens(ask())


@pytest.mark.parametrize(
    ("answer", "ok"),
    [(whole({"models": []}), True), (whole({}, 404), True), (whole({}, 500), False), (whole({}, 401), False)],
)
async def test_health(answer, ok):
    async with calling(says(answer)) as (worker, backend):
        seen = await worker.health()
    assert seen.ok is ok
    assert bool(seen.detail) is not ok
    assert (backend.exchanges[0].method, backend.exchanges[0].path) == ("GET", "/v1/models")


async def test_a_stream_is_asked_for_as_one():
    async with calling(says(whole(json.dumps({"x": 1}).encode()))) as (worker, backend):
        with pytest.raises(WorkerError) as raised:
            [batch async for batch in worker.generate(ask())]
    assert raised.value.kind is WorkerErrorKind.PROTOCOL  # JSON where events should be
    (exchange,) = backend.exchanges
    assert (exchange.method, exchange.path, exchange.json["stream"]) == ("POST", "/v2/chat", True)
    assert "text/event-stream" in exchange.headers["accept"]
