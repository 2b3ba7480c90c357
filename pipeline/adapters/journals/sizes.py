"""How much of one run is kept."""

import sqlite3
from collections import OrderedDict
from collections.abc import Sequence

import msgspec

from pipeline.workflow.errors import RunFull

_SMALL = 65_536  # bytes: what tells of a run's end still finds room
_REMEMBERED = 10_000  # runs
_STORED = """
SELECT json_group_array(json_array(value,
    (SELECT total(length(body)) FROM entries WHERE run = value) +
    (SELECT total(length(data)) FROM blobs WHERE run = value) +
    (SELECT total(length(data)) FROM inputs WHERE run = value)))
FROM json_each(?)
"""


def too_large(kept: int, more: int, most: int, *, refused: bool) -> bool:
    """Whether a run that has `kept` bytes gets no room for so many more. Once one was refused, its end may be told."""
    if refused and more <= _SMALL:
        return False
    return kept >= most or more > most


def full(run_id: str, most: int) -> RunFull:
    return RunFull(f"The run {run_id!r} has come to {most} bytes in the journal: more of one run is not kept")


class Sizes:
    """The bytes of runs that are written here, with their large values, as far as they are remembered. To be used from
    one thread."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._known: OrderedDict[int, int] = OrderedDict()
        self._refused: set[int] = set()

    def learn(self, connection: sqlite3.Connection, runs: Sequence[tuple[int, int]]) -> None:
        """Of these runs (and the number of the last entry of each). New ones have next to nothing yet."""
        missing = []
        for run, last in runs:
            if run in self._known:
                self._known.move_to_end(run)
            elif last <= 1:
                self._known[run] = 0
            else:
                missing.append(run)
        if missing:
            (found,) = connection.execute(_STORED, (msgspec.json.encode(missing).decode(),)).fetchone()
            for run, size in msgspec.json.decode(found):
                self._known[run] = int(size)
        while len(self._known) > _REMEMBERED + len(runs):
            gone, _ = self._known.popitem(last=False)
            self._refused.discard(gone)

    def refuses(self, run: int, more: int, *, again: bool) -> bool:
        """`again`: a run that ended is to go on."""
        refused = too_large(self._known[run], more, self.most, refused=run in self._refused and not again)
        if refused:
            self._refused.add(run)
        return refused

    def add(self, run: int, size: int) -> None:
        if run in self._known:
            self._known[run] += size

    def forget(self) -> None:
        """What was counted has not been written."""
        self._known.clear()
