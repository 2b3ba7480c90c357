"""What is known of a run from its entries, and how it is shown."""

import io
import sys

import pytest
from rich.console import Console

from pipeline.operate.workflow.progress import Progress, preview
from pipeline.operate.workflow.shown import Lines, Silent, Tree, picture, showing
from pipeline.workflow.journal import (
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

LOST = {"kind": "backend_error", "message": "the connection was lost"}


def told(*entries, expected=()):
    progress = Progress(expected)
    for entry in entries:
        progress.entry(entry)
    return progress


def states(progress):
    return {row.path: row.state.value for row in progress.all()}


def drawn(progress, now=10.0, width=100, height=40):
    stream = io.StringIO()
    console = Console(file=stream, width=width, height=height, force_terminal=True, color_system=None)
    console.print(picture(progress, now, console))
    return [line.rstrip() for line in stream.getvalue().splitlines()]


def test_a_step_goes_its_way():
    progress = told(StepStarted(1.0, "a"), expected=["a", "b"])
    assert states(progress) == {"a": "running", "b": "pending"}
    progress.text("a", 1, "Once ")
    progress.text("a", 1, "upon")
    assert progress.rows["a"].text == "Once upon"
    progress.entry(StepRetrying(2.0, "a", 1, LOST, 3.0))
    assert (states(progress)["a"], progress.rows["a"].said) == ("retrying", "the connection was lost")
    progress.text("a", 2, "again")
    assert progress.rows["a"].text == "again"
    progress.entry(StepStarted(3.0, "a", 2))
    progress.entry(StepCompleted(4.0, "a", "the  end\n", attempt=2))
    row = progress.rows["a"]
    assert (row.state, row.said, row.text, row.started, row.ended) == (StepState.COMPLETED, "the end", "", 1.0, 4.0)
    assert list(progress.rows) == ["a", "b"]


def test_turns_are_counted_and_what_is_in_them_is_inside():
    progress = told(
        StepStarted(1.0, "each"),
        StepStarted(1.0, "each[0]/draft"),
        StepStarted(1.0, "each[1]/draft"),
        StepCompleted(2.0, "each[0]/draft", "x"),
        StepStarted(2.0, "each[1]/deep[0]/leaf"),
    )
    assert progress.rows["each"].turns == (2, 1)
    assert list(progress.rows["each"].inside) == ["each[0]", "each[1]"]
    lines = drawn(progress)
    assert "1 of 2 turns done" in lines[0]
    # Of the turns only what is under way is shown.
    assert [line.split()[0] for line in lines] == ["●", "[1]", "●", "·", "[0]", "●", "pending"]


def test_the_end_of_a_run_ends_what_was_under_way():
    error = {"kind": "timeout", "message": "too late"}
    progress = told(
        StateChanged(0.5, RunState.RUNNING),
        StepStarted(1.0, "a"),
        StepWaiting(1.0, "b", event="go"),
        StepFailedFinally(2.0, "c", error),
        StepSkipped(2.0, "d", "its condition is false"),
        StateChanged(3.0, RunState.FAILED, "c failed"),
    )
    assert states(progress) == {"a": "abandoned", "b": "abandoned", "c": "failed", "d": "skipped"}
    lines = drawn(progress)
    assert lines[-1].split() == ["failed", "2.5", "s", "c", "failed"]
    assert any("✗ c" in line and "too late" in line for line in lines)


def test_what_is_to_be_done_again_is_pending_with_all_inside():
    progress = told(
        StepCompleted(1.0, "a", 1),
        StepCompleted(1.0, "ab", 1),
        StepCompleted(1.0, "loop[0]/x", 1),
        StepCompleted(1.0, "loop", 1),
        Rewound(2.0, ["a", "loop"]),
    )
    assert states(progress) == {"a": "pending", "ab": "completed", "loop[0]/x": "pending", "loop": "pending"}


def test_more_steps_than_lines_show_what_is_under_way():
    progress = told(
        *(StepCompleted(1.0, f"done{at}", at) for at in range(100)),
        StepStarted(1.0, "now"),
    )
    lines = drawn(progress, height=12)
    assert len(lines) <= 12
    assert any("now" in line for line in lines)
    assert any("100 more steps" in line for line in lines)


def test_an_encoding_without_the_marks(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="latin-1")
    console = Console(file=stream, width=80, force_terminal=True, color_system=None)
    console.print(picture(told(StepStarted(1.0, "a")), 2.0, console))
    stream.flush()
    assert stream.buffer.getvalue().startswith(b"* a")


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, ""), ("a\n b", "a b"), ({"a": [1, 2.5, None]}, '{"a":[1,2.5,null]}'), ("x" * 500, "x" * 119 + "…")],
)
def test_previews(value, shown):
    assert preview(value) == shown


def test_lines_tell_what_ended_and_why():
    stream = io.StringIO()
    lines = Lines(stream)
    for entry in (
        StateChanged(100.0, RunState.RUNNING),
        StepStarted(100.0, "a"),
        StepRetrying(100.25, "a", 1, LOST, 101.0),
        StepCompleted(101.5, "a", "fine", attempt=2),
        StepCompleted(101.5, "b", "instead", fallback=True, error=LOST),
        StepSkipped(101.5, "c", "not chosen"),
        StepFailedFinally(101.5, "d", LOST, attempt=3),
        StepWaiting(101.5, "e", event="approval"),
        Signalled(101.5, "approval"),
        Rewound(101.5, ["d"]),
        StateChanged(102.0, RunState.PARTIAL, "d failed"),
    ):
        lines.entry(entry)
    assert stream.getvalue().splitlines() == [
        "   0.000 s  run running",
        "   0.250 s  a: attempt 1 failed, to be tried again: the connection was lost",
        "   1.500 s  a: completed, attempt 2: fine",
        "   1.500 s  b: completed: instead (fallback: the connection was lost)",
        "   1.500 s  c: skipped: not chosen",
        "   1.500 s  d: failed after 3 attempts: the connection was lost",
        "   1.500 s  e: waits for the signal 'approval'",
        "   1.500 s  the signal 'approval' came",
        "   1.500 s  to be done again: d",
        "   2.000 s  run partial: d failed",
    ]


def test_a_tree_is_drawn_and_left_standing():
    stream = io.StringIO()
    console = Console(file=stream, width=80, force_terminal=True, color_system=None)
    with Tree(console, Progress(["a"])) as tree:
        tree.entry(StepStarted(1.0, "a"))
        tree.text("a", 1, "some words")
        tree.entry(StepCompleted(2.0, "a", "all of it"))
        tree.entry(StateChanged(2.0, RunState.COMPLETED))
    drawn_last = [line for line in stream.getvalue().splitlines() if line.strip(" \x1b[?25h")][-2:]
    assert "all of it" in drawn_last[0]
    assert "completed" in drawn_last[1]


def test_which_way_a_run_is_shown(monkeypatch):
    assert type(showing(quiet=True, expected=iter([]))) is Silent
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    assert type(showing(quiet=False, expected=iter([]))) is Lines
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert type(showing(quiet=False, expected=iter(["a"]))) is Tree
