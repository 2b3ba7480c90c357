"""Workers that a test holds back, and what it asks of a pipeline whose configuration changes."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from config.schema import AnyWorker
from pipeline.adapters.sinks.memory import MemorySink
from pipeline.core.access import Caller
from pipeline.core.ticket import Ticket
from pipeline.wiring import Pipeline
from tests.flows import config, prompt
from workers import registry
from workers.base import Delta, DeltaBatch, GenerationRequest, Health, Usage


class Backend:
    """A worker as the registry would build it: answers with its own name and `answer`, one request for every permit."""

    def __init__(self, section: AnyWorker, permits: asyncio.Semaphore) -> None:
        self.section = section
        self.closed = False
        self.calls = 0
        self._permits = permits

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[DeltaBatch, None]:
        assert not self.closed
        self.calls += 1
        try:
            await self._permits.acquire()
            assert not self.closed
            texts = [self.section.name, str(getattr(self.section, "tokens", ""))]
            system = [message.text for message in request.messages if message.role == "system"]
            yield DeltaBatch((Delta(" ".join([*texts, *system]), finish_reason="stop"),), Usage(3, 1))
        finally:
            self.calls -= 1

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        assert not self.calls
        self.closed = True


class Backends:
    """Builds all workers; `built` are those of each name, the newest last."""

    def __init__(self, monkeypatch: Any) -> None:
        self.built: dict[str, list[Backend]] = {}
        self.permits: dict[str, asyncio.Semaphore] = {}
        monkeypatch.setattr(registry, "build", self._build)

    def hold(self, *names: str) -> None:
        """These answer when they are let to."""
        for name in names:
            self.permits[name] = asyncio.Semaphore(0)

    def let_go(self, name: str, calls: int = 10_000) -> None:
        for _ in range(calls):
            self.permits[name].release()

    async def until_called(self, name: str, calls: int) -> None:
        await until(lambda: sum(backend.calls for backend in self.built[name]) >= calls)

    def _build(self, section: AnyWorker, **_: Any) -> Backend:
        permits = self.permits.setdefault(section.name, asyncio.Semaphore(10_000))
        backend = Backend(section, permits)
        self.built.setdefault(section.name, []).append(backend)
        return backend


async def until(condition: Any) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)


def ask(
    pipeline: Pipeline, name: str = "r", *, caller: Caller | None = None, **fields: Any
) -> tuple[Ticket, MemorySink]:
    sink = MemorySink()
    ticket = pipeline.ingress.open(name)
    ticket.caller = caller
    pipeline.ingress.submit(ticket, prompt(**fields), sink)
    return ticket, sink


def renew(pipeline: Pipeline, **sections: Any) -> None:
    pipeline.apply(pipeline.prepare(config(**sections)))
