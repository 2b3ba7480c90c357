"""Entries of runs that are watched, as JSON: encoded once for all who watch, and read from the journal once for those
who want them at the same time."""

import asyncio
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

import msgspec

from pipeline.workflow.journal import AnyEntry, Journal, Numbered, StateChanged
from pipeline.workflow.views import Token

BATCH = 1 << 16  # bytes of entries that one watcher is given at a time, more only where one entry has more
LARGE = 1 << 16  # bytes of an entry that is counted while somebody is being sent it
KEPT = 1 << 24  # bytes of entries that are kept for others who may want them
HELD = 1 << 26  # bytes of large entries that are being sent
_PAGE = 64  # entries read at once
_READ = 1 << 18  # bytes read at once, more only where one entry has more
_ENTRY = 256  # what keeping one costs besides its bytes

_encode = msgspec.json.Encoder().encode

_Key = tuple[str, int]


class Seen(NamedTuple):
    """An event of a run, with its JSON: an entry and its number, or a token (number 0)."""

    number: int
    entry: AnyEntry | Token
    json: bytes

    @property
    def final(self) -> bool:
        return isinstance(self.entry, StateChanged) and self.entry.state.final


class _Held:
    """A large entry that so many are being sent."""

    __slots__ = ("by", "seen")

    def __init__(self, seen: Seen) -> None:
        self.seen = seen
        self.by = 0


class Shelf:
    """To be used from one event loop. `drop` is called with whoever has taken nothing for the longest, where too much
    is being sent. `moment` counts readings: one that began after another moment has seen what was written by then."""

    def __init__(self, journal: Journal, drop: Callable[[object], None]) -> None:
        self._journal = journal
        self._drop = drop
        self.moment = 0
        self._kept: OrderedDict[_Key, Seen] = OrderedDict()
        self._numbers: defaultdict[str, set[int]] = defaultdict(set)  # of those that are kept
        self._size = 0
        self._held: dict[_Key, _Held] = {}
        self._held_size = 0
        self._takers: OrderedDict[object, list[_Key]] = OrderedDict()
        self._reading: dict[_Key, tuple[int, asyncio.Task[tuple[list[Seen], bool]]]] = {}

    @property
    def size(self) -> int:
        """Bytes of all that is here."""
        return self._size + self._held_size

    def put(self, run_id: str, seen: Seen) -> None:
        key = (run_id, seen.number)
        if key in self._kept:
            return
        self._kept[key] = seen
        self._numbers[run_id].add(seen.number)
        self._size += len(seen.json) + _ENTRY
        while self._size > KEPT:
            (run, number), gone = self._kept.popitem(last=False)
            self._numbers[run].discard(number)
            self._size -= len(gone.json) + _ENTRY

    async def page(self, run_id: str, after: int, since: int) -> tuple[list[Seen], bool]:
        """What follows entry number `after`, and whether it is certainly all: the journal was asked after moment
        `since`. Raises `JournalFailed`."""
        if found := self._known(run_id, after):
            return found, False
        key = (run_id, after)
        reading = self._reading.get(key)
        if reading is None:
            self.moment += 1
            task = asyncio.get_running_loop().create_task(self._read(run_id, after))
            reading = self._reading[key] = (self.moment, task)
            task.add_done_callback(lambda done: self._was_read(key, done))
        moment, task = reading
        found, whole = await asyncio.shield(task)
        return found, whole and moment > since

    def _known(self, run_id: str, after: int) -> list[Seen]:
        found: list[Seen] = []
        size = 0
        while len(found) < _PAGE:
            key = (run_id, after + len(found) + 1)
            seen = self._kept.get(key)
            if seen is None:
                held = self._held.get(key)
                seen = None if held is None else held.seen
            else:
                self._kept.move_to_end(key)
            if seen is None or (found and size + len(seen.json) > BATCH):
                break
            found.append(seen)
            size += len(seen.json) + _ENTRY
        return found

    async def _read(self, run_id: str, after: int) -> tuple[list[Seen], bool]:
        page: Sequence[Numbered] = await self._journal.entries(run_id, after, _PAGE, most=_READ)
        found: list[Seen] = []
        size = 0
        for one in page:
            seen = Seen(one.number, one.entry, _encode(one.entry))
            self.put(run_id, seen)
            size += len(seen.json) + _ENTRY
            if not found or size <= BATCH:
                found.append(seen)
        return found, len(page) < _PAGE and size <= BATCH

    def _was_read(self, key: _Key, task: "asyncio.Task[tuple[list[Seen], bool]]") -> None:
        del self._reading[key]
        if not task.cancelled():
            task.exception()  # those who asked have been told

    # Large ones, while they are being sent.

    def take(self, who: object, run_id: str, given: Sequence[Seen]) -> None:
        """These are sent now, and those before have been."""
        keys = [(run_id, seen.number) for seen in given if len(seen.json) > LARGE]
        if not keys and who not in self._takers:
            return
        self.free(who)
        for key, seen in ((key, seen) for key in keys for seen in given if seen.number == key[1]):
            held = self._held.get(key)
            if held is None:
                held = self._held[key] = _Held(seen)
                self._held_size += len(seen.json)
            held.by += 1
        if keys:
            self._takers[who] = keys
        while self._held_size > HELD and len(self._takers) > 1:
            slowest = next(iter(self._takers))
            self.free(slowest)
            self._drop(slowest)

    def progress(self, who: object) -> None:
        """It has taken some."""
        if who in self._takers:
            self._takers.move_to_end(who)

    def free(self, who: object) -> None:
        """It is sent nothing now."""
        for key in self._takers.pop(who, ()):
            held = self._held[key]
            held.by -= 1
            if not held.by:
                del self._held[key]
                self._held_size -= len(held.seen.json)

    def forget(self, run_id: str) -> None:
        """Nobody watches it any more."""
        for number in self._numbers.pop(run_id, ()):
            self._size -= len(self._kept.pop((run_id, number)).json) + _ENTRY
