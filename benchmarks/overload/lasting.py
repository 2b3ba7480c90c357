"""What is left of clients that go away, and what grows."""

import statistics
from collections.abc import Iterator, Sequence

from benchmarks.overload.lines import Line, Outcomes, Row, growth_shown, limit, number, phase_of, report_of
from benchmarks.overload.trial import Outcome
from benchmarks.report import units

_SETTLED = 10.0  # seconds, after which memory should not grow any more


def leavers(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    for key, where in (("working", "in inference"), ("queued", "queued")):
        phase = phase_of(outcomes, key)
        gone = phase.outlived.ended_after if phase and phase.outlived else None
        left = phase.counts.left if phase else 0
        name = f"clients that leave {where}: their calls end after"
        line = limit(row, name, gone.most if gone and left else None, 0.1, units.duration)
        yield line._replace(beside=f"{units.some(left, 'client')} left, {gone.count} calls cut" if gone else "")
    yield _retrieving(row, outcomes)
    reports = [report_of(outcomes, key) for key in row.trials]
    running = [r.backend.left_running if r is not None and r.backend is not None else None for r in reports]
    known = [each for each in running if each is not None]
    total = float(sum(known)) if len(known) == len(running) else None
    yield limit(row, "calls left running at the end", total, 0, number)


def _retrieving(row: Row, outcomes: Outcomes) -> Line:
    report, outcome = report_of(outcomes, "retrieving"), outcomes.get("retrieving")
    calls = report.backend.arrivals if report is not None and report.backend is not None else None
    left = report.totals.left if report is not None else 0
    name = "clients that leave in RAG: backend calls for them"
    value = float(calls) if calls is not None and left else None
    line = limit(row, name, value, 0, number)
    cut = f", {outcome.cut} of {outcome.searches} searches cut" if outcome else ""
    return line._replace(beside=f"{units.some(left, 'client')} left{cut}")


def memory_row(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    outcome = outcomes.get(row.trials[0])
    found = [sample for sample in memory(outcome) if sample[0] >= _SETTLED] if outcome is not None else []
    line = limit(row, "memory of the shard at 10x, after its first 10 s", growth(found), 0.05, growth_shown)
    if found:
        line = line._replace(beside=f"from {units.size(round(found[0][1]))} to {units.size(round(found[-1][1]))}")
    yield line


def memory(outcome: Outcome) -> list[tuple[float, float]]:
    """Seconds since the run began, and resident bytes of the processes that serve."""
    if outcome.report is None or not outcome.shards:
        return []
    return [
        (sample.at, float(sum(sample.by_pid.get(pid, 0) for pid in outcome.shards)))
        for sample in outcome.report.processes.samples
        if any(pid in sample.by_pid for pid in outcome.shards)
    ]


def growth(samples: Sequence[tuple[float, float]]) -> float | None:
    """From what it was after `_SETTLED` seconds to the end, as a share: of medians over a twelfth of the time each.

    None where there is less to see than that.
    """
    later = [resident for at, resident in samples if at >= _SETTLED]
    few = max(len(later) // 12, 1)
    if len(later) < 2 or not min(later):
        return None
    return statistics.median(later[-few:]) / statistics.median(later[:few]) - 1.0
