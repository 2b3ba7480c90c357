"""The knowledge process as `headgate ingest` reaches it: the daemon's where one runs, else one of its own."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TypeVar

from config.schema import CollectionSection, Config
from pipeline.knowledge.client import KnowledgeClient
from pipeline.knowledge.errors import Disconnected, IngestError
from pipeline.knowledge.places import SOCKET
from pipeline.knowledge.temporary import temporary_process

T = TypeVar("T")

RETRY_SECONDS = 30.0  # how long a call is repeated while knowledge processes come and go
ALONE_SECONDS = 2.0  # how long one may be away, say because it is being restarted, before we start our own
PAUSE = 0.1


class Reach:
    """`client` is for calls that may fail when the process goes away; `retried` is for those that must not.

    `own` says that a process of our own was started; it ends with us, or when a daemon's takes over from it.
    """

    def __init__(self, config: Config, section: CollectionSection, stack: AsyncExitStack) -> None:
        self.client = KnowledgeClient(Path(config.server.data_dir) / SOCKET)
        self.own = False
        self._config = config
        self._section = section
        self._stack = stack
        self._starting = asyncio.Lock()

    async def retried(self, call: Callable[[], Awaitable[T]]) -> T:
        """The call's result. The call may be made several times, and partly done before, so it must be idempotent."""
        began = time.monotonic()
        while True:
            try:
                return await call()
            except Disconnected:
                away = time.monotonic() - began
                if away > RETRY_SECONDS:
                    raise
                await asyncio.sleep(PAUSE)
                if away > ALONE_SECONDS:
                    await self.ensure()

    async def ensure(self) -> None:
        """Starts a process where none serves. Raises `IngestError` when that cannot be done."""
        async with self._starting:
            try:
                await self.client.connect()
            except Disconnected:
                if self._section.store == "memory":
                    raise IngestError(
                        f"collection {self._section.name!r} is kept in a daemon's memory, and none runs: "
                        "start `headgate serve` first"
                    ) from None
                process = temporary_process(self._config, self._section)
                self.own = await self._stack.enter_async_context(process) or self.own


@asynccontextmanager
async def reach(config: Config, section: CollectionSection) -> AsyncIterator[Reach]:
    """A process that serves, for as long as it is needed. Raises `IngestError`."""
    async with AsyncExitStack() as stack:
        found = Reach(config, section, stack)
        stack.push_async_callback(found.client.aclose)
        await found.ensure()
        yield found
