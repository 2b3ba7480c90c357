"""A daemon for operators' tests: the admin API on real sockets, over a board in shared memory, without processes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import msgspec

from config.reload import differences, merged
from config.schema import Config
from pipeline.knowledge.places import socket_address
from pipeline.observe.exposition import Exposition
from pipeline.observe.ledger import Ledger, Living
from pipeline.observe.usage import UsageTable
from pipeline.process import demand
from pipeline.process.admin_types import DaemonStatus, ProcessStatus
from pipeline.process.control import Applied, Change
from pipeline.process.counters import SharedMemory, State
from pipeline.process.desk import Desk

SHARDS = 2
HA = {"name": "a/big:model.v1", "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "api_key": "env:KEY"}
DEFAULTS: dict[str, Any] = {
    "admin": {"port": 0},
    "workers": [
        {"name": "echo", "kind": "echo"},
        {"name": "spare", "kind": "echo", "tokens": 3},
        HA | {"headers": {"X-Team": "secret-team"}},
    ],
    "routes": [
        {"name": "echo", "worker": "echo"},
        {"name": "both", "workers": [{"worker": "echo", "weight": 3}, {"worker": "spare"}]},
    ],
}


def config(**sections: Any) -> Config:
    return msgspec.convert(DEFAULTS | sections, Config)


class LocalControl:
    """Does with one process what the supervisor does with many. `failure` is raised by the next change; while `gate` is
    not set, changes take their time."""

    def __init__(self, configured: Config, memory: SharedMemory) -> None:
        self.config = configured
        self.file = configured
        self.failure: Exception | None = None
        self.unreplaceable: Exception | None = None
        self.gate = asyncio.Event()
        self.gate.set()
        self.busy = 0
        self.most_busy = 0
        self.applied: list[Config] = []
        self.calls: list[str] = []
        self._memory = memory
        layout = demand.layout(configured)
        self.ledger = Ledger(layout, SHARDS, self._living)
        self.used = UsageTable()
        self._exposition = Exposition(self.ledger, list, "1.2.3", usage=self.used)

    def _living(self) -> list[Living]:
        return [Living(peer.shard, self._memory.blocks[peer.seat], True) for peer in self._memory.peers()]

    def metrics(self) -> bytes:
        return self._exposition.render()

    def usage(self) -> UsageTable:
        return self.used

    def status(self) -> DaemonStatus:
        processes = [ProcessStatus("supervisor", "ready", 1, 0, 5.0)]
        for shard in range(SHARDS):
            slot = self._memory.seats[shard]
            processes.append(
                ProcessStatus(
                    f"shard {shard}", slot.state.label, slot.pid, slot.restarts, 4.0, shard, slot.load, slot.pulse
                )
            )
        return DaemonStatus("1.2.3", "http://127.0.0.1:8080", False, 5.0, processes, self.ledger.totals())

    async def reload(self) -> Applied:
        self.calls.append("reload")
        return await self._adopt(self.file)

    async def apply(self, config: Config) -> Applied:
        return await self._adopt(config)

    async def replace(self) -> None:
        self.calls.append("replace")
        failure = self.unreplaceable or self.failure
        if failure is not None:
            raise failure

    def drain(self) -> None:
        self.calls.append("drain")

    def set_level(self, level: str) -> None:
        self.calls.append(f"level {level}")

    async def _adopt(self, config: Config) -> Applied:
        self.busy += 1
        self.most_busy = max(self.most_busy, self.busy)
        try:
            await self.gate.wait()
            await asyncio.sleep(0)
            if self.failure is not None:
                failure, self.failure = self.failure, None
                raise failure
            return self._put_in_force(config)
        finally:
            self.busy -= 1

    def _put_in_force(self, config: Config) -> Applied:
        found = differences(self.config, config)
        self.config = merged(self.config, config)
        self.applied.append(self.config)
        changes = [(Change(one.path, one.before, one.after), one.restart) for one in found]
        return Applied([one for one, restart in changes if not restart], [one for one, restart in changes if restart])


class Operator:
    """Calls the API, on TCP unless `unix`."""

    def __init__(self, control: LocalControl, desk: Desk, memory: SharedMemory, path: Path, unix: str) -> None:
        self.control = control
        self.desk = desk
        self.memory = memory
        self.path = path
        self.tcp = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=False, limit=0))
        self.unix = aiohttp.ClientSession(connector=aiohttp.UnixConnector(unix, limit=0))

    async def call(self, method: str, path: str, body: Any = None, *, unix: bool = False, **options: Any):
        """Status and JSON."""
        from yarl import URL  # noqa: PLC0415

        session, base = (self.unix, "http://x") if unix else (self.tcp, self.desk.address)
        async with session.request(method, URL(base + path, encoded=True), json=body, **options) as response:
            return response.status, await response.json(content_type=None)

    async def failed(self, method: str, path: str, body: Any = None, **options: Any) -> tuple[int, str, str]:
        """Status, code and message."""
        status, answer = await self.call(method, path, body, **options)
        return status, answer["error"]["code"], answer["error"]["message"]

    @property
    def port(self) -> int:
        return int(self.desk.address.rpartition(":")[2])


@asynccontextmanager
async def operated(folder: Path, configured: Config | None = None) -> AsyncIterator[Operator]:
    """An open desk with two shards that work."""
    configured = config() if configured is None else configured
    path = folder / "supervisor.sock"
    with ExitStack() as held:
        block = demand.room(demand.layout(configured).size)
        memory = held.enter_context(closing(SharedMemory.create(shards=SHARDS, block=block)))
        for shard in range(SHARDS):
            memory.seats[shard].born(100 + shard)
            memory.seats[shard].state = State.READY
            memory.appoint(shard, shard)
        control = LocalControl(configured, memory)
        desk = Desk(path, control, control.ledger)
        try:
            await desk.open(configured)
            operator = Operator(control, desk, memory, path, held.enter_context(socket_address(path)))
            try:
                yield operator
            finally:
                await operator.tcp.close()
                await operator.unix.close()
        finally:
            await desk.close()
