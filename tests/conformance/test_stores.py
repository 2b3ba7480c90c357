"""Every collection store keeps the same promises."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest
from qdrant_client import AsyncQdrantClient

from pipeline.adapters.stores.edge import EdgeStore
from pipeline.adapters.stores.memory import MemoryShelf
from pipeline.adapters.stores.qdrant import QdrantStore
from pipeline.core.errors import CollectionMismatch, RetrievalError
from pipeline.core.ports import Chunk, CollectionStore, Manifest
from workers.lexical import Lexical

pytestmark = pytest.mark.filterwarnings("ignore:Payload indexes have no effect in the local Qdrant")

Open = Callable[..., Awaitable[CollectionStore]]
MANIFEST = Manifest("docs", Lexical.fingerprint, Lexical.dimension)
TIDES = ("Tides", "At low tide the channel is four metres deep.")
FERRY = ("Ferry", "The ferry leaves every forty minutes from the quay.")
LAMP = ("Lamp", "The lighthouse lamp is seen from thirty miles away.")


@pytest.fixture(params=["memory", "edge", "qdrant"])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens stores over the same place, as a restarted process would."""
    shelf = MemoryShelf()
    # The client's local mode: the library's own in-memory engine behind the same interface as a server's.
    client = AsyncQdrantClient(":memory:")
    stores: list[CollectionStore] = []

    async def open_store(manifest: Manifest = MANIFEST, *, recreate: bool = False) -> CollectionStore:
        store: CollectionStore
        if request.param == "memory":
            store = await shelf.open(manifest, recreate=recreate)
        elif request.param == "edge":
            for other in stores:  # the engine locks its folder
                await other.aclose()
            store = await EdgeStore.open(tmp_path / "docs", manifest, recreate=recreate)
        else:
            store = await QdrantStore.open(client, manifest, recreate=recreate)
        stores.append(store)
        return store

    yield open_store
    for store in stores:
        await store.aclose()


@pytest.fixture
async def store(opened: Open) -> CollectionStore:
    return await opened()


async def chunks(
    source: str, texts: Sequence[tuple[str, str]], digest: str = "d1", *, start: int = 0, complete: bool = True
) -> list[Chunk]:
    vectors = await Lexical().embed([f"{title}\n{text}" for title, text in texts])
    last = len(texts) - 1
    return [
        Chunk(source, start + i, title, text, digest, vector, last=complete and i == last)
        for i, ((title, text), vector) in enumerate(zip(texts, vectors, strict=True))
    ]


async def search(store: CollectionStore, query: str, limit: int = 3):
    (vector,) = await Lexical().embed([query])
    return await store.search(vector, query, limit)


async def test_an_empty_collection_finds_nothing(store: CollectionStore):
    assert await search(store, "tide") == []
    assert await store.count() == 0
    assert await store.documents() == {}


async def test_the_best_passage_comes_first_with_all_that_was_stored(store: CollectionStore):
    await store.write(await chunks("sea.md", [TIDES, FERRY, LAMP]))
    found = await search(store, "how deep is the channel at low tide?")
    best = found[0]
    assert (best.source, best.position, best.title, best.text) == ("sea.md", 0, *TIDES)
    assert [p.score for p in found] == sorted((p.score for p in found), reverse=True)
    assert all(p.score > 0 for p in found)


async def test_words_of_the_title_count(store: CollectionStore):
    await store.write(await chunks("a.md", [("Zanzibar", "It lies in the ocean."), ("Other", "It lies on a hill.")]))
    assert (await search(store, "zanzibar"))[0].position == 0


async def test_at_most_limit_passages(store: CollectionStore):
    await store.write(await chunks("sea.md", [TIDES, FERRY, LAMP]))
    assert len(await search(store, "the ferry and the lamp", limit=2)) == 2
    assert len(await search(store, "the ferry and the lamp", limit=50)) == 3


@pytest.mark.parametrize("query", ["", "   ", "???", "\ud800 tide", "\0", "潮 tide", "tide " * 20_000])
async def test_odd_queries_are_answered(store: CollectionStore, query: str):
    await store.write(await chunks("sea.md", [TIDES]))
    assert len(await search(store, query)) <= 1


async def test_scripts_without_spaces_are_found_by_words(store: CollectionStore):
    await store.write(await chunks("zh.md", [("", "什么是背压"), ("", "灯塔每天晚上发光")]))
    assert (await search(store, "灯塔"))[0].position == 1


async def test_a_document_is_complete_once_its_last_chunk_is_stored(store: CollectionStore):
    first, *rest = await chunks("sea.md", [TIDES, FERRY, LAMP])
    await store.write([first])
    assert await store.documents() == {"sea.md": ""}
    await store.write(rest[:1])
    assert await store.documents() == {"sea.md": ""}
    await store.write(rest[1:])
    assert await store.documents() == {"sea.md": "d1"}
    assert await store.count() == 3


async def test_writing_again_replaces_also_by_fewer_chunks(store: CollectionStore):
    await store.write(await chunks("sea.md", [TIDES, FERRY, LAMP]))
    await store.write(await chunks("other.md", [LAMP]))
    await store.write(await chunks("sea.md", [FERRY], "d2"))
    assert await store.documents() == {"sea.md": "d2", "other.md": "d1"}
    assert await store.count() == 2
    assert [p.text for p in await search(store, "channel tide") if p.source == "sea.md"] == [FERRY[1]]


async def test_writing_the_same_again_changes_nothing(store: CollectionStore):
    for _ in range(2):
        await store.write(await chunks("sea.md", [TIDES, FERRY]))
    assert await store.count() == 2
    assert await store.documents() == {"sea.md": "d1"}


async def test_an_interrupted_update_does_not_pass_for_complete(store: CollectionStore):
    """The older version's end must not end the newer one."""
    await store.write(await chunks("sea.md", [TIDES, FERRY, LAMP], "d1"))
    await store.write(await chunks("sea.md", [LAMP], "d2", complete=False))
    assert (await store.documents())["sea.md"] == ""
    assert [p.text for p in await search(store, "channel ferry lamp", 9)] == [
        LAMP[1]
    ]  # of the older one nothing is left
    await store.write(await chunks("sea.md", [LAMP, TIDES], "d2"))
    assert (await store.documents())["sea.md"] == "d2"
    assert await store.count() == 2


async def test_delete_takes_one_document_only(store: CollectionStore):
    await store.write(await chunks("sea.md", [TIDES, FERRY]))
    await store.write(await chunks("sea.md.old", [LAMP]))
    await store.delete("sea.md")
    await store.delete("never.md")
    assert await store.documents() == {"sea.md.old": "d1"}
    assert {p.source for p in await search(store, "ferry tide lamp")} == {"sea.md.old"}


async def test_sources_may_be_any_text(store: CollectionStore):
    for source in ("a b/ü?*.md", "/abs/'q\"/x.md", "灯.txt", "x" * 2000):
        await store.write(await chunks(source, [TIDES]))
        assert (await store.documents())[source] == "d1"
        await store.delete(source)
    assert await store.count() == 0


async def test_nothing_to_write_is_nothing_written(store: CollectionStore):
    await store.write([])
    assert await store.count() == 0


async def test_a_vector_of_another_dimension_is_refused(store: CollectionStore):
    await store.write(await chunks("sea.md", [TIDES]))
    with pytest.raises(RetrievalError, match="docs"):
        await store.search([1.0, 0.0], "tide", 1)
    with pytest.raises(RetrievalError, match="docs"):
        await store.write([Chunk("b.md", 0, "", "text", "d", [1.0, 0.0], last=True)])
    assert await store.count() == 1


async def test_opened_again_it_holds_what_it_held(opened: Open):
    await (await opened()).write(await chunks("sea.md", [TIDES, FERRY]))
    again = await opened()
    assert await again.documents() == {"sea.md": "d1"}
    assert (await search(again, "ferry"))[0].text == FERRY[1]


async def test_another_embedder_is_refused_with_both_names_and_a_remedy(opened: Open):
    await (await opened()).write(await chunks("sea.md", [TIDES]))
    with pytest.raises(CollectionMismatch) as caught:
        await opened(Manifest("docs", "other.9", 384))
    assert caught.value.collection == "docs"
    for part in (Lexical.fingerprint, "other.9", "--recreate", "--collection docs"):
        assert part in caught.value.message
    assert await (await opened()).count() == 1


@pytest.mark.parametrize(
    "manifest", [Manifest("docs", Lexical.fingerprint, 128), Manifest("docs", "e", 384, version=2)]
)
async def test_another_dimension_or_format_is_refused(opened: Open, manifest: Manifest):
    await opened()
    with pytest.raises(CollectionMismatch):
        await opened(manifest)


async def test_made_anew_it_is_empty_and_takes_the_new_embedder(opened: Open):
    await (await opened()).write(await chunks("sea.md", [TIDES]))
    other = Manifest("docs", "other.9", 384)
    anew = await opened(other, recreate=True)
    assert await anew.count() == 0
    assert await anew.documents() == {}
    with pytest.raises(CollectionMismatch):
        await opened()
    assert await (await opened(other)).count() == 0


async def test_searches_and_writes_at_once(store: CollectionStore):
    await store.write(await chunks("sea.md", [TIDES, FERRY, LAMP]))
    writes = [store.write(await chunks(f"{i}.md", [FERRY, LAMP])) for i in range(20)]
    results = await asyncio.gather(*writes, *(search(store, "low tide channel") for _ in range(20)))
    assert all(found[0].text == TIDES[1] for found in results[20:])
    assert await store.count() == 43


async def test_a_cancelled_search_harms_nothing(store: CollectionStore):
    await store.write(await chunks("sea.md", [TIDES]))
    task = asyncio.create_task(search(store, "tide"))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (await search(store, "tide"))[0].text == TIDES[1]


async def test_a_listing_of_more_than_one_page(store: CollectionStore, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("pipeline.adapters.stores.edge.PAGE", 7)
    monkeypatch.setattr("pipeline.adapters.stores.qdrant.PAGE", 7)
    for i in range(20):
        await store.write(await chunks(f"{i}.md", [TIDES, FERRY]))
    assert await store.documents() == {f"{i}.md": "d1" for i in range(20)}
