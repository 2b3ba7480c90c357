"""Queries that wait together are embedded together; the queue is bounded."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from pipeline.knowledge.batching import QueryBatcher
from pipeline.knowledge.errors import Busy


class Gated:
    """An embedder that shows what it was asked for and answers when it is let."""

    name = "gated"
    dimension = 1
    fingerprint = "gated"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.asked = asyncio.Semaphore(0)
        self.let = asyncio.Semaphore(0)
        self.error: Exception | None = None

    async def warm(self) -> None:
        return None

    async def embed(self, texts: Sequence[str], *, query: bool = False) -> list[list[float]]:
        assert query
        self.batches.append(list(texts))
        self.asked.release()
        await self.let.acquire()
        if self.error is not None:
            raise self.error
        return [[float(text)] for text in texts]

    async def aclose(self) -> None:
        return None


@asynccontextmanager
async def running(batcher: QueryBatcher) -> AsyncIterator[None]:
    task = asyncio.create_task(batcher.run())
    yield
    batcher.close()
    await task


def ask(batcher: QueryBatcher, embedder: Gated, *texts: str) -> list[asyncio.Task[list[float]]]:
    return [asyncio.create_task(batcher.vector(embedder, text, "docs")) for text in texts]


async def test_what_waits_goes_in_one_batch_up_to_its_size():
    batcher, embedder = QueryBatcher(100, 3), Gated()
    async with running(batcher):
        first = ask(batcher, embedder, "0")
        await embedder.asked.acquire()
        rest = ask(batcher, embedder, "1", "2", "3", "4")
        for _ in range(3):
            embedder.let.release()
        assert await asyncio.gather(*first, *rest) == [[0.0], [1.0], [2.0], [3.0], [4.0]]
    assert embedder.batches == [["0"], ["1", "2", "3"], ["4"]]


async def test_each_embedder_gets_its_own_queries():
    batcher, one, two = QueryBatcher(100, 10), Gated(), Gated()
    async with running(batcher):
        tasks = ask(batcher, one, "1") + ask(batcher, two, "2") + ask(batcher, one, "3")
        one.let.release()
        two.let.release()
        assert await asyncio.gather(*tasks) == [[1.0], [2.0], [3.0]]
    assert (one.batches, two.batches) == ([["1", "3"]], [["2"]])


async def test_a_full_queue_refuses_at_once():
    batcher, embedder = QueryBatcher(2, 1), Gated()
    async with running(batcher):
        first = ask(batcher, embedder, "0")
        await embedder.asked.acquire()
        waiting = ask(batcher, embedder, "1", "2")
        await asyncio.sleep(0)
        with pytest.raises(Busy, match="overloaded: 2 queries are waiting") as caught:
            await batcher.vector(embedder, "3", "docs")
        assert caught.value.collection == "docs"
        for _ in range(3):
            embedder.let.release()
        await asyncio.gather(*first, *waiting)


async def test_a_cancelled_query_is_not_embedded_and_frees_its_place():
    batcher, embedder = QueryBatcher(1, 1), Gated()
    async with running(batcher):
        first = ask(batcher, embedder, "0")
        await embedder.asked.acquire()
        (gone,) = ask(batcher, embedder, "1")
        await asyncio.sleep(0)
        gone.cancel()
        await asyncio.wait([gone])
        second = ask(batcher, embedder, "2")
        embedder.let.release()
        embedder.let.release()
        assert await asyncio.gather(*first, *second) == [[0.0], [2.0]]
    assert embedder.batches == [["0"], ["2"]]


async def test_a_query_cancelled_while_it_is_embedded_harms_nobody():
    batcher, embedder = QueryBatcher(10, 10), Gated()
    async with running(batcher):
        gone, stays = ask(batcher, embedder, "0", "1")
        await embedder.asked.acquire()
        gone.cancel()
        embedder.let.release()
        assert await stays == [1.0]


async def test_an_embedder_that_fails_fails_its_batch_only():
    batcher, embedder = QueryBatcher(10, 10), Gated()
    async with running(batcher):
        embedder.error = ValueError("broken")
        embedder.let.release()
        results = await asyncio.gather(*ask(batcher, embedder, "0", "1"), return_exceptions=True)
        assert [str(r) for r in results] == ["broken", "broken"]
        embedder.error = None
        embedder.let.release()
        assert await batcher.vector(embedder, "2", "docs") == [2.0]


async def test_closed_it_takes_no_more():
    batcher = QueryBatcher(10, 10)
    async with running(batcher):
        pass
    with pytest.raises(Busy):
        await batcher.vector(Gated(), "0", "docs")


async def test_several_batches_at_a_time_where_an_embedder_is_waited_for():
    batcher, embedder = QueryBatcher(10, 1, parallel=2), Gated()
    async with running(batcher):
        tasks = ask(batcher, embedder, "0", "1", "2")
        await embedder.asked.acquire()
        await embedder.asked.acquire()
        assert embedder.batches == [["0"], ["1"]]
        for _ in range(3):
            embedder.let.release()
        assert await asyncio.gather(*tasks) == [[0.0], [1.0], [2.0]]


async def test_what_nobody_waits_for_any_more_is_not_gone_on_with_elsewhere():
    batcher, embedder = QueryBatcher(10, 10, parallel=2), Gated()
    async with running(batcher):
        for _ in range(3):  # more than can be under way
            tasks = ask(batcher, embedder, "0", "1")
            await embedder.asked.acquire()
            tasks[0].cancel()
            await asyncio.wait([tasks[0]])
            tasks[1].cancel()
            await asyncio.wait(tasks)
        embedder.let.release()
        assert await batcher.vector(embedder, "2", "docs") == [2.0]
