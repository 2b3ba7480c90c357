"""The supervisor's children: a keeper for each shard, one for the knowledge process, one for each model, and what their
coming and going means for the board, the counters and the limits that shards share."""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from msgspec import structs

from config.schema import Config
from pipeline.observe.layout import Counted, MetricsLayout
from pipeline.observe.ledger import Ledger, Living
from pipeline.process import demand
from pipeline.process.child import Inheritance
from pipeline.process.control import ReloadFailed
from pipeline.process.counters import SharedMemory, State
from pipeline.process.handout import HandoutFile
from pipeline.process.keeper import Keeper, Limits
from pipeline.process.link import Message, SetLevel
from pipeline.process.models import Models
from pipeline.process.process import Process
from pipeline.process.seats import OneSeat, ShardSeats

GRACE = 5.0  # seconds that a child may take for ending beyond what it was given for its requests
_SHARD = "pipeline.process.shard"
_KNOWLEDGE = "pipeline.process.retrieval"

log = structlog.get_logger()


class Follower(Protocol):
    """Who keeps track of the processes of shards."""

    def joined(self, process: Process) -> None: ...

    def heard(self, process: Process, message: Message) -> None: ...

    def gone(self, process: Process) -> None: ...


class Crew:
    """`given` is what all children inherit alike, `listener` what shards accept from. `start` makes the keepers.

    Whoever follows is told of each process of a shard that is ready, has said something or is dead, in the order in
    which they came to follow. `level` is what all are to log, once that is not what they were begun with.
    """

    def __init__(
        self, layout: MetricsLayout, memory: SharedMemory, given: Inheritance, listener: int, handout: HandoutFile
    ) -> None:
        self.layout = layout
        self.memory = memory
        self.ledger = Ledger(layout, memory.shards, self._living)
        self.shards: list[Keeper] = []
        self.knowledge: list[Keeper] = []  # one, or none where no route needs it
        self.lost = asyncio.Event()  # no shard is left
        self.level: str | None = None
        self._followers: list[Follower] = []
        self._given = given
        self._listener = listener
        self.handout = handout
        self.models = Models(given, handout, GRACE, lambda: self.level)
        self._replacing = asyncio.Lock()

    @property
    def keepers(self) -> list[Keeper]:
        return [*self.shards, *self.knowledge, *self.models.keepers]

    @property
    def processes(self) -> list[Process]:
        """All that live."""
        return [process for keeper in self.keepers for process in keeper.processes]

    @property
    def serving(self) -> list[Process]:
        """Those of shards that are ready, with those whose place was taken and that finish what they have."""
        return [process for keeper in self.shards for process in keeper.processes if process.ready]

    def start(self, config: Config) -> None:
        """All at once: a shard that is up before the knowledge process or a model does no harm."""
        self.models.sweep(Path(config.server.data_dir))
        self.models.follow(config)
        limits = Limits(config.server.start_timeout_ms / 1000, config.server.restart_limit)
        if demand.wants_knowledge(config):
            born = partial(self._born, "knowledge", -1, -1)
            self.knowledge = [Keeper(_KNOWLEDGE, born, OneSeat(self.memory.knowledge), limits, self)]
        seats = ShardSeats(self.memory)
        for shard in range(self.memory.shards):
            born = partial(self._born, f"shard {shard}", shard, self._listener)
            self.shards.append(Keeper(_SHARD, born, seats, limits, self))

    def renew(self, config: Config, counted: Counted) -> None:
        """Who is born from now on gets this configuration, and what it counts has its cells. Raises OSError."""
        self.handout.renew(config, [*self.layout.history, counted])
        self.layout.extend(counted)
        self.models.follow(config)

    async def started(self) -> None:
        """All of them but the models, which may take minutes."""
        for keeper in [*self.shards, *self.knowledge]:
            await keeper.started.wait()

    async def stop(self, limit: float) -> None:
        """Shards first, as they need the others for what they finish within `limit` seconds."""
        await asyncio.gather(*(keeper.stop(limit + GRACE) for keeper in self.shards))
        await asyncio.gather(self.models.stop(GRACE), *(keeper.stop(GRACE) for keeper in self.knowledge))

    async def end(self) -> None:
        """Leaves nothing behind."""
        await self.models.end()
        await asyncio.gather(*(keeper.kill() for keeper in self.keepers))
        await asyncio.gather(*(keeper.task for keeper in self.keepers), return_exceptions=True)

    async def replace(self, limit: float) -> None:
        """A new process for each shard, one shard after another; the old ones have `limit` seconds for what they have.
        Raises StartError when a new one does not get ready, and ReloadFailed while one is under way."""
        if self._replacing.locked():
            raise ReloadFailed("the shards are being replaced already")
        async with self._replacing:
            for keeper in self.shards:
                old = keeper.current
                log.info("replacing", name=keeper.name, pid=0 if old is None else old.pid)
                await keeper.replace(limit + GRACE)
                new = keeper.current
                log.info("replaced", name=keeper.name, pid=0 if new is None else new.pid)

    def send(self, message: Message) -> None:
        """To all that are ready."""
        for keeper in self.keepers:
            keeper.send(message)

    def follow(self, follower: "Follower") -> None:
        self._followers.append(follower)

    def joined(self, process: Process) -> None:
        if process.shard is not None:
            self.memory.appoint(process.shard, process.seat)
            for follower in self._followers:
                follower.joined(process)
        if self.level is not None:
            process.send(SetLevel(self.level))

    def heard(self, process: Process, message: Message) -> None:
        if process.shard is not None:
            for follower in self._followers:
                follower.heard(process, message)

    def gone(self, process: Process) -> int:
        """The knowledge process has no requests of its own: those that wait for it are a shard's."""
        if process.shard is None:
            return 0
        if self.memory.seat_of(process.shard) == process.seat:
            self.memory.appoint(process.shard, None)
        lost = self.ledger.retire(process.shard, self.memory.blocks[process.seat])
        for follower in self._followers:
            follower.gone(process)
        return lost

    def turned(self, keeper: Keeper) -> None:
        if keeper.shard is not None:
            self.memory.tell(keeper.shard, keeper.state)
            if all(each.state is State.GIVEN_UP for each in self.shards):
                self.lost.set()
        else:
            self.memory.knowledge.state = keeper.state

    def _born(self, name: str, shard: int, listener: int) -> Inheritance:
        handout = self.handout
        return structs.replace(
            self._given, name=name, shard=shard, listener=listener, config=handout.descriptor, edition=handout.edition
        )

    def _living(self) -> Iterator[Living]:
        for keeper in self.shards:
            for process in keeper.processes:
                works = process.ready and not process.retiring
                yield Living(process.shard or 0, self.memory.blocks[process.seat], works)
