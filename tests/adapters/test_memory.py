"""What only the stores and retrievers in memory do."""

from pipeline.adapters.retrievers.memory import MemoryRetriever
from pipeline.adapters.stores.memory import MemoryStore
from pipeline.core.ports import Chunk, Manifest
from workers.lexical import Lexical


async def test_a_document_added_again_replaces_the_older_version():
    retriever = MemoryRetriever(Lexical())
    await retriever.add("docs", "a.md", [("T", "the ferry"), ("T", "the lamp")])
    await retriever.add("docs", "a.md", [("T", "the tide")])
    assert [p.text for p in await retriever.search("docs", "ferry lamp tide", 9)] == ["the tide"]


async def test_words_of_deleted_chunks_are_forgotten():
    """The index of words must not grow with what is gone."""
    store = MemoryStore(Manifest("docs", "e", 1))
    for i in range(50):
        await store.write([Chunk(f"{i}.md", 0, "", f"word{i} common", "d", [1.0], last=True)])
        await store.delete(f"{i}.md")
    assert not store._words
    assert await store.search([1.0], "common", 3) == []


async def test_equal_scores_are_always_in_the_same_order():
    stores = [MemoryStore(Manifest("docs", "e", 1)) for _ in range(2)]
    for store, order in zip(stores, (range(9), reversed(range(9))), strict=True):
        for i in order:
            await store.write([Chunk(f"{i}.md", 0, "", "same", "d", [1.0], last=True)])
    assert await stores[0].search([1.0], "same", 9) == await stores[1].search([1.0], "same", 9)
