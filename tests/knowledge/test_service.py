"""The collections of one process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from config.errors import ConfigError
from config.schema import Config
from config.secrets import resolve
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge.service import Knowledge
from tests.knowledge.helpers import SEA, config, pieces
from workers.lexical import Lexical


@asynccontextmanager
async def opened(tmp_path: Path, *collections: dict[str, Any]) -> AsyncIterator[Knowledge]:
    conf: Config = config(tmp_path, *collections)
    (tmp_path / "collections").mkdir(exist_ok=True)
    knowledge = Knowledge(conf.collections, conf.knowledge, tmp_path, resolve)
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

        async def unexpected(*_: object) -> None:
            raise AssertionError("embedded")

        monkeypatch.setattr(Lexical, "embed", unexpected)
        assert await knowledge.search("docs", " \n ", 3) == []
        assert await knowledge.search("docs", "ferry", 0) == []


async def test_an_embedder_that_fails_is_a_retrieval_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    async with opened(tmp_path) as knowledge:

        async def broken(*_: object) -> None:
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
