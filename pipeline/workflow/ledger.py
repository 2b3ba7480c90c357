"""A run's line to the journal: what was said in one turn of the event loop is written together, and in order.

What follows from an entry happens when it has been written. While the journal cannot be written the run keeps what it
has to say, and tries again.
"""

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from pipeline.workflow.errors import JournalFailed, LeaseLost
from pipeline.workflow.journal import AnyEntry, Lease, Numbered

if TYPE_CHECKING:
    from pipeline.workflow.shared import Shared

_PAUSE = 0.1
LONGEST_PAUSE = 5.0

log = structlog.get_logger("headgate.workflow")


class Ledger:
    """`settled` is called when nothing is left to be written; `trouble` with whether the journal can be written, when
    that changes; `lost` when somebody else has the lease: nothing is written any more. `broke` with an error that
    nobody expected; `posted` with what others said about the run meanwhile. `last` is the newest entry's number."""

    __slots__ = (
        "_broke",
        "_effects",
        "_entries",
        "_last",
        "_lost",
        "_posted",
        "_scheduled",
        "_settled",
        "_shared",
        "_then",
        "_trouble",
        "_writing",
        "closed",
        "lease",
    )

    def __init__(
        self,
        shared: "Shared",
        lease: Lease,
        *,
        settled: Callable[[], None],
        trouble: Callable[[bool], None],
        lost: Callable[[], None],
        broke: Callable[[Exception], None],
        posted: Callable[[AnyEntry], None],
        last: int,
    ) -> None:
        self.lease = lease
        self.closed = False
        self._shared = shared
        self._settled = settled
        self._trouble = trouble
        self._lost = lost
        self._broke = broke
        self._posted = posted
        self._last = last
        self._entries: list[AnyEntry] = []
        self._effects: list[Callable[[], None]] = []
        self._then: list[Callable[[], None]] = []  # after those that are being written
        self._scheduled = False
        self._writing = False

    @property
    def idle(self) -> bool:
        return not (self._entries or self._scheduled or self._writing)

    def add(self, entry: AnyEntry, effect: Callable[[], None] | None = None) -> None:
        self._entries.append(entry)
        if effect is not None:
            self._effects.append(effect)
        self.nudge()

    def when_written(self, then: Callable[[], None]) -> None:
        """Calls it when what was added so far is written; at once where nothing is on its way."""
        if self._entries:
            self._effects.append(then)
        elif self._writing:
            self._then.append(then)
        else:
            then()

    def close(self) -> None:
        """Nothing is said any more. Nobody is told of anything either, once what is being written is: whom it would
        tell holds this ledger, and both go at once when neither holds the other."""
        self.closed = True
        if not self._writing:
            self._settled = self._trouble = self._lost = self._broke = self._posted = _nobody

    def nudge(self) -> None:
        """Writes, or settles, in the next turn: what happens until then goes with it."""
        if not (self._scheduled or self._writing or self.closed):
            self._scheduled = True
            self._shared.loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._scheduled = False
        if self.closed:
            return
        if not self._entries:
            self._settled()
            return
        self._writing = True
        task = self._shared.loop.create_task(self._write())
        self._shared.writers.add(task)
        task.add_done_callback(self._shared.writers.discard)

    async def _write(self) -> None:
        entries, self._entries = self._entries, []
        effects, self._effects = self._effects, []
        try:
            last = await self._append(entries)
            await self._tell(entries, last)
        except LeaseLost:
            self.closed = True
            self._lost()
        except Exception as error:  # noqa: BLE001 - an error of the journal that is none of its own
            self._broke(error)
        else:
            self._take_effect([*effects, *self._then])
            self._then.clear()
        self._writing = False
        if self.closed:
            self.close()
        self.nudge()

    def _take_effect(self, effects: list[Callable[[], None]]) -> None:
        for effect in effects:
            if self.closed:
                return
            try:
                effect()
            except Exception as error:  # noqa: BLE001 - a bug must not leave the run hanging
                self._broke(error)

    async def _append(self, entries: list[AnyEntry]) -> int:
        pause = 0.0
        while True:
            try:
                last = await self._shared.journal.append(self.lease, entries)
            except JournalFailed as error:
                if not pause:
                    self._shared.journal_failed(error, self)
                    self._trouble(True)
                pause = min(max(pause * 2, _PAUSE), LONGEST_PAUSE)
                await asyncio.sleep(pause)
            except Exception:
                self._shared.journal_works(self)  # it has said so
                raise
            else:
                self._shared.journal_works(self, written=True)
                if pause:
                    self._trouble(False)
                return last

    async def _tell(self, entries: list[AnyEntry], last: int) -> None:
        first = last - len(entries) + 1
        numbered = [Numbered(first + index, entry) for index, entry in enumerate(entries)]
        if first > self._last + 1:
            numbered = await self._others(first) + numbered
        self._last = last
        self._shared.watcher.entries(self.lease.run, numbered)

    async def _others(self, before: int) -> list[Numbered]:
        """What somebody posted since we last wrote."""
        while True:
            try:
                found = await self._shared.journal.entries(self.lease.run, self._last, before - self._last - 1)
            except JournalFailed:
                await asyncio.sleep(_PAUSE)
                continue
            for one in found:
                self._posted(one.entry)
            return found


def _nobody(*_: Any) -> None:
    """Is told."""
