"""The `ollama` worker over sockets: where its calls go. Chat itself is in the conformance suite."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.servers import Exchange, Script, ScriptedBackend, says, whole
from tests.workers.helpers import NOW, ask, section
from workers.base import EmbeddingRequest, EmbeddingWorker
from workers.errors import WorkerError, WorkerErrorKind
from workers.ollama import Ollama


@asynccontextmanager
async def calling(script: Script, **fields: Any) -> AsyncIterator[tuple[Ollama, ScriptedBackend]]:
    async with ScriptedBackend(script) as backend:
        given = section("ollama", base_url=backend.base_url.removesuffix("/v1"), **fields)
        worker = Ollama(given, given.urls[0], resolve=str, now=lambda: NOW)
        yield worker, backend
        await worker.aclose()
        await backend.until(lambda backend: backend.open == 0)


async def embeds(exchange: Exchange) -> None:
    """One vector a text, of its number among all, and one token each."""
    vectors = [[float(text), 0.5] for text in exchange.json["input"]]
    await says(whole({"model": "m", "embeddings": vectors, "prompt_eval_count": len(vectors)}))(exchange)


async def test_texts_are_embedded_in_calls_of_so_many():
    async with calling(embeds, model="nomic-embed-text", context_tokens=2048) as (worker, backend):
        assert isinstance(worker, EmbeddingWorker)
        answer = await worker.embed(EmbeddingRequest("req-1", "m", tuple(map(str, range(300))), purpose="query"))
    assert answer.vectors == tuple([(float(number), 0.5) for number in range(300)])
    assert answer.model == "nomic-embed-text"
    assert answer.usage.prompt_tokens == 300
    assert [(exchange.path, len(exchange.json["input"])) for exchange in backend.exchanges] == [
        ("/api/embed", 256),
        ("/api/embed", 44),
    ]
    first = backend.exchanges[0].json
    assert (first["model"], first["options"], first["truncate"]) == ("nomic-embed-text", {"num_ctx": 2048}, True)


async def test_tokens_cannot_be_embedded():
    async with calling(embeds) as (worker, backend):
        with pytest.raises(WorkerError) as raised:
            await worker.embed(EmbeddingRequest("req-1", "m", ((1, 2),)))
    assert raised.value.kind is WorkerErrorKind.BAD_REQUEST
    assert not backend.exchanges


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (whole({"error": "the input length exceeds the context length"}, 400), WorkerErrorKind.CONTEXT_TOO_LONG),
        (whole({"error": 'model "m" not found, try pulling it first'}, 404), WorkerErrorKind.BAD_REQUEST),
        (whole({"error": "server busy, please try again"}, 503), WorkerErrorKind.OVERLOADED),
        (whole(b"<html>", 200, "text/html"), WorkerErrorKind.PROTOCOL),
        (whole({"embeddings": [[1.0], [2.0]]}), WorkerErrorKind.PROTOCOL),  # for one text
    ],
)
async def test_a_call_to_embed_that_fails(answer, kind):
    async with calling(says(answer)) as (worker, _):
        with pytest.raises(WorkerError) as raised:
            await worker.embed(EmbeddingRequest("req-1", "m", ("1",)))
    assert raised.value.kind is kind


@pytest.mark.parametrize(
    ("answer", "ok"),
    [
        (whole({"version": "0.12.10"}), True),
        (whole({"version": None}), False),
        (whole(b"<html>welcome</html>", 200, "text/html"), False),
        (whole({}, 404), False),
        (whole({}, 500), False),
    ],
)
async def test_health(answer, ok):
    async with calling(says(answer)) as (worker, backend):
        seen = await worker.health()
    assert seen.ok is ok
    assert bool(seen.detail) is not ok
    assert (backend.exchanges[0].method, backend.exchanges[0].path) == ("GET", "/api/version")


async def test_a_stream_is_asked_for_as_one():
    async with calling(says(whole({"message": {"content": "x"}, "done": True}))) as (worker, backend):
        with pytest.raises(WorkerError) as raised:
            [batch async for batch in worker.generate(ask())]
    assert raised.value.kind is WorkerErrorKind.PROTOCOL  # JSON where lines of it should be
    assert "application/x-ndjson" in raised.value.message
    (exchange,) = backend.exchanges
    assert (exchange.method, exchange.path, exchange.json["stream"]) == ("POST", "/api/chat", True)
    assert "application/x-ndjson" in exchange.headers["accept"]
    assert "authorization" not in exchange.headers
