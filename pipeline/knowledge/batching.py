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
    """`capacity` queries may wait, up to `batch` are embedded together, and up to `parallel` batches at a time: one for
    an embedder that computes here, several for one that is waited for. Serves while `run` runs."""

    def __init__(self, capacity: int, batch: int, parallel: int = 1) -> None:
        self._queue: StageQueue[_Query] = StageQueue(capacity)
        self._batch = batch
        self._parallel = parallel

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
        places = asyncio.Semaphore(self._parallel)
        async with asyncio.TaskGroup() as tasks:
            while batch := await self._next(places):
                groups: dict[int, list[_Query]] = {}
                for _, query in batch:
                    if not query.vector.done():
                        groups.setdefault(id(query.embedder), []).append(query)
                tasks.create_task(_embed_all(list(groups.values()), places, abort=self._parallel > 1))

    async def _next(self, places: asyncio.Semaphore) -> list[tuple[float, _Query]]:
        """What waits once there is a place to embed it; meanwhile more of it comes together."""
        await places.acquire()
        return await self._queue.take(self._batch)

    def close(self) -> None:
        self._queue.close()


async def _embed_all(groups: list[list[_Query]], places: asyncio.Semaphore, *, abort: bool) -> None:
    try:
        for queries in groups:
            await _embed(queries, abort=abort)
    finally:
        places.release()


async def _embed(queries: list[_Query], *, abort: bool) -> None:
    """With `abort` the embedder is stopped when nobody waits for its vectors any more."""
    call = asyncio.ensure_future(queries[0].embedder.embed([query.text for query in queries], query=True))

    def left(_: asyncio.Future[list[float]]) -> None:
        if abort and all(query.vector.done() for query in queries):
            call.cancel()

    for query in queries:
        query.vector.add_done_callback(left)
    try:
        await asyncio.wait([call])
    except asyncio.CancelledError:  # the process ends
        call.cancel()
        for query in queries:
            query.vector.cancel()
        raise
    if call.cancelled():
        return
    error = call.exception()  # whatever it is, these queries fail with it and the next ones are served
    for index, query in enumerate(queries):
        if query.vector.done():
            continue
        if error is not None:
            query.vector.set_exception(error)
        else:
            query.vector.set_result(call.result()[index])
