"""What a shard's edge shows of the daemon around it."""

from contextlib import ExitStack
from pathlib import Path

import aiohttp

from pipeline.core.ports import Operations, Readiness
from pipeline.knowledge.places import socket_address
from pipeline.process.counters import SharedMemory, State

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


class ShardOperations(Operations):
    """`essential` says that no route can answer without the knowledge process. `draining` is set when this shard ends,
    whether or not the whole daemon does."""

    def __init__(self, memory: SharedMemory, shard: int, desk: Path, *, essential: bool) -> None:
        self.draining = False
        self._memory = memory
        self._shard = shard
        self._essential = essential
        self._held = ExitStack()
        address = self._held.enter_context(socket_address(desk))
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(address), timeout=_TIMEOUT)

    def readiness(self) -> Readiness:
        own, knowledge = self._memory.shards[self._shard].state, self._memory.knowledge.state
        draining = self.draining or self._memory.draining
        detail = {f"shard {self._shard}": "draining" if draining else own.label}
        if knowledge is not State.ABSENT:
            detail["knowledge"] = knowledge.label
        missing = self._essential and knowledge is not State.READY
        return Readiness(own is State.READY and not draining and not missing, detail)

    async def metrics(self) -> bytes:
        try:
            async with self._session.get("http://supervisor/metrics") as response:
                response.raise_for_status()
                return await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ConnectionError(f"the supervisor does not answer: {error}") from error

    async def aclose(self) -> None:
        await self._session.close()
        self._held.close()
