"""Collections as workflow steps see them: over a real knowledge process, and without one."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from config.schema import Config
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.knowledge import workflow
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.errors import Busy
from pipeline.knowledge.ingest import ingest
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.wire import Piece
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


class Waiting:
    """Passes calls on; a document's first write waits a moment for another one's."""

    def __init__(self, client: KnowledgeClient) -> None:
        self.digests: list[str] = []
        self._other = asyncio.Event()
        self._client = client
        self.search, self.embed, self.delete, self.aclose = client.search, client.embed, client.delete, client.aclose

    async def write(self, collection: str, pieces: Sequence[Piece]) -> None:
        self.digests.append(pieces[0].digest)
        if len(set(self.digests)) > 1:
            self._other.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(0.3):
                await self._other.wait()
        await self._client.write(collection, pieces)


async def test_versions_that_come_together_do_not_mix(tmp_path: Path):
    conf = config(tmp_path)
    async with served(conf) as client:
        waiting = Waiting(client)
        async with over(conf, waiting) as knowledge:
            texts = ["First. " * 3000, "Second. " * 3000]
            await asyncio.gather(*[knowledge.upsert("docs", "a.txt", "", text) for text in texts])
        first, second = dict.fromkeys(waiting.digests)
        assert waiting.digests == sorted(waiting.digests, key=[first, second].index)
        assert await client.documents("docs") == {"a.txt": second}  # complete, and one


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
