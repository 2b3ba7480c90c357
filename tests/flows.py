"""A pipeline of one shard in process, for tests: real stages, real workers, no HTTP."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from config.schema import Config
from pipeline.adapters.sinks.memory import MemorySink
from pipeline.core.outcomes import Priority
from pipeline.core.ports import Hooks, Retriever
from pipeline.core.ticket import Ticket
from pipeline.ingress import Prompt
from pipeline.wiring import Pipeline, build
from workers.base import ChatMessage, ModelWorker, Parameters


class Books(Hooks):
    """Keeps every ticket that was opened and that ended."""

    def __init__(self) -> None:
        self.opened: list[Ticket] = []
        self.ended: list[Ticket] = []

    @property
    def deltas(self) -> int:
        """That workers delivered."""
        return sum(ticket.chunks for ticket in self.opened)

    def after_open(self, ticket: Ticket) -> None:
        self.opened.append(ticket)

    def after_end(self, ticket: Ticket) -> None:
        self.ended.append(ticket)


def config(**sections: Any) -> Config:
    """A configuration of one echo worker and one route `echo` unless `sections` say otherwise."""
    sections.setdefault("workers", [{"name": "echo", "kind": "echo"}])
    sections.setdefault("routes", [{"name": "echo", "worker": sections["workers"][0]["name"]}])
    return msgspec.convert(sections, Config)


@asynccontextmanager
async def running(
    conf: Config, *, retriever: Retriever | None = None, workers: dict[str, ModelWorker] | None = None
) -> AsyncIterator[tuple[Pipeline, Books]]:
    """`workers` stand in for the configured ones of the same name. Fails when tasks or places are left behind."""
    before = asyncio.all_tasks()
    books = Books()
    pipeline = await build(conf, hooks=books, retriever=retriever, workers=workers)
    await pipeline.start()
    ticking = asyncio.create_task(_tick(pipeline))
    try:
        yield pipeline, books
        await asyncio.sleep(0)  # calls that have just ended
        await asyncio.sleep(0)
        assert_nothing_held(pipeline)
    finally:
        ticking.cancel()
        await pipeline.aclose()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    left = [task for task in asyncio.all_tasks() - before if not task.done() and task is not ticking]
    assert not left, left
    assert len(books.opened) == len(books.ended)


def assert_nothing_held(pipeline: Pipeline) -> None:
    assert not pipeline.ingress.tickets
    for stage in pipeline.flow.stages:
        statistics = stage.inbox.statistics(0.0)
        assert (statistics.depth, statistics.reserved) == (0, 0), stage.place
    for lane in pipeline.flow.lanes.values():
        assert lane.waiting == [0] * len(Priority), lane.name
        assert (lane.inflight, lane.unanswered) == (0, 0), lane.name
        for queue in lane.queue._classes:
            assert not queue.active, lane.name
            assert not any(flow.work for caller in queue.callers.values() for flow in caller.flows.values()), lane.name


def prompt(text: str = "hello there", *, model: str = "echo", stream: bool = True, **fields: Any) -> Prompt:
    messages = fields.pop("messages", (ChatMessage("user", text),))
    parameters = fields.pop("parameters", Parameters())
    return Prompt(model, messages, text, parameters, stream, **fields)


def submit(pipeline: Pipeline, what: Prompt | None = None, request_id: str = "r1") -> tuple[Ticket, MemorySink]:
    sink = MemorySink()
    ticket = pipeline.ingress.open(request_id)
    pipeline.ingress.submit(ticket, what or prompt(), sink)
    return ticket, sink


async def _tick(pipeline: Pipeline) -> None:
    while True:
        await asyncio.sleep(0.02)
        pipeline.flow.tick(time.monotonic())
