"""A worker that does what its test says."""

import asyncio
from collections.abc import AsyncIterator

from config.schema import Config
from tests.flows import config
from workers.base import Delta, DeltaBatch, GenerationRequest, Health


class ScriptedWorker:
    """Gives out what is put into `batches`; None ends the answer, an exception breaks it off. `called` and `closed` are
    set when a call begins and when its iterator is closed."""

    def __init__(self) -> None:
        self.batches: asyncio.Queue[DeltaBatch | Exception | None] = asyncio.Queue()
        self.called = asyncio.Event()
        self.closed = asyncio.Event()
        self.requests: list[GenerationRequest] = []

    def say(self, *texts: str, end: bool = False) -> None:
        for text in texts:
            self.batches.put_nowait(DeltaBatch((Delta(text),)))
        if end:
            self.batches.put_nowait(DeltaBatch((Delta(finish_reason="stop"),)))
            self.batches.put_nowait(None)

    async def generate(self, request: GenerationRequest) -> AsyncIterator[DeltaBatch]:
        self.requests.append(request)
        self.called.set()
        try:
            while (batch := await self.batches.get()) is not None:
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            self.closed.set()

    async def health(self) -> Health:
        return Health(ok=True)

    async def aclose(self) -> None:
        pass


def scripted_config(**server: int) -> Config:
    """Route `said` goes to the worker `said`, which a ScriptedWorker stands in for; `echo` to an echo worker."""
    return config(
        server=server,
        workers=[{"name": "said", "kind": "echo"}, {"name": "echo", "kind": "echo"}],
        routes=[{"name": "said", "worker": "said"}, {"name": "echo", "worker": "echo"}],
    )
