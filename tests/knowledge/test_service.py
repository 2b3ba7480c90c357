"""The collections of one process."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from config.errors import ConfigError
from config.schema import AnyWorker, Config, ExtractiveWorker, OpenAIWorker
from config.secrets import resolve
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge.service import Knowledge
from tests.knowledge.helpers import SEA, config, pieces
from tests.servers import Exchange, ScriptedBackend, whole
from workers.errors import EmbedderUnavailable
from workers.lexical import Lexical


@asynccontextmanager
async def opened(
    tmp_path: Path, *collections: dict[str, Any], workers: Sequence[AnyWorker] = ()
) -> AsyncIterator[Knowledge]:
    conf: Config = config(tmp_path, *collections)
    (tmp_path / "collections").mkdir(exist_ok=True)
    knowledge = Knowledge(conf.collections, conf.knowledge, tmp_path, resolve, [*conf.workers, *workers])
    try:
        await knowledge.open()
        yield knowledge
    finally:
        await knowledge.aclose()


async def test_collections_are_kept_apart(tmp_path: Path):
    async with opened(tmp_path, {"name": "a"}, {"name": "b"}, {"name": "c", "store": "memory"}) as knowledge:
        for name, text in zip("abc", SEA, strict=True):
            await knowledge.write(name, pieces("x.md", [text]))
        for name, (_, text) in zip("abc", SEA, strict=True):
            assert [p.text for p in await knowledge.search(name, "the", 5)] == [text]


async def test_embedded_collections_outlive_the_process_and_memory_does_not(tmp_path: Path):
    sections = ({"name": "disk"}, {"name": "mem", "store": "memory"})
    async with opened(tmp_path, *sections) as knowledge:
        for name in ("disk", "mem"):
            await knowledge.write(name, pieces())
    async with opened(tmp_path, *sections) as knowledge:
        assert [await knowledge.count(name) for name in ("disk", "mem")] == [3, 0]


async def test_one_unusable_collection_keeps_no_other_from_being_served(tmp_path: Path):
    async with opened(tmp_path, {"name": "bad"}, {"name": "good"}):
        pass
    manifest = tmp_path / "collections" / "bad" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(Lexical.fingerprint, "other.1"))
    with capture_logs() as logs:
        async with opened(tmp_path, {"name": "bad"}, {"name": "good"}) as knowledge:
            assert await knowledge.count("good") == 0
            for call in (knowledge.search("bad", "x", 1), knowledge.write("bad", pieces()), knowledge.documents("bad")):
                with pytest.raises(CollectionMismatch):
                    await call
    assert [(line["event"], line["collection"]) for line in logs] == [("collection_unusable", "bad")]


async def test_a_server_that_is_down_is_an_error_when_asked_and_not_before(tmp_path: Path):
    section = {"name": "far", "store": "qdrant", "url": "http://127.0.0.1:9", "timeout_ms": 1000}
    async with opened(tmp_path, {"name": "near"}, section) as knowledge:
        assert await knowledge.count("near") == 0
        with pytest.raises(RetrievalError, match="'far'"):
            await knowledge.count("far")
        assert len((await knowledge.embed("far", "text")).vector) == Lexical.dimension


async def test_a_missing_secret_shows_at_start_with_its_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    section = {"name": "far", "store": "qdrant", "url": "http://127.0.0.1:9", "api_key": "env:NO_SUCH_KEY"}
    with pytest.raises(ConfigError, match=r"collections\[1\]\.api_key"):
        async with opened(tmp_path, {"name": "near"}, section):
            pass


async def test_blank_queries_and_no_limit_find_nothing_without_embedding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    async with opened(tmp_path) as knowledge:
        await knowledge.write("docs", pieces())

        async def unexpected(*_: object, **__: object) -> None:
            raise AssertionError("embedded")

        monkeypatch.setattr(Lexical, "embed", unexpected)
        assert await knowledge.search("docs", " \n ", 3) == []
        assert await knowledge.search("docs", "ferry", 0) == []


async def test_an_embedder_that_fails_is_a_retrieval_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with opened(tmp_path) as knowledge:

        async def broken(*_: object, **__: object) -> None:
            raise MemoryError("no room")

        monkeypatch.setattr(Lexical, "embed", broken)
        for call in (knowledge.search("docs", "x", 1), knowledge.embed("docs", "x"), knowledge.write("docs", pieces())):
            with pytest.raises(RetrievalError, match="embedding failed: no room"):
                await call


async def test_making_a_collection_anew_while_it_is_searched(tmp_path: Path):
    """Every search gets an answer or an error, none hangs."""
    async with opened(tmp_path) as knowledge:
        await knowledge.write("docs", pieces())
        async with asyncio.timeout(20):
            tasks = [asyncio.create_task(knowledge.search("docs", "ferry", 1)) for _ in range(50)]
            await asyncio.sleep(0)
            await knowledge.recreate("docs")
            results = await asyncio.gather(*tasks, return_exceptions=True)
        assert all(isinstance(r, list | RetrievalError) for r in results)
        assert await knowledge.count("docs") == 0


async def test_a_collection_that_holds_nothing_is_told_of(tmp_path: Path):
    async with opened(tmp_path, {"name": "empty"}, {"name": "filled"}) as knowledge:
        await knowledge.write("filled", pieces())
        with capture_logs() as logs:
            await knowledge.warn_of_empty()
    assert [(line["event"], line["collection"]) for line in logs] == [("collection_empty", "empty")]


ECHO = {"name": "docs", "embedder": "echo", "dimension": 384}
FAR = {"name": "far", "embedder": "model", "dimension": 2}


def model(url: str, **fields: Any) -> OpenAIWorker:
    return OpenAIWorker(name="model", base_url=url, model="m", retry_base_ms=1, **fields)


def vectors(exchange: Exchange) -> bytes:
    """Of two numbers for each text."""
    data = [{"index": index, "embedding": [float(len(text)), 1.0]} for index, text in enumerate(exchange.json["input"])]
    return whole({"object": "list", "data": data, "model": "m", "usage": {"prompt_tokens": 1, "total_tokens": 1}})


async def test_a_worker_embeds_documents_and_questions(tmp_path: Path):
    async with opened(tmp_path, ECHO) as knowledge:
        await knowledge.write("docs", pieces())
        assert [p.text for p in await knowledge.search("docs", "when does the ferry leave?", 1)] == [SEA[1][1]]
        assert (await knowledge.embed("docs", "ferry")).embedder == "echo.echo.384"


async def test_vectors_of_another_model_or_dimension_are_never_compared(tmp_path: Path):
    async with opened(tmp_path, ECHO) as knowledge:
        await knowledge.write("docs", pieces())
    for other in (ECHO | {"embedding_model": "two"}, ECHO | {"dimension": 100}, {"name": "docs"}):
        with capture_logs():
            async with opened(tmp_path, other) as knowledge:
                with pytest.raises(CollectionMismatch, match=r"echo\.echo\.384"):
                    await knowledge.search("docs", "ferry", 1)


async def test_one_embedder_serves_all_collections_of_its_model(tmp_path: Path):
    two = {"name": "two", "embedder": "echo", "dimension": 384}
    other = {"name": "other", "embedder": "echo", "dimension": 100}
    async with opened(tmp_path, ECHO, two, other) as knowledge:
        made = {name: found.embedder for name, found in knowledge._collections.items()}
        assert made["docs"] is made["two"] is not made["other"]


async def test_a_worker_that_cannot_embed_is_refused_at_start(tmp_path: Path):
    with pytest.raises(EmbedderUnavailable, match="kind extractive cannot embed"):
        async with opened(tmp_path, FAR, workers=[ExtractiveWorker(name="model")]):
            pass


async def test_which_model_of_a_server_embeds_must_be_said(tmp_path: Path):
    worker = OpenAIWorker(name="model", base_url="http://127.0.0.1:9/v1")
    with pytest.raises(EmbedderUnavailable, match="embedding_model"):
        async with opened(tmp_path, FAR, workers=[worker]):
            pass

    async def speak(exchange: Exchange) -> None:
        await exchange.send(vectors(exchange))

    async with ScriptedBackend(speak) as backend:
        worker = OpenAIWorker(name="model", base_url=backend.base_url, model="chat-model")
        async with opened(tmp_path, FAR | {"embedding_model": "e5"}, workers=[worker]) as knowledge:
            assert (await knowledge.embed("far", "ferry")).embedder == "openai.e5.2"
        assert backend.exchanges[-1].json["model"] == "e5"


async def test_a_missing_secret_of_the_worker_shows_at_start_with_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("NO_SUCH_KEY", raising=False)
    for fields in ({"api_key": "env:NO_SUCH_KEY"}, {"headers": {"X-Api-Key": "env:NO_SUCH_KEY"}}):
        with pytest.raises(ConfigError, match=r"workers\[1\]\.(api_key|headers\.X-Api-Key)"):
            async with opened(tmp_path, FAR, workers=[model("http://127.0.0.1:9/v1", **fields)]):
                pass


async def test_a_backend_that_is_down_or_answers_nonsense_is_a_retrieval_error(tmp_path: Path):
    async with opened(tmp_path, FAR, workers=[model("http://127.0.0.1:9/v1")]) as knowledge:
        with pytest.raises(RetrievalError, match="'far': embedding failed: "):
            await knowledge.search("far", "ferry", 1)

    async def nonsense(exchange: Exchange) -> None:
        await exchange.send(whole({"data": [{"index": 0, "embedding": [1.0, 2.0, 3.0]}]}))

    async with (
        ScriptedBackend(nonsense) as backend,
        opened(tmp_path, FAR, workers=[model(backend.base_url)]) as knowledge,
    ):
        with pytest.raises(RetrievalError, match="3 dimensions, but 2 are configured"):
            await knowledge.search("far", "ferry", 1)


async def test_a_backend_that_hangs_keeps_only_its_own_questions_waiting(tmp_path: Path):
    async def never(exchange: Exchange) -> None:
        await exchange.gone.wait()

    async with (
        ScriptedBackend(never) as backend,
        opened(tmp_path, FAR, {"name": "near"}, workers=[model(backend.base_url)]) as knowledge,
    ):
        await knowledge.write("near", pieces())
        asking = asyncio.create_task(knowledge.search("far", "ferry", 1))
        await backend.until(lambda b: len(b.exchanges) == 1)
        assert len(await knowledge.search("near", "ferry", 1)) == 1
        asking.cancel()
        await backend.until(lambda b: b.open == 0)


async def test_a_key_that_was_rotated_is_read_again(tmp_path: Path):
    key = tmp_path / "key"
    key.write_text("old-key-of-a-backend")

    async def guarded(exchange: Exchange) -> None:
        right = exchange.headers["authorization"] == "Bearer new-key-of-a-backend"
        refusal = {"error": {"message": f"wrong: {exchange.headers['authorization']}"}}
        await exchange.send(vectors(exchange) if right else whole(refusal, 401))

    async with (
        ScriptedBackend(guarded) as backend,
        opened(tmp_path, FAR, workers=[model(backend.base_url, api_key=f"file:{key}")]) as knowledge,
    ):
        with pytest.raises(RetrievalError, match="embedding failed") as caught:
            await knowledge.embed("far", "ferry")
        assert "old-key" not in str(caught.value)
        key.write_text("new-key-of-a-backend\n")
        assert len((await knowledge.embed("far", "ferry")).vector) == 2
