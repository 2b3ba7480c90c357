"""Backoff, values, and what a history is folded into."""

import pytest

from pipeline.workflow import backoff
from pipeline.workflow.definition import Retry
from pipeline.workflow.errors import StepFailed
from pipeline.workflow.history import fold, open_ones, parent
from pipeline.workflow.journal import (
    AnyEntry,
    Numbered,
    Rewound,
    Signalled,
    StateChanged,
    StepCompleted,
    StepFailedFinally,
    StepRetrying,
    StepStarted,
    StepWaiting,
)
from pipeline.workflow.ports import Result
from pipeline.workflow.states import RunState, StepState
from pipeline.workflow.values import checked


def folded(*entries: AnyEntry):
    return fold(Numbered(number, entry) for number, entry in enumerate(entries, 1))


@pytest.mark.parametrize(
    ("kind", "delays"),
    [("exponential", [0.1, 0.2, 0.4, 0.5]), ("linear", [0.1, 0.2, 0.3, 0.4]), ("constant", [0.1, 0.1, 0.1, 0.1])],
)
def test_delays_grow_up_to_the_longest(kind, delays):
    retry = Retry(backoff=kind, initial_delay_ms=100, max_delay_ms=500, jitter=False)
    assert [backoff.delay(retry, failures, chance=1.0) for failures in (1, 2, 3, 4)] == pytest.approx(delays)


def test_jitter_takes_a_share_away_and_nothing_comes_before_it_was_told_to():
    retry = Retry(initial_delay_ms=100, jitter=0.3)
    assert backoff.delay(retry, 1, chance=0.0) == pytest.approx(0.1)
    assert backoff.delay(retry, 1, chance=1.0) == pytest.approx(0.07)
    assert backoff.delay(Retry(initial_delay_ms=100, jitter=True), 1, chance=1.0) == pytest.approx(0.05)
    assert backoff.delay(retry, 1, retry_after=7.0) == 7.0
    assert backoff.delay(Retry(max_attempts=100, jitter=False), 99) == 30.0


def test_who_finds_no_place_comes_later_and_later_and_never_too_soon():
    assert backoff.postponed(2.0, 1, lambda: 0.0) == 2.0
    assert backoff.postponed(2.0, 1, lambda: 1.0) == 3.0
    assert (
        backoff.postponed(0.0, 1, lambda: 0.0)
        < backoff.postponed(0.0, 5, lambda: 0.0)
        < backoff.postponed(0.0, 99, lambda: 0.0)
        <= 5.0
    )


def test_a_value_is_copied_and_tuples_are_lists():
    items = [1, (2, 3)]
    kept = checked(Result(items), 100)
    items.append(4)
    assert kept.value == [1, [2, 3]]


def test_the_limit_is_for_a_value_and_its_fields_together():
    assert checked(Result("x" * 50, {"a": "y" * 40}), 100).fields == {"a": "y" * 40}
    with pytest.raises(StepFailed, match="a is too large"):
        checked(Result("x" * 60, {"a": "y" * 60}), 100)


def test_paths_lead_outwards():
    assert [parent(path) for path in ("a", "a/b", "a[3]/b", "a[3]/b/c", "a/b[0]/c")] == [
        None,
        "a",
        "a",
        "a[3]/b",
        "a/b",
    ]


def test_a_history_is_what_its_entries_say():
    history = folded(
        StateChanged(1.0, RunState.PENDING),
        StateChanged(2.0, RunState.RUNNING),
        StepStarted(2.0, "a"),
        StepRetrying(3.0, "a", 1, {"kind": "x"}, 4.0),
        StepStarted(4.0, "a", 2),
        StepCompleted(5.0, "a", "value", {"model": "m"}, 2),
        StepStarted(5.0, "w"),
        StepWaiting(5.0, "w", 60.0, "go"),
        StateChanged(6.0, RunState.WAITING, wake_at=60.0),
        Signalled(16.0, "other"),
        Signalled(16.0, "go", 1),
        Signalled(16.0, "go", 2),
        StateChanged(16.0, RunState.RUNNING),
        StepCompleted(17.0, "w", 1),
        StepStarted(17.0, "z"),
        StateChanged(18.0, RunState.CANCELLED, "enough"),
    )
    a = history.steps["a"]
    assert (a.state, a.attempt, a.failures, a.value, a.started_at, a.ended_at) == (
        StepState.COMPLETED,
        2,
        1,
        "value",
        2.0,
        5.0,
    )
    assert history.signals == [("other", None), ("go", 2)]
    assert (history.used, history.waited) == (6.0, 10.0)
    assert history.steps["z"].state is StepState.ABANDONED
    assert (history.started_at, history.ended_at, history.because, history.last) == (2.0, 18.0, "enough", 16)


def test_the_time_that_nobody_had_it_is_not_counted():
    history = folded(
        StateChanged(1.0, RunState.RUNNING),
        StepStarted(2.0, "a"),
        StateChanged(100.0, RunState.RUNNING),
        StepStarted(101.0, "a", 2),
    )
    assert history.used == 2.0
    assert history.interrupted


def test_what_is_tried_again_forgets_what_came_to_nothing_inside():
    history = folded(
        StepStarted(1.0, "m"), StepStarted(1.0, "m[0]/a"), StepCompleted(1.0, "m[0]/a", 1), StepStarted(1.0, "m[1]/a"),
        StepFailedFinally(1.0, "m[1]/a", {"kind": "x"}), StepRetrying(1.0, "m", 1, {"kind": "x"}, 2.0),
    )  # fmt: skip
    assert sorted(history.steps) == ["m", "m[0]/a"]


def test_what_is_rewound_reopens_what_it_is_inside_of():
    entries = [
        StepStarted(1.0, "p"), StepCompleted(1.0, "p/a", 1), StepCompleted(1.0, "p/b", 2), StepCompleted(1.0, "p", 3),
        StepCompleted(1.0, "q", 4), StateChanged(1.0, RunState.COMPLETED),
    ]  # fmt: skip
    history = folded(*entries, Rewound(2.0, ["p/b"]), StateChanged(2.0, RunState.PENDING))
    assert sorted(history.steps) == ["p/a", "q"]
    assert sorted(folded(*entries, Rewound(2.0, ["p"])).steps) == ["q"]
    assert sorted(folded(*entries, Rewound(2.0, ["p/"])).steps) == ["p/a", "p/b", "q"]
    again = folded(*entries, Rewound(2.0, ["p/b"]), Rewound(2.0, ["p"]))
    assert sorted(again.steps) == ["q"]


def test_what_is_inside_of_what_is_over_is_left_out():
    history = folded(
        StepCompleted(1.0, "p/a/b", 1),
        StepCompleted(1.0, "p/a", 1),
        StepCompleted(1.0, "p", 1),
        StepStarted(1.0, "q"),
        StepCompleted(1.0, "q[0]/a", 1),
    )
    assert sorted(open_ones(history.steps)) == ["p", "q", "q[0]/a"]
