"""What a shard's edge shows of the daemon around it: each shard answers for all."""

from contextlib import ExitStack
from pathlib import Path

import aiohttp

from pipeline.core.ports import Operations, Readiness
from pipeline.knowledge.places import socket_address
from pipeline.process.counters import SharedMemory, State

_TIMEOUT = aiohttp.ClientTimeout(total=5.0)


class ShardOperations(Operations):
    """`essential` says that some route cannot answer without the knowledge process. `draining` is set when the daemon
    is to end and this shard knows it, whether or not the supervisor could still say so on the board."""

    def __init__(self, memory: SharedMemory, desk: Path, *, essential: bool) -> None:
        self.draining = False
        self.essential = essential
        self._memory = memory
        self._held = ExitStack()
        address = self._held.enter_context(socket_address(desk))
        self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(address), timeout=_TIMEOUT)

    def readiness(self) -> Readiness:
        """Of the daemon: it takes requests while a shard does, this one or another."""
        memory, knowledge = self._memory, self._memory.knowledge.state
        draining = self.draining or memory.draining
        detail = {f"shard {shard}": _shown(memory.state_of(shard), draining) for shard in range(memory.shards)}
        if knowledge is not State.ABSENT:
            detail["knowledge"] = knowledge.label
        missing = self.essential and knowledge is not State.READY
        return Readiness(bool(memory.peers()) and not draining and not missing, detail)

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


def _shown(state: State, draining: bool) -> str:  # noqa: FBT001 - the two are of one table
    return "draining" if draining and state in (State.READY, State.STOPPING) else state.label
