"""Who looks on: each watcher of a run gets every entry of its journal, in order and once, and tokens as they come.

The engine tells the hub what it has written, and the hub puts it before the run's watchers. None of that waits: a
watcher has room for so much, and one that is slower reads the journal again (`pipeline.workflow.shelf`). Tokens are in
no journal, so that what finds no room is left out, and counted. However many watch: only some of them go on in one turn
of the event loop.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import cast

import msgspec

from pipeline.workflow.errors import RunWatched, TooManyWatchers
from pipeline.workflow.journal import (
    AnyEntry,
    Journal,
    Numbered,
    RunRecord,
    StepCompleted,
    StepFailedFinally,
    StepSkipped,
)
from pipeline.workflow.shelf import BATCH, LARGE, Seen, Shelf
from pipeline.workflow.views import Token

__all__ = ["ENTRIES_MAX", "QUIET_S", "TEXT_MAX", "Hub", "Seen", "Watch"]

ENTRIES_MAX = BATCH  # bytes of entries, as JSON, that wait for one watcher
TEXT_MAX = 1 << 15  # characters of tokens
QUIET_S = 10.0  # without news, until it is said that there are none
WATCHERS_MAX = 1000  # in one process
WATCHERS_OF_RUN = 64
AT_A_TIME = 16  # watchers that go on in one turn of the event loop
_LOOK_S = 1.0  # how often the journal is read for a run that another process executes
_RETRY_AFTER = 5.0
_PATHS_MAX = 64  # steps of which it is counted what was left out
_PIECE, _ENTRY = 32, 256  # what holding one costs besides its characters or bytes

_encode = msgspec.json.Encoder().encode
_ENDS = (StepCompleted, StepFailedFinally, StepSkipped)


class Slices:
    """Lets so many through in each turn of the event loop."""

    def __init__(self, at_a_time: int = AT_A_TIME) -> None:
        self._at_a_time = self._left = at_a_time
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    async def turn(self) -> None:
        self._schedule()
        if self._left > 0 and not self._waiting:
            self._left -= 1
            return
        called: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(called)
        await called

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._next)

    def _next(self) -> None:
        self._scheduled = False
        self._left = self._at_a_time
        while self._waiting and self._left > 0:
            called = self._waiting.popleft()
            if not called.done():
                called.set_result(None)
                self._left -= 1
        if self._left < self._at_a_time:
            self._schedule()


class Hub:
    """All watchers of the runs of one process (`pipeline.workflow.ports.Watcher`). To be used from one event loop."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._watches: defaultdict[str, set[Watch]] = defaultdict(set)
        self.watchers = 0
        self.slices = Slices()
        self.shelf = Shelf(journal, _hurry)

    def check(self, run_id: str) -> None:
        """Raises `TooManyWatchers` where there is no place for another one."""
        if self.watchers >= WATCHERS_MAX:
            raise TooManyWatchers("Too many watch runs here; come back later", retry_after=_RETRY_AFTER)
        if len(self._watches.get(run_id, ())) >= WATCHERS_OF_RUN:
            message = f"{WATCHERS_OF_RUN} watch this run, and no more can"
            raise RunWatched(message, retry_after=_RETRY_AFTER)

    def watch(self, run: RunRecord, after: int, quiet: float = QUIET_S) -> "Watch":
        """Of everything after entry number `after`; one that the run has not come to counts as its newest. To be
        closed. Raises `TooManyWatchers`."""
        self.check(run.id)
        watch = Watch(self, self._journal, run, min(after, run.last), quiet)
        self._watches[run.id].add(watch)
        self.watchers += 1
        return watch

    def leave(self, watch: "Watch") -> None:
        self.shelf.free(watch)
        watches = self._watches.get(watch.run_id)
        if watches is not None and watch in watches:
            watches.discard(watch)
            self.watchers -= 1
            if not watches:
                del self._watches[watch.run_id]
                self.shelf.forget(watch.run_id)

    def close(self) -> None:
        """Ends all watches. What they have not told yet is to be asked for again."""
        for watches in list(self._watches.values()):
            for watch in list(watches):
                watch.close()

    # What the engine says.

    def entries(self, run_id: str, entries: Sequence[Numbered]) -> None:
        watches = self._watches.get(run_id)
        if watches is None:
            return
        for number, entry in ((numbered.number, numbered.entry) for numbered in entries):
            willing = [watch for watch in watches if watch.wants(number)]
            if willing:
                self._offer(run_id, willing, number, entry)

    def _offer(self, run_id: str, watches: "list[Watch]", number: int, entry: AnyEntry) -> None:
        try:
            seen = Seen(number, entry, _encode(entry))  # once for all
        except (UnicodeEncodeError, ValueError, TypeError):  # half a character: the journal has what became of it
            for watch in watches:
                watch.fall_behind()
            return
        self.shelf.put(run_id, seen)
        for watch in watches:
            if len(seen.json) > LARGE:
                watch.fall_behind()  # it waits in one place, not with each of them
            else:
                watch.offer(seen)

    def text(self, run_id: str, path: str, attempt: int, text: str) -> None:
        for watch in self._watches.get(run_id, ()):
            watch.text(path, attempt, text)


class _Text:
    """Tokens of one step that nothing else came between."""

    __slots__ = ("attempt", "missed", "parts", "path")

    def __init__(self, path: str, attempt: int, missed: int) -> None:
        self.path = path
        self.attempt = attempt
        self.missed = missed
        self.parts: list[str] = []

    def seen(self) -> Seen:
        text = "".join(self.parts)
        if not text.isascii():  # half a character cannot be sent
            text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        token = Token(self.path, text, self.attempt, self.missed)
        return Seen(0, token, _encode(token))


class Watch:
    """One watcher's view of a run: iterating gives lists of events, an empty one after each `quiet` seconds without
    any. It ends when the run has ended, when another process has taken the run over, when the run is gone, or after
    `close`. Raises `JournalFailed`. `hurry` is called where too much is being sent, and this one takes the least of it:
    it is closed then, and what it has not taken is to be let go of."""

    def __init__(self, hub: Hub, journal: Journal, run: RunRecord, after: int, quiet: float) -> None:
        self.run_id = run.id
        self._hub = hub
        self._journal = journal
        self._holder = run.holder
        self._quiet = quiet
        self._last = after  # the newest entry that is in the queue or was taken
        self._heard = run.last  # the newest that there is, as far as we know
        self._behind = True  # the journal has what comes next
        self._since = hub.shelf.moment
        self.hurry: Callable[[], None] | None = None
        self._queue: deque[Seen | _Text] = deque()
        self._size = 0  # of its entries
        self._chars = 0  # of its tokens
        self._open: dict[str, _Text] = {}  # those that more can be added to, by path
        self._missed: dict[str, int] = {}
        self._over = run.state.final and after >= run.last  # nothing was left to see
        self._moved = False  # another process has taken the run
        self._closed = False
        self._wake: asyncio.Future[bool] | None = None

    def __aiter__(self) -> "Watch":
        return self

    async def __anext__(self) -> list[Seen]:
        self._hub.shelf.free(self)
        while not (self._closed or self._over):
            if self._queue or self._behind:
                await self._hub.slices.turn()
                if found := self._drain() if self._queue else await self._read():
                    return await self._taken(found)
            elif not await self._news():
                await self._look()
                if not (self._behind or self._over or self._closed):
                    return []
        self.close()
        raise StopAsyncIteration

    @property
    def closed(self) -> bool:
        return self._closed

    async def progress(self) -> None:
        """Some of what was taken has been sent; waits for a turn to send more."""
        self._hub.shelf.progress(self)
        await self._hub.slices.turn()

    def close(self) -> None:
        self._closed = True
        self._hub.leave(self)
        self._stir()

    # What comes in.

    def wants(self, number: int) -> bool:
        """Whether the entry can be offered: it is the next one, and nothing has to be read before."""
        self._heard = max(self._heard, number)
        if self._behind or number <= self._last:
            return False
        if number == self._last + 1 and (self._size < ENTRIES_MAX or not self._queue):
            return True
        self.fall_behind()
        return False

    def fall_behind(self) -> None:
        """What comes next is in the journal."""
        self._behind = True
        self._stir()

    def offer(self, seen: Seen) -> None:
        self._last = seen.number
        self._size += len(seen.json) + _ENTRY
        path = getattr(seen.entry, "path", None)
        if path is not None:
            self._open.pop(path, None)
            self._missed.pop(path, None)
        self._queue.append(seen)
        self._stir()

    def text(self, path: str, attempt: int, text: str) -> None:
        if self._behind or self._chars + len(text) > TEXT_MAX:
            if path in self._missed or len(self._missed) < _PATHS_MAX:
                self._missed[path] = self._missed.get(path, 0) + len(text)
            self._open.pop(path, None)
            return
        piece = self._open.get(path)
        if piece is None or piece.attempt != attempt:
            piece = self._open[path] = _Text(path, attempt, self._missed.pop(path, 0))
            self._queue.append(piece)
        piece.parts.append(text)
        self._chars += len(text) + _PIECE
        self._stir()

    # What goes out.

    def _drain(self) -> list[Seen]:
        found = [one.seen() if isinstance(one, _Text) else one for one in self._queue]
        self._queue.clear()
        self._open.clear()
        self._size = self._chars = 0
        return found

    async def _read(self) -> list[Seen]:
        """What comes next in the journal. What is written meanwhile is read after that."""
        found, whole = await self._hub.shelf.page(self.run_id, self._last, self._since)
        if found:
            self._last = found[-1].number
            for seen in found:
                if isinstance(seen.entry, _ENDS):
                    self._missed.pop(seen.entry.path, None)
        self._behind = not whole or self._heard > self._last
        if whole and not found and self._behind:  # it says there is more, and there is not
            await self._look()
        return found

    async def _taken(self, found: list[Seen]) -> list[Seen]:
        """Notices the run's end: its final entry, unless it went on after that."""
        self._hub.shelf.take(self, self.run_id, found)
        if found[-1].final and not self._queue and self._heard <= self._last:
            more, _ = await self._hub.shelf.page(self.run_id, self._last, self._since)
            self._over = not more
            self._behind = not self._over
        return found

    async def _news(self) -> bool:
        """Waits for something to take. False: there is nothing for a while."""
        loop = asyncio.get_running_loop()
        elsewhere = self._holder not in {"", self._journal.holder}
        wake: asyncio.Future[bool] = loop.create_future()
        self._wake = wake
        timer = loop.call_later(min(self._quiet, _LOOK_S) if elsewhere else self._quiet, _settle, wake, False)
        try:
            return await wake
        finally:
            timer.cancel()
            self._wake = None

    async def _look(self) -> None:
        """Whether the run is still ours to tell of: usually the engine here executes it, or nobody does for now."""
        run = await self._journal.run(self.run_id, whole=False)
        if run is None:  # its time was up
            self._over = True
            return
        self._moved |= run.holder != self._holder and run.holder not in {"", self._journal.holder}
        self._holder = run.holder
        self._heard = max(self._heard, run.last)
        self._behind = self._behind or self._heard > self._last
        self._over = not self._behind and (self._moved or run.state.final)

    def _stir(self) -> None:
        if self._wake is not None:
            _settle(self._wake, True)


def _hurry(who: object) -> None:
    watch = cast(Watch, who)
    watch.close()
    if watch.hurry is not None:
        watch.hurry()


def _settle(wake: "asyncio.Future[bool]", news: bool) -> None:  # noqa: FBT001 - a callback
    if not wake.done():
        wake.set_result(news)
