"""What only the Qdrant server's store does: connections that fail, collections of others. A server of our own that
misbehaves stands for the real one, which these tests cannot have."""

import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from qdrant_client import AsyncQdrantClient, models

from pipeline.adapters.stores import qdrant
from pipeline.adapters.stores.qdrant import QdrantStore
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.core.ports import Chunk, Manifest

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")

MANIFEST = Manifest("docs", "embedder.1", 4)


@asynccontextmanager
async def answering(response: web.Response) -> AsyncIterator[tuple[str, list[web.BaseRequest]]]:
    """A server that answers everything alike."""
    seen: list[web.BaseRequest] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        seen.append(request)
        return web.Response(status=response.status, body=response.body, content_type=response.content_type)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}", seen
    await runner.cleanup()


async def test_a_server_that_is_not_there():
    client = qdrant.connect("http://127.0.0.1:9", None, 1000)
    with pytest.raises(RetrievalError, match="collection 'docs': opening it on the Qdrant server failed"):
        await QdrantStore.open(client, MANIFEST)
    await client.close()


@pytest.mark.parametrize(
    "response",
    [
        web.Response(status=500, text="broken"),
        web.Response(status=401, text='{"status": {"error": "no"}}', content_type="application/json"),
        web.Response(status=200, text="<html>", content_type="text/html"),
        web.Response(status=200, text="{}", content_type="application/json"),
    ],
)
async def test_a_server_that_answers_something_else(response: web.Response):
    async with answering(response) as (url, seen):
        client = qdrant.connect(url, None, 1000)
        with pytest.raises(RetrievalError, match="'docs'"):
            await QdrantStore.open(client, MANIFEST)
        await client.close()
    assert seen


@pytest.mark.filterwarnings("ignore:Api key is used with an insecure connection")
async def test_the_key_is_sent_and_never_shown():
    async with answering(web.Response(status=401)) as (url, seen):
        client = qdrant.connect(url, "sekret", 1000)
        with pytest.raises(RetrievalError) as caught:
            await QdrantStore.open(client, MANIFEST)
        await client.close()
    assert seen[0].headers["api-key"] == "sekret"
    assert "sekret" not in caught.value.message


async def test_a_collection_of_another_program_is_left_alone():
    client = AsyncQdrantClient(":memory:")
    await client.create_collection("docs", vectors_config=models.VectorParams(size=4, distance=models.Distance.DOT))
    with pytest.raises(RetrievalError, match="made by another program"):
        await QdrantStore.open(client, MANIFEST)
    await client.close()


async def test_names_that_the_server_refuses_are_rewritten_and_do_not_mix():
    client = AsyncQdrantClient(":memory:")
    slashed = await QdrantStore.open(client, Manifest("a/b:c", "embedder.1", 4))
    await slashed.write([Chunk("x.md", 0, "", "text", "d", [1.0, 0, 0, 0], last=True)])
    assert [c.name for c in (await client.get_collections()).collections] == ["a_b_c"]
    with pytest.raises(CollectionMismatch, match="a/b:c"):
        await QdrantStore.open(client, Manifest("a_b_c", "embedder.1", 4))
    await client.close()


async def test_a_chunk_without_words_is_stored_and_found_by_its_vector():
    client = AsyncQdrantClient(":memory:")
    store = await QdrantStore.open(client, MANIFEST)
    await store.write([Chunk("x.md", 0, "", "…", "d", [1.0, 0, 0, 0], last=True)])
    assert [p.text for p in await store.search([1.0, 0, 0, 0], "!", 3)] == ["…"]
    await store.aclose()


def test_the_client_is_imported_only_when_it_is_needed():
    code = "import sys, pipeline.adapters.stores.qdrant; print('qdrant_client' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(RetrievalError, match="pip install qdrant-client"):
        qdrant.connect("http://127.0.0.1:9", None, 1000)
