"""Collections as workflow steps see them: over a real knowledge process, and without one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from config.schema import Config
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge import workflow
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.errors import Busy
from pipeline.knowledge.ingest import ingest
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.workflow import CollectionKnowledge, Collections, local_collections, told
from pipeline.workflow.errors import Postponed, StepFailed
from tests.knowledge.helpers import config, served

pytestmark = pytest.mark.slow


@asynccontextmanager
async def over(conf: Config, collections: Collections) -> AsyncIterator[CollectionKnowledge]:
    """Closed whatever happens: uvloop's loop would wait for its parsers' process."""
    knowledge = CollectionKnowledge(conf.collections, collections)
    try:
        yield knowledge
    finally:
        await knowledge.aclose()


LONG = "\n\n".join(f"# Part {n}\n\nThe ferry number {n} leaves from quay {n}. " + "Tide. " * 60 for n in range(40))


async def test_a_document_in_an_embedded_collection(tmp_path: Path):
    conf = config(tmp_path)
    async with served(conf) as client, over(conf, client) as knowledge:
        assert await knowledge.upsert("docs", "sea", "Sea", "At low tide the channel is four metres deep.") == 1
        (found,) = await knowledge.search("docs", "channel", 3)
        assert (found.source, found.title, found.position) == ("sea", "Sea", 0)
        assert await knowledge.upsert("docs", "sea", "", "The lamp is seen from thirty miles away.") == 1
        (found,) = await knowledge.search("docs", "lamp", 3)
        assert (found.text, found.title) == ("The lamp is seen from thirty miles away.", "")
        assert await client.count("docs") == 1
        assert len(await knowledge.embed("docs", "lamp")) > 10
        assert await knowledge.upsert("docs", "sea", "", " \n ") == 0
        assert await client.documents("docs") == {}


async def test_it_is_cut_as_ingest_cuts_it(tmp_path: Path):
    conf = config(tmp_path / "data", {"name": "docs"}, {"name": "mine"})
    file = tmp_path / "long.md"
    file.write_text(LONG)
    async with served(conf) as client, over(conf, client) as knowledge:
        await ingest([file], "docs", conf)
        chunks = await knowledge.upsert("mine", "long.md", "", LONG)
        assert chunks == await client.count("docs") > 20
        (digest,) = (await client.documents("docs")).values()
        assert await client.documents("mine") == {"long.md": digest}
        theirs, ours = await client.search("docs", "ferry", 100), await knowledge.search("mine", "ferry", 100)
        assert len(ours) == chunks
        by_position = {one.position: (one.title, one.text) for one in theirs}
        assert by_position == {one.position: (one.title, one.text) for one in ours}
        assert await knowledge.upsert("mine", "long.md", "Ferries", LONG) == chunks
        assert (await knowledge.search("mine", "ferry number 7", 1))[0].title.startswith("Ferries > Part")


async def test_versions_that_come_together_do_not_mix(tmp_path: Path):
    conf = config(tmp_path)
    async with served(conf) as client, over(conf, client) as knowledge:
        versions = [LONG.replace("ferry", f"version{n}") for n in range(4)]
        await asyncio.gather(*[knowledge.upsert("docs", "long.md", "", text) for text in versions])
        documents = await client.documents("docs")
        assert list(documents) == ["long.md"]
        assert documents["long.md"]  # complete, and one
        found = await knowledge.search("docs", "version3", 100)
        assert all("version3" in one.text for one in found)


async def test_one_that_was_broken_off_is_made_again(tmp_path: Path):
    conf = config(tmp_path)
    async with served(conf) as client, over(conf, client) as knowledge:
        await knowledge.upsert("docs", "other.txt", "", "Something else.")
        task = asyncio.create_task(knowledge.upsert("docs", "long.md", "", LONG))
        while not await client.count("docs") > 1:
            assert not task.done()
        task.cancel()
        await asyncio.wait([task])
        chunks = await knowledge.upsert("docs", "long.md", "", LONG)
        assert all((await client.documents("docs")).values())
        assert await client.count("docs") == chunks + 1


async def test_texts_that_are_no_documents(tmp_path: Path):
    conf = config(tmp_path)
    async with served(conf) as client, over(conf, client) as knowledge:
        with pytest.raises(StepFailed, match="zero bytes") as caught:
            await knowledge.upsert("docs", "a", "", "a\0b")
        assert (caught.value.kind, caught.value.retryable) == ("invalid_document", False)
        assert await knowledge.upsert("docs", "odd \ud800", "\udfff", "half a \ud800 character") == 1
        assert await client.count("docs") == 1


async def test_the_parsers_process_does_not_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(workflow, "IDLE_SECONDS", 0.05)
    conf = config(tmp_path)
    async with served(conf) as client, over(conf, client) as knowledge:
        await knowledge.upsert("docs", "a", "", "some text")
        async with asyncio.timeout(20):
            while knowledge._cutter._reader is not None:
                await asyncio.sleep(0.01)
        assert await knowledge.upsert("docs", "a", "", "some other text") == 1


async def test_without_a_knowledge_process(tmp_path: Path):
    conf = config(tmp_path)
    client = KnowledgeClient(tmp_path / SOCKET)
    async with over(conf, client) as knowledge:
        for call in (
            knowledge.search("docs", "a", 1),
            knowledge.embed("docs", "a"),
            knowledge.upsert("docs", "a", "", "b"),
        ):
            with pytest.raises(StepFailed, match="headgate serve") as caught:
                await call
            assert (caught.value.kind, caught.value.retryable) == ("retrieval_error", True)
        with pytest.raises(StepFailed, match="there are: docs") as caught:
            await knowledge.search("more", "a", 1)
        assert caught.value.kind == "unknown_collection"
    await client.aclose()


async def test_collections_in_memory_need_no_daemon(tmp_path: Path):
    conf = config(tmp_path, {"name": "notes", "store": "memory"}, {"name": "docs"})
    async with local_collections(conf) as collections, over(conf, collections) as knowledge:
        assert await knowledge.upsert("notes", "sea", "", "The ferry leaves every forty minutes.") == 1
        assert [one.source for one in await knowledge.search("notes", "ferry", 5)] == ["sea"]
        assert len(await knowledge.embed("notes", "ferry")) > 10
        assert await knowledge.upsert("notes", "sea", "", "") == 0
        assert await knowledge.search("notes", "ferry", 5) == []
        with pytest.raises(StepFailed, match="need a daemon"):
            await knowledge.search("docs", "ferry", 5)
        async with served(conf) as client:  # then it is asked
            await knowledge.upsert("docs", "sea", "", "The ferry is late.")
            assert await client.count("docs") == 1
            assert len(await collections.search("docs", "ferry", 5)) == 1


def test_errors_in_the_engines_terms():
    assert isinstance(told(Busy("full", collection="docs")), Postponed)
    for error, kind, retryable in (
        (CollectionMismatch("other", collection="docs"), "collection_mismatch", False),
        (RetrievalError("broken", collection="docs"), "retrieval_error", True),
    ):
        failed = told(error)
        assert isinstance(failed, StepFailed)
        assert (failed.kind, failed.retryable, failed.details) == (kind, retryable, {"collection": "docs"})
