"""What is known of a run that is being watched: its steps as a tree, from the entries of its journal and its tokens."""

import re
from collections.abc import Iterable, Iterator
from typing import Any

import msgspec

from pipeline.workflow.journal import (
    AnyEntry,
    Rewound,
    StateChanged,
    StepCompleted,
    StepFailedFinally,
    StepRetrying,
    StepSkipped,
    StepStarted,
    StepWaiting,
)
from pipeline.workflow.states import RunState, StepState

PREVIEW_CHARS = 120
_TAIL_CHARS = 400  # of what is being streamed
_TURN = re.compile(r"^(.*)\[(\d+)\]$", re.DOTALL)


class Row(msgspec.Struct, eq=False):
    """A step, or a turn of one (`each[3]`, whose state is made of what is inside). `said`: the beginning of what came
    of it, or why it failed; `text` the end of what is being streamed. Times are of the entries (wall clock)."""

    path: str
    title: str
    state: StepState = StepState.PENDING
    attempt: int = 0
    started: float | None = None
    ended: float | None = None
    said: str = ""
    text: str = ""
    turn: bool = False
    inside: dict[str, "Row"] = {}

    @property
    def turns(self) -> tuple[int, int]:
        """How many have begun, and how many of those are done."""
        turns = [row for row in self.inside.values() if row.turn]
        return len(turns), sum(1 for turn in turns if turn.done)

    @property
    def done(self) -> bool:
        if self.turn:
            return all(row.done for row in self.inside.values())
        return self.state.final


class Progress:
    """Told of everything in order. `expected`: the steps that are to come, by id."""

    def __init__(self, expected: Iterable[str] = ()) -> None:
        self.state: RunState | None = None
        self.because = ""
        self.began: float | None = None
        self.ended: float | None = None
        self.rows: dict[str, Row] = {}
        self._all: dict[str, Row] = {}
        for step in expected:
            self._row(step)

    def entry(self, entry: AnyEntry) -> None:
        match entry:
            case StateChanged():
                self._changed(entry)
            case StepStarted(path=path, at=at, attempt=attempt):
                self._begun(self._row(path), at, attempt, StepState.RUNNING)
            case StepWaiting(path=path, at=at):
                row = self._row(path)
                self._begun(row, at, max(row.attempt, 1), StepState.WAITING)
                row.said = waits_for(entry)
            case StepRetrying(path=path, attempt=attempt, error=error):
                row = self._row(path)
                row.state, row.attempt, row.said, row.text = StepState.RETRYING, attempt, reason(error), ""
            case StepCompleted() | StepSkipped() | StepFailedFinally():
                self._ended(entry)
            case Rewound(paths=paths):
                self._rewound(paths)
            case _:
                pass

    def text(self, path: str, attempt: int, text: str) -> None:
        row = self._row(path)
        if attempt != row.attempt:
            row.attempt, row.text = attempt, ""
        row.text = (row.text + text)[-_TAIL_CHARS:]

    def all(self) -> Iterator[Row]:
        """Every step, turns left out."""
        return (row for row in self._all.values() if not row.turn)

    def _changed(self, entry: StateChanged) -> None:
        self.state, self.because = entry.state, entry.because
        if entry.state is RunState.RUNNING and self.began is None:
            self.began = entry.at
        self.ended = entry.at if entry.state.final else None
        if entry.state.final:
            for row in self.all():
                if row.state in {StepState.RUNNING, StepState.RETRYING, StepState.WAITING}:
                    row.state, row.ended, row.text = StepState.ABANDONED, entry.at, ""

    def _begun(self, row: Row, at: float, attempt: int, state: StepState) -> None:
        row.state, row.attempt, row.text, row.ended = state, attempt, "", None
        if row.started is None:
            row.started = at

    def _ended(self, entry: StepCompleted | StepSkipped | StepFailedFinally) -> None:
        row = self._row(entry.path)
        row.ended, row.text = entry.at, ""
        match entry:
            case StepCompleted():
                row.state, row.attempt, row.said = StepState.COMPLETED, entry.attempt, preview(entry.value)
                if entry.fallback:
                    row.said = f"{row.said} (fallback: {reason(entry.error or {})})"
            case StepSkipped():
                row.state, row.said = StepState.SKIPPED, entry.because
            case StepFailedFinally():
                row.state, row.attempt, row.said = StepState.FAILED, entry.attempt, reason(entry.error)

    def _rewound(self, paths: Iterable[str]) -> None:
        for path in paths:
            for found in [known for known in self._all if known == path or known.startswith((path + "/", path + "["))]:
                row = self._all[found]
                row.state, row.attempt, row.started, row.ended, row.said = StepState.PENDING, 0, None, None, ""

    def _row(self, path: str) -> Row:
        known = self._all.get(path)
        if known is not None:
            return known
        above, _, last = path.rpartition("/")
        turn = _TURN.match(last)
        if turn is not None:
            above, last = f"{above}/{turn[1]}" if above else turn[1], f"[{turn[2]}]"
        row = self._all[path] = Row(path, last, turn=turn is not None, inside={})
        (self._row(above).inside if above else self.rows)[path] = row
        return row


def preview(value: Any) -> str:
    """The beginning of a value, in one line."""
    text = value if isinstance(value, str) else msgspec.json.encode(value).decode() if value is not None else ""
    flat = " ".join(text[: 4 * PREVIEW_CHARS].split())
    return flat if len(flat) <= PREVIEW_CHARS else flat[: PREVIEW_CHARS - 1] + "…"


def reason(error: dict[str, Any]) -> str:
    return " ".join(str(error.get("message") or error.get("kind") or error).split())


def waits_for(entry: StepWaiting) -> str:
    return f"for the signal {entry.event!r}" if entry.event is not None else "for its time"
