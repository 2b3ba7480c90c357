"""Embeds queries together: what waits in the one bounded queue goes through the embedder in one batch."""

import asyncio
from typing import NamedTuple

from pipeline.core.queue import Put, StageQueue
from pipeline.knowledge.errors import Busy
from workers.base import Embedder


class _Query(NamedTuple):
    embedder: Embedder
    text: str
    vector: asyncio.Future[list[float]]


class QueryBatcher:
    """`capacity` queries may wait, up to `batch` are embedded together. Serves while `run` runs."""

    def __init__(self, capacity: int, batch: int) -> None:
        self._queue: StageQueue[_Query] = StageQueue(capacity)
        self._batch = batch

    async def vector(self, embedder: Embedder, text: str, collection: str) -> list[float]:
        """Raises `Busy` at once when the queue is full. Cancelling takes the query out of the queue."""
        loop = asyncio.get_running_loop()
        query = _Query(embedder, text, loop.create_future())
        if self._queue.try_put(query, loop.time()) is not Put.ACCEPTED:
            raise Busy(
                f"the knowledge process is overloaded: {self._queue.capacity} queries are waiting",
                collection=collection,
            )
        try:
            return await query.vector
        except asyncio.CancelledError:
            self._queue.withdraw(lambda waiting: waiting is query)
            raise

    async def run(self) -> None:
        """Until `close`."""
        while batch := await self._queue.take(self._batch):
            groups: dict[int, list[_Query]] = {}
            for _, query in batch:
                if not query.vector.done():
                    groups.setdefault(id(query.embedder), []).append(query)
            for queries in groups.values():
                await _embed(queries)

    def close(self) -> None:
        self._queue.close()


async def _embed(queries: list[_Query]) -> None:
    try:
        vectors = await queries[0].embedder.embed([query.text for query in queries])
    except Exception as error:  # noqa: BLE001 - whatever it is, these queries fail with it and the next ones are served
        for query in queries:
            if not query.vector.done():
                query.vector.set_exception(error)
        return
    for query, vector in zip(queries, vectors, strict=True):
        if not query.vector.done():
            query.vector.set_result(vector)
