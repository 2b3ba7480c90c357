"""A shard's pipeline behind its HTTP server, in the test's own process and loop."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

from config.schema import Config
from pipeline.core.ports import Operations, Readiness, Retriever
from pipeline.edge.app import EdgeServer
from pipeline.wiring import Pipeline
from tests.flows import Books, running
from workers.base import ModelWorker


class NoOperations:
    """Stands for the daemon around a shard."""

    def readiness(self) -> Readiness:
        return Readiness(ready=True, detail={"shard 0": "ready"})

    async def metrics(self) -> bytes:
        return b""


class Serving(NamedTuple):
    """`base_url` as clients want it, with the version."""

    base_url: str
    port: int
    pipeline: Pipeline
    books: Books
    edge: EdgeServer


@asynccontextmanager
async def serving(
    conf: Config,
    *,
    retriever: Retriever | None = None,
    workers: dict[str, ModelWorker] | None = None,
    operations: Operations | None = None,
    ssl_context: ssl.SSLContext | None = None,
) -> AsyncIterator[Serving]:
    """Fails when a task, a place, a connection or a descriptor is left behind. Clients must have closed theirs."""
    descriptors = _descriptors()
    async with running(conf, retriever=retriever, workers=workers) as (pipeline, books):
        edge = EdgeServer(
            pipeline.ingress,
            conf.server,
            operations or NoOperations(),
            head_gate=conf.admission.head_gate,
        )
        sock = socket.create_server(("127.0.0.1", 0), backlog=128)
        port = sock.getsockname()[1]
        await edge.start(sock, ssl_context)
        try:
            scheme = "http" if ssl_context is None else "https"
            yield Serving(f"{scheme}://127.0.0.1:{port}/v1", port, pipeline, books, edge)
            await _until_closed(edge)
        finally:
            await edge.stop()
    await asyncio.sleep(0.05)  # sockets close a loop tick later
    assert _descriptors() <= descriptors


def _descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def _until_closed(edge: EdgeServer, limit: float = 3.0) -> None:
    async with asyncio.timeout(limit):
        while edge.connections:
            await asyncio.sleep(0.01)
