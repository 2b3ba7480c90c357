"""The workflow API over real HTTP: one edge, or two shards that relay to each other."""

import asyncio
import functools
import inspect
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp

from config.schema import Config
from pipeline.adapters.journals.memory import Book, MemoryJournal
from pipeline.edge.app import EdgeServer
from pipeline.policy.affinity import owner
from pipeline.process.counters import SharedMemory, State
from pipeline.process.relay import Relay
from pipeline.workflow.journal import Journal
from tests.flows import Books, config, running
from tests.http import NoOperations
from tests.workflow.served import Served, workflows

YAML = {"Content-Type": "application/yaml"}


class Site(NamedTuple):
    """`url` without a path."""

    url: str
    edge: EdgeServer
    workflows: Served
    books: Books
    relay: Relay | None = None

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])


class Told(NamedTuple):
    status: int
    headers: Any
    body: Any


async def call(
    client: aiohttp.ClientSession, site: Site, method: str, path: str, body: Any = None, **headers: str
) -> Told:
    """Underscores in names of headers become hyphens; a text as body is YAML."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    content: dict[str, Any] = {} if body is None else {"json": body}
    if isinstance(body, str | bytes):
        content = {"data": body if isinstance(body, bytes) else body.encode()}
        sent = {**YAML, **sent}
    async with client.request(method, site.url + path, headers=sent, **content) as answer:
        text = await answer.read()
        return Told(answer.status, answer.headers, await answer.json() if text else None)


@asynccontextmanager
async def site(conf: Config | None = None, journal: Journal | None = None) -> AsyncIterator[Site]:
    conf = conf or config()
    async with running(conf) as (pipeline, books), workflows(pipeline, conf, journal=journal) as found:
        edge = EdgeServer(pipeline.ingress, conf.server, NoOperations(), workflows=found.service)
        sock = socket.create_server(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        await edge.start(sock)
        try:
            yield Site(url, edge, found, books)
        finally:
            await edge.stop()
            await asyncio.sleep(0)
        assert found.hub.watchers == 0


@asynccontextmanager
async def sites(folder: Path, conf: Config | None = None, shards: int = 2) -> AsyncIterator[Sequence[Site]]:
    """Shards over one journal; each stands for the process 1000 + its number."""
    conf = conf or config()
    memory, book = SharedMemory.create(shards=shards, block=64), Book()
    async with AsyncExitStack() as stack:
        stack.callback(memory.close)
        found = []
        for shard in range(shards):
            pid = 1000 + shard
            memory.seats[shard].born(pid)
            memory.seats[shard].state = State.READY
            memory.appoint(shard, shard)
            pipeline, books = await stack.enter_async_context(running(conf))
            relay = Relay(shard, shard, memory, folder, pid)

            def mine(run_id: str, relay: Relay = relay) -> bool:
                return relay.road(run_id) is None

            journal = MemoryJournal(holder=f"{shard}:{pid}:x", book=book)
            flows = await stack.enter_async_context(workflows(pipeline, conf, journal=journal, mine=mine))
            edge = EdgeServer(
                pipeline.ingress, conf.server, NoOperations(), shard=shard, peers=relay, workflows=flows.service
            )
            sock = socket.create_server(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            stack.push_async_callback(relay.close)
            stack.push_async_callback(edge.stop)
            await relay.open(edge.relayed)
            await edge.start(sock)
            found.append(Site(url, edge, flows, books, relay))
        yield found
        await asyncio.sleep(0.02)
        assert not any(one.books.opened and one.workflows.pipeline.ingress.tickets for one in found)


def run_of(shard: int, shards: int = 2) -> str:
    """The id of a run that the shard owns."""
    return next(name for number in range(1000) if owner(name := f"run_{number}", range(shards)) == shard)


def on_site(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Gives a test `here`, a site of its own, and a `client`. A fixture would end in another task than it began in,
    and so could not tell what was left behind."""
    signature = inspect.signature(test)
    wanted = signature.parameters.keys() & {"here", "client"}

    @functools.wraps(test)
    async def run(**given: Any) -> None:
        async with site() as here, aiohttp.ClientSession() as client:
            own = {"here": here, "client": client}
            await test(**given, **{name: own[name] for name in wanted})

    others = [parameter for name, parameter in signature.parameters.items() if name not in wanted]
    run.__signature__ = signature.replace(parameters=others)  # type: ignore[attr-defined]
    return run
