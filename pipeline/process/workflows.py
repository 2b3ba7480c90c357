"""The workflows of one shard: begun once it serves beside the others, given back before it goes."""

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import structlog

from config.schema import Config
from pipeline.adapters.journals.memory import MemoryJournal
from pipeline.adapters.journals.sqlite import SqliteJournal
from pipeline.process.child import Child
from pipeline.process.relay import Relay
from pipeline.wiring import Pipeline
from pipeline.wiring.workflows import Workflows, build_workflows
from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.journal import Journal
from pipeline.workflow.service import Service

_OTHERS_SECONDS = 2.0  # for the shards that start beside this one, which take up their own runs
_LOOK_EVERY = 0.02
_AGAIN_SECONDS = 1.0  # between two attempts to open the journal
_OPENING = "The journal is being opened; try again in a moment"

log = structlog.get_logger("headgate.workflow")


def journal_path(config: Config) -> Path:
    """Where the runs are, of a configuration whose journal is a file."""
    return Path(config.workflows.journal_file or Path(config.server.data_dir) / "workflows.db")


def journal_of(config: Config, shard: int) -> Journal:
    section = config.workflows
    lease = section.lease_ms / 1000
    if section.journal == "memory":
        return MemoryJournal(lease_seconds=lease)
    return SqliteJournal(
        journal_path(config),
        shard=shard,
        synchronous=section.synchronous,
        lease_seconds=lease,
        inline_bytes=section.inline_value_bytes,
    )


class ShardWorkflows:
    """start → stop. A journal that cannot be opened is tried again, and requests are told until it can."""

    def __init__(self, child: Child, pipeline: Pipeline, relay: Relay) -> None:
        shard = child.inheritance.shard
        self._memory = child.memory
        self._parts: Workflows = build_workflows(
            child.config,
            pipeline,
            journal=journal_of(child.config, shard),
            shard=shard,
            mine=lambda run_id: relay.road(run_id) is None,
        )
        self._starting: asyncio.Task[None] | None = None
        self.service.unavailable = _OPENING

    @property
    def service(self) -> Service:
        return self._parts.service

    def stats(self) -> Mapping[str, int]:
        return self._parts.engine.stats()

    def follow(self, config: Config) -> None:
        """Routes and collections are these from now on; the workflows' own section needs a restart."""
        self._parts.follow(config)

    def start(self) -> None:
        """Begins in the background: a shard serves prompts whatever its journal does."""
        self._starting = asyncio.get_running_loop().create_task(self._start())

    async def stop(self, grace: float) -> None:
        """Gives all runs back, after at most `grace` seconds for the steps under way. May be called twice."""
        starting, self._starting = self._starting, None
        if starting is None:
            return
        if not starting.done():
            starting.cancel()
            with suppress(asyncio.CancelledError):
                await starting
            self.service.tried.set()
        await self._parts.stop(grace)

    async def _start(self) -> None:
        await self._others()
        known = ""
        while True:
            try:
                await self._parts.start()
            except JournalFailed as error:
                if error.message != known:
                    log.warning("journal_unavailable", error=error.message)
                known = self.service.unavailable = error.message
                self.service.tried.set()
                await asyncio.sleep(_AGAIN_SECONDS)
            else:
                self.service.unavailable = ""
                self.service.tried.set()
                if known:
                    log.info("journal_back")
                return

    async def _others(self) -> None:
        """Runs that were interrupted belong to all shards: the first one that is there must not take them all."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _OTHERS_SECONDS
        while len(self._memory.peers()) < self._memory.shards and loop.time() < until:  # noqa: ASYNC110 - memory tells nobody
            await asyncio.sleep(_LOOK_EVERY)
