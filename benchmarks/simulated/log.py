"""What became of each request: counts, and a bounded log that a load generator joins with its own."""

import math
from array import array
from collections import deque
from collections.abc import Iterator
from typing import Any

import msgspec

MOST_ROWS = 1_000_000
MOST_RUNS = 1_000  # older ones are forgotten, with their counts
OUTCOMES = ("running", "served", "cancelled", "failed", "refused")
_NEVER = math.nan


class Counts(msgspec.Struct):
    """arrivals = served + cancelled + failed + refused + those that wait or are worked on.

    `cancelled_waiting` are those of `cancelled` that never got a slot; `busy_seconds` are those that slots were held,
    `tokens` those that were made, by requests that have ended.
    """

    arrivals: int = 0
    served: int = 0
    cancelled: int = 0
    failed: int = 0
    refused: int = 0
    cancelled_waiting: int = 0
    tokens: int = 0
    busy_seconds: float = 0.0

    def end(self, outcome: str, held: float, tokens: int) -> None:
        setattr(self, outcome, getattr(self, outcome) + 1)
        self.busy_seconds += held
        self.tokens += tokens


class _Columns:
    """Rows as columns of numbers: 41 bytes a row instead of some 250."""

    def __init__(self) -> None:
        self.numbers = array("q")
        self.arrived, self.started, self.ended, self.held = array("d"), array("d"), array("d"), array("d")
        self.outcomes = bytearray()

    def __len__(self) -> int:
        return len(self.outcomes)

    def add(self, number: int, arrived: float) -> int:
        self.numbers.append(number)
        self.arrived.append(arrived)
        self.started.append(_NEVER)
        self.ended.append(_NEVER)
        self.held.append(0.0)
        self.outcomes.append(0)
        return len(self.outcomes) - 1

    def rows(self, offset: float) -> Iterator[list[Any]]:
        columns = (self.numbers, self.arrived, self.started, self.ended, self.held, self.outcomes)
        for number, arrived, started, ended, held, outcome in zip(*columns, strict=True):
            times = [None if math.isnan(at) else at + offset for at in (arrived, started, ended)]
            yield [number, *times, held, OUTCOMES[outcome]]


class Run:
    """The requests of one run. `left_out` says how many rows are missing."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.columns = _Columns()
        self.left_out = 0

    def rows(self, offset: float) -> Iterator[list[Any]]:
        """`[number, arrived, started | None, ended | None, held, outcome]`; `offset` is added to all moments.

        `held` is 0 while a request runs.
        """
        return self.columns.rows(offset)


class Entry:
    """One request's place in the log."""

    __slots__ = ("columns", "row", "run")

    def __init__(self, run: Run, columns: _Columns | None, row: int) -> None:
        self.run = run
        self.columns = columns  # None: it has no row
        self.row = row


class Log:
    """Holds at most `most_rows` rows: the oldest run's go first, those of the newest are never given up for others."""

    def __init__(self, most_rows: int = MOST_ROWS, most_runs: int = MOST_RUNS) -> None:
        self.counts = Counts()
        self._most_rows = most_rows
        self._most_runs = most_runs
        self._rows = 0
        self._runs: dict[str, Run] = {}
        self._with_rows: deque[Run] = deque()  # oldest first

    def run(self, name: str) -> Run:
        """An empty one for a run that is not known."""
        return self._runs.get(name) or Run()

    def arrived(self, run: str, number: int, at: float) -> Entry:
        found = self._runs.get(run) or self._new(run)
        self.counts.arrivals += 1
        found.counts.arrivals += 1
        if self._rows >= self._most_rows and not self._make_room(found):
            found.left_out += 1
            return Entry(found, None, 0)
        if not found.columns:
            self._with_rows.append(found)
        self._rows += 1
        return Entry(found, found.columns, found.columns.add(number, at))

    def started(self, entry: Entry, at: float) -> None:
        if entry.columns is not None:
            entry.columns.started[entry.row] = at

    def ended(self, entry: Entry, outcome: str, at: float, *, held: float = 0.0, tokens: int = 0) -> None:
        """`at` is when, `held` how long it had a slot, `tokens` how many were made."""
        self.counts.end(outcome, held, tokens)
        entry.run.counts.end(outcome, held, tokens)
        if entry.columns is not None:
            entry.columns.ended[entry.row] = at
            entry.columns.held[entry.row] = held
            entry.columns.outcomes[entry.row] = OUTCOMES.index(outcome)

    def left_the_line(self, entry: Entry, at: float) -> None:
        """Ended as cancelled, without ever having had a slot."""
        self.ended(entry, "cancelled", at)
        self.counts.cancelled_waiting += 1
        entry.run.counts.cancelled_waiting += 1

    def _new(self, name: str) -> Run:
        if len(self._runs) >= self._most_runs:
            forgotten = self._runs.pop(next(iter(self._runs)))
            self._drop(forgotten)
        run = self._runs[name] = Run()
        return run

    def _make_room(self, run: Run) -> bool:
        """Give up the oldest rows; False where they are this run's own."""
        if not self._with_rows or self._with_rows[0] is run:
            return False
        self._drop(self._with_rows[0])
        return True

    def _drop(self, run: Run) -> None:
        """Requests under way keep the old columns, and write where nobody reads any more."""
        if run.columns:
            self._with_rows.remove(run)
            self._rows -= len(run.columns)
            run.left_out += len(run.columns)
            run.columns = _Columns()
