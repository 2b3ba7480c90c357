"""`vector_search` and `vector_upsert` over real collections in memory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pipeline.knowledge.workflow import CollectionKnowledge, local_collections
from pipeline.workflow.definition import VectorSearchStep, VectorUpsertStep
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.steps.vectors import made_source, vector_search, vector_upsert
from tests.knowledge.helpers import config
from tests.workflow.steps.context import Context


@asynccontextmanager
async def knowledge(folder: Path) -> AsyncIterator[CollectionKnowledge]:
    conf = config(folder, {"name": "docs", "store": "memory"})
    async with local_collections(conf) as collections:
        found = CollectionKnowledge(conf.collections, collections)
        try:
            yield found
        finally:
            await found.aclose()


async def store(port: CollectionKnowledge, documents: Any) -> Any:
    one = VectorUpsertStep(id="store", collection="docs", documents="{{ x }}")
    return await vector_upsert(one, Context(one, knowledge=port, filled={"documents": documents}))


async def search(port: CollectionKnowledge, query: Any = "ferry", **filled: Any) -> list[dict[str, Any]]:
    one = VectorSearchStep(id="find", collection="docs", query="{{ q }}")
    result = await vector_search(one, Context(one, knowledge=port, filled={"query": query, **filled}))
    msgspec.json.encode(result.value)
    found: list[dict[str, Any]] = result.value
    return found


@pytest.mark.slow
async def test_what_was_stored_is_found(tmp_path: Path):
    async with knowledge(tmp_path) as port:
        ferry = {"text": "The ferry leaves every forty minutes.", "source": "ferry.txt", "title": "Ferry", "score": 1}
        result = await store(port, [ferry, "At low tide the channel is four metres deep."])
        assert result.value == {"documents": 2, "chunks": 2}
        best, *others = await search(port)
        assert set(best) == {"text", "source", "title", "score"}
        assert (best["source"], best["title"]) == ("ferry.txt", "Ferry")
        assert [other["source"] for other in others] == [made_source("At low tide the channel is four metres deep.")]
        assert await search(port, min_score=best["score"]) == [best]
        assert len(await search(port, limit=1)) == 1
        await store(port, "At low tide the channel is four metres deep.")  # the same text, the same source
        await store(port, {"text": "The ferry is out of service.", "source": "ferry.txt"})
        texts = [one["text"] for one in await search(port)]
        assert sorted(texts) == ["At low tide the channel is four metres deep.", "The ferry is out of service."]
        again = await search(port, "channel")
        assert (await store(port, [*again, *again])).value["documents"] == 2  # found and stored again, each once


@pytest.mark.parametrize(
    ("documents", "field"),
    [
        (5, "documents"),
        (None, "documents"),
        (["a", 5], "documents[1]"),
        ([{"source": "x"}], "documents[0].text"),
        ({"text": "a", "source": ""}, "documents.source"),
        ([{"text": "a", "title": 1}], "documents[0].title"),
        ([{"text": "a", "source": "x"}, {"text": "b", "source": "x"}], "documents[1].source"),
    ],
)
async def test_documents_that_cannot_be_stored(tmp_path: Path, documents: Any, field: str):
    async with knowledge(tmp_path) as port:
        with pytest.raises(StepFailed) as caught:
            await store(port, documents)
        assert caught.value.kind == "invalid_input"
        assert caught.value.details["field"] == field
        assert await search(port) == []  # nothing was, not even those before it


@pytest.mark.parametrize(
    ("filled", "field"),
    [
        ({"limit": 0}, "limit"),
        ({"limit": "5"}, "limit"),
        ({"limit": None}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"min_score": "high"}, "min_score"),
        ({"query": None}, "query"),
        ({"collection": ["docs"]}, "collection"),
    ],
)
async def test_searches_that_cannot_be_made(tmp_path: Path, filled: dict[str, Any], field: str):
    async with knowledge(tmp_path) as port:
        with pytest.raises(StepFailed) as caught:
            await search(port, **filled)
        assert (caught.value.kind, caught.value.details["field"]) == ("invalid_input", field)


async def test_a_collection_that_is_not_there(tmp_path: Path):
    async with knowledge(tmp_path) as port:
        with pytest.raises(StepFailed, match="there are: docs") as caught:
            await search(port, collection="more")
        assert (caught.value.kind, caught.value.retryable) == ("unknown_collection", False)
