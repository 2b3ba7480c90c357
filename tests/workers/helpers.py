"""What the tests of workers share: sections, requests, and one way to ask."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import msgspec

from config.schema import AnyWorker, OpenAIWorker
from tests.servers import Script, ScriptedBackend
from workers.base import ChatMessage, Delta, DeltaBatch, GenerationRequest, ModelWorker, Parameters, Passage, Usage
from workers.openai import OpenAICompatible

NOW = 1_700_000_000.0  # the time of day in these tests: Tue, 14 Nov 2023 22:13:20 GMT


def section(kind: str, **fields: Any) -> AnyWorker:
    return msgspec.convert({"kind": kind, "name": "w", **fields}, AnyWorker)


def openai_section(base_url: str, **fields: Any) -> OpenAIWorker:
    return msgspec.convert({"kind": "openai", "name": "w", "base_url": base_url, **fields}, OpenAIWorker)


def openai_worker(given: OpenAIWorker, *, api_key: str | None = None) -> OpenAICompatible:
    """Its first replica; with an `api_key`, that is what its reference stands for."""
    if api_key is not None:
        given = msgspec.structs.replace(given, api_key="env:KEY")
    return OpenAICompatible(given, given.urls[0], resolve=lambda _: api_key or "", now=lambda: NOW)


def ask(
    text: str = "hello there you",
    *,
    stream: bool = True,
    passages: tuple[Passage, ...] = (),
    messages: tuple[ChatMessage, ...] | None = None,
    body: dict[str, Any] | bytes = b"",
    rewritten: bool = True,
    shortened: bool = False,
    **parameters: Any,
) -> GenerationRequest:
    return GenerationRequest(
        "req-1",
        None,
        "asked-for",
        messages or (ChatMessage("user", text),),
        Parameters(**parameters),
        stream,
        passages,
        body if isinstance(body, bytes) else msgspec.json.encode(body),
        rewritten,
        shortened,
    )


class Told(msgspec.Struct):
    """An answer, put together."""

    batches: list[DeltaBatch]

    @property
    def deltas(self) -> list[Delta]:
        return [delta for batch in self.batches for delta in batch.deltas]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas if delta.index == 0)

    @property
    def reasons(self) -> dict[int, list[str]]:
        """index → its finish reasons."""
        found: dict[int, list[str]] = {}
        for delta in self.deltas:
            if delta.finish_reason is not None:
                found.setdefault(delta.index, []).append(delta.finish_reason)
        return found

    @property
    def usages(self) -> list[Usage]:
        return [batch.usage for batch in self.batches if batch.usage is not None]


async def told(worker: ModelWorker, request: GenerationRequest) -> Told:
    async with aclosing(worker.generate(request)) as batches:
        return Told([batch async for batch in batches])


@asynccontextmanager
async def calling(
    script: Script | None = None, *, reads: bool = True, api_key: str | None = None, **fields: Any
) -> AsyncIterator[tuple[OpenAICompatible, ScriptedBackend]]:
    """A worker and its scripted backend. Fails when a call leaves a task, a connection or a place in the pool behind,
    or when something went wrong that nobody was told."""
    unheard: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unheard.append(context))
    async with ScriptedBackend(script, reads=reads) as backend:
        before = asyncio.all_tasks()
        worker = openai_worker(openai_section(backend.base_url, **fields), api_key=api_key)
        try:
            async with asyncio.timeout(20):
                yield worker, backend
            assert acquired(worker) == 0
        finally:
            await worker.aclose()
        await backend.until(lambda backend: backend.open == 0)
        left = [task for task in asyncio.all_tasks() - before - backend.tasks if not task.done()]
        assert not left, left
    assert not unheard, unheard


def acquired(worker: OpenAICompatible) -> int:
    """Connections in use."""
    session = worker._client._session
    return 0 if session is None or session.closed else len(session.connector._acquired)
