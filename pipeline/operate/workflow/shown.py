"""A run that is being watched, on a terminal (a live tree) and elsewhere (a line for each thing that happens)."""

import sys
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Protocol, Self, TextIO

import msgspec
from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from rich.text import Text

from pipeline.operate.tables import duration
from pipeline.operate.workflow.progress import Progress, Row, preview, reason, waits_for
from pipeline.workflow.journal import (
    AnyEntry,
    Rewound,
    Signalled,
    StateChanged,
    StepCompleted,
    StepFailedFinally,
    StepRetrying,
    StepSkipped,
    StepStarted,
    StepWaiting,
)
from pipeline.workflow.states import RunState, StepState

_EVERY_S = 0.1  # between pictures
_TURNS = 6  # of those under way, that are shown
STYLES: dict[str, str] = {
    "completed": "green",
    "running": "blue",
    "retrying": "yellow",
    "waiting": "yellow",
    "partial": "yellow",
    "paused": "yellow",
    "failed": "red",
    "abandoned": "red",
    "cancelled": "red",
    "skipped": "dim",
    "pending": "dim",
}
_MARKS = {
    StepState.COMPLETED: "✓",
    StepState.FAILED: "✗",
    StepState.ABANDONED: "✗",
    StepState.SKIPPED: "⊘",
    StepState.RUNNING: "●",
    StepState.RETRYING: "↻",
    StepState.WAITING: "◷",
    StepState.PENDING: "·",
}
_PLAIN_MARKS = dict(zip(_MARKS, "+xx-*~w.", strict=True))


class Show(Protocol):
    """Shows a run while it is open as a context."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def entry(self, entry: AnyEntry) -> None: ...

    def text(self, path: str, attempt: int, text: str) -> None: ...


class Silent:
    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def entry(self, entry: AnyEntry) -> None:
        """Nothing is shown."""

    def text(self, path: str, attempt: int, text: str) -> None:
        """The same."""


class Lines(Silent):
    """Times are from the first entry on."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began: float | None = None

    def entry(self, entry: AnyEntry) -> None:
        if self._began is None:
            self._began = entry.at
        told = line(entry)
        if told:
            print(f"{entry.at - self._began:8.3f} s  {told}", file=self._stream, flush=True)


class Tree:
    """At most ten pictures a second, whatever comes."""

    def __init__(self, console: Console, progress: Progress) -> None:
        self._progress = progress
        self._console = console
        self._live = Live(console=console, refresh_per_second=1 / _EVERY_S, get_renderable=self._picture)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def entry(self, entry: AnyEntry) -> None:
        self._progress.entry(entry)

    def text(self, path: str, attempt: int, text: str) -> None:
        self._progress.text(path, attempt, text)

    def _picture(self) -> Table:
        return picture(self._progress, time.time(), self._console)


def showing(*, quiet: bool, expected: Iterator[str]) -> Show:
    """On standard error: a result may go where standard output does."""
    if quiet:
        return Silent()
    console = Console(stderr=True, highlight=False)
    return Tree(console, Progress(expected)) if console.is_terminal else Lines(sys.stderr)


def line(entry: AnyEntry) -> str:  # noqa: PLR0911 - one for each kind
    """Empty for what is not worth one."""
    match entry:
        case StepCompleted(path=path, value=value, fallback=fallback, attempt=attempt):
            again = f", attempt {attempt}" if attempt > 1 else ""
            because = f" (fallback: {reason(entry.error or {})})" if fallback else ""
            return f"{path}: completed{again}: {preview(value)}{because}"
        case StepSkipped(path=path, because=because):
            return f"{path}: skipped: {because}"
        case StepFailedFinally(path=path, error=error, attempt=attempt):
            return f"{path}: failed{f' after {attempt} attempts' if attempt > 1 else ''}: {reason(error)}"
        case StepRetrying(path=path, error=error, attempt=attempt):
            return f"{path}: attempt {attempt} failed, to be tried again: {reason(error)}"
        case StepWaiting(path=path):
            return f"{path}: waits {waits_for(entry)}"
        case StateChanged(state=RunState.PENDING) | StepStarted():
            return ""
        case StateChanged(state=state, because=because):
            return f"run {state.value}" + (f": {because}" if because else "")
        case Signalled(event=event):
            return f"the signal {event!r} came"
        case Rewound(paths=paths):
            return f"to be done again: {', '.join(paths)}"


def picture(progress: Progress, now: float, console: Console) -> Table:
    """No higher than the console: what is done gives way to what is not."""
    table = Table.grid(
        Column(no_wrap=True, overflow="ellipsis", max_width=40),
        Column(justify="right", no_wrap=True),
        Column(no_wrap=True, overflow="ellipsis", ratio=1),
        padding=(0, 2, 0, 0),
        expand=True,
    )
    marks = _MARKS if console.encoding.lower().startswith("utf") else _PLAIN_MARKS
    rows = [found for row in progress.rows.values() for found in _shown(row, 0)]
    room = max(console.height - 3, 4)
    hidden = 0
    if len(rows) > room:
        active = [found for found in rows if not found[1].done and found[1].state is not StepState.PENDING]
        hidden, rows = len(rows), active[:room]
        hidden -= len(rows)
    for depth, row in rows:
        table.add_row(*_cells(depth, row, now, marks))
    if hidden:
        table.add_row(Text(f"… {hidden} more steps", "dim"), "", "")
    table.add_row(*_foot(progress, now))
    return table


def _shown(row: Row, depth: int) -> Iterator[tuple[int, Row]]:
    """A step and what is inside of it; of turns only those under way."""
    yield depth, row
    under_way = [inner for inner in row.inside.values() if not (inner.turn and inner.done)]
    for inner in under_way[-_TURNS:] if under_way and under_way[0].turn else under_way:
        yield from _shown(inner, depth + 1)


def _cells(depth: int, row: Row, now: float, marks: dict[StepState, str]) -> tuple[Text, Text, Text]:
    if row.turn:
        return Text("  " * depth + row.title, "dim"), Text(), Text()
    style = STYLES[row.state.value]
    name = Text("  " * depth).append(marks[row.state] + " ", style).append(row.title, "" if row.started else "dim")
    took = "" if row.started is None else duration(max(0.0, (row.ended or now) - row.started))
    said = Text(f"attempt {row.attempt}  ", "yellow") if row.attempt > 1 else Text()
    begun, done = row.turns
    if begun:
        said.append(f"{done} of {begun} turns done  " if done < begun else f"{begun} turns  ", style)
    if row.state is StepState.RUNNING and row.text:
        return name, Text(took, "dim"), said.append(_end(row.text), "dim")
    loud = {StepState.FAILED: "red", StepState.RETRYING: "yellow", StepState.WAITING: "yellow"}
    return name, Text(took, "dim"), said.append(row.said, loud.get(row.state, "dim"))


def _foot(progress: Progress, now: float) -> tuple[Text, Text, Text]:
    state = progress.state or RunState.PENDING
    took = "" if progress.began is None else duration(max(0.0, (progress.ended or now) - progress.began))
    return Text(state.value, f"bold {STYLES[state.value]}"), Text(took), Text(progress.because, "dim")


def _end(text: str) -> str:
    return " ".join(text.split())[-100:]


def as_json(value: object) -> str:
    """For people: indented."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()
