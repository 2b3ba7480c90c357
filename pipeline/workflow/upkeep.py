"""What has to be done again and again: leases renewed, runs taken up that are due or that somebody left behind, what is
too old deleted."""

import asyncio
import heapq
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from pipeline.workflow.errors import JournalFailed
from pipeline.workflow.ledger import LONGEST_PAUSE
from pipeline.workflow.runs import Runs
from pipeline.workflow.shared import Shared

CLAIMED_AT_ONCE = 200
EXPIRED_AT_ONCE = 1000
_EXPIRED_EVERY = 60.0  # seconds
_PAUSE = 0.1
_LATEST = 3600.0  # a timer is set for no longer

log = structlog.get_logger("headgate.workflow")


class Upkeep:
    """Between its rounds it sleeps until a run is due, or a place for one has come free."""

    def __init__(self, shared: Shared, mine: Callable[[str], bool]) -> None:
        self._shared = shared
        self._mine = mine
        self._runs: Runs | None = None
        self._every = shared.section.lease_ms / 3000
        self._wanted = asyncio.Event()
        self._due: float | None = None
        self._renewer: asyncio.Task[None] | None = None
        self._taker: asyncio.Task[None] | None = None
        self._expires = 0.0

    def nudge(self) -> None:
        """A run may be taken up now, or is due sooner than was known."""
        self._wanted.set()

    async def start(self, runs: Runs) -> None:
        """The first round is over when it returns."""
        self._runs = runs
        await self._guarded("look", self._look())
        self._renewer = self._shared.loop.create_task(self._renewing())
        self._taker = self._shared.loop.create_task(self._taking_up(runs))

    async def leave(self) -> None:
        """Takes up no more. Leases are kept until `stop`: what is under way may take longer than they last."""
        taker, self._taker = self._taker, None
        await _ended(taker)

    async def stop(self) -> None:
        await self.leave()
        renewer, self._renewer = self._renewer, None
        await _ended(renewer)

    async def _renewing(self) -> None:
        while True:
            await asyncio.sleep(self._every)
            await self._guarded("renew", self._shared.journal.renew())

    async def _taking_up(self, runs: Runs) -> None:
        loop = self._shared.loop
        looks = loop.time() + self._every
        pause = 0.0
        while True:
            if pause:
                await asyncio.sleep(pause)
            try:
                async with asyncio.timeout(max(min(self._until_due(runs), looks - loop.time()), 0.0)):
                    await self._wanted.wait()
            except TimeoutError:
                pass
            if loop.time() >= looks:
                looks = loop.time() + self._every
                well = await self._guarded("look", self._look())
                await self._guarded("expire", self._expire())
            else:
                well = await self._guarded("look", self._take_up())
            # What is due stays due while the journal cannot be asked.
            pause = 0.0 if well else min(max(pause * 2, _PAUSE), LONGEST_PAUSE)

    def _until_due(self, runs: Runs) -> float:
        """Seconds until the next run is due; no sooner than there is a place for it."""
        if not runs.room:
            return _LATEST
        moments = [moment for moment in (self._due, runs.wakes[0] if runs.wakes else None) if moment is not None]
        return min(moments, default=_LATEST + self._shared.now()) - self._shared.now()

    async def _guarded(self, who: str, doing: Coroutine[Any, Any, None]) -> bool:
        """Whether it went well."""
        try:
            await doing
        except JournalFailed as error:
            self._shared.journal_failed(error, who)
        except Exception:  # the next round may be luckier
            log.exception("upkeep_broke")
        else:
            self._shared.journal_works(who)
            return True
        return False

    async def _look(self) -> None:
        runs = self._held_runs()
        runs.left_behind = await self._shared.journal.counts()
        runs.open = sum(runs.left_behind.values())
        await self._take_up()
        due = await self._shared.journal.next_due()
        # What is due already and was not taken up is not ours.
        self._due = due if due is not None and due > self._shared.now() else None

    async def _take_up(self) -> None:
        """Claims what there is room for."""
        self._wanted.clear()
        runs, now = self._held_runs(), self._shared.now()
        while True:
            room = min(runs.room, CLAIMED_AT_ONCE)
            runs.backlog = not room
            if not room:
                break
            if await self._claim(runs, room, now) < room and not runs.backlog:
                break
        while runs.wakes and runs.wakes[0] <= now:
            heapq.heappop(runs.wakes)
        if self._due is not None and self._due <= now:
            self._due = None

    async def _claim(self, runs: Runs, room: int, due: float) -> int:
        claimed = []
        runs.coming += room
        try:
            claimed = await self._shared.journal.claim_many(room, due=due, mine=self._mine)
        finally:
            runs.coming -= room - len(claimed)
        await runs.load(claimed)
        return len(claimed)

    async def _expire(self) -> None:
        hours = self._shared.section.retention_hours
        if not hours or self._shared.loop.time() < self._expires:
            return
        before = self._shared.now() - hours * 3600
        # Where there are more they are gone in the next rounds: what is due does not wait for all of them.
        if await self._shared.journal.expire(before, EXPIRED_AT_ONCE) < EXPIRED_AT_ONCE:
            self._expires = self._shared.loop.time() + _EXPIRED_EVERY
        self._shared.journal_works("expire", written=True)

    def _held_runs(self) -> Runs:
        assert self._runs is not None  # noqa: S101 - start sets it
        return self._runs


async def _ended(task: asyncio.Task[None] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})
