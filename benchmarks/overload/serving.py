"""What is served under load, to whom, and how fast the others are refused."""

from collections.abc import Iterator, Sequence

from benchmarks.histogram import Histogram
from benchmarks.overload.lines import Line, Outcomes, Row, floor, limit, number, phase_of, ratio, report_of
from benchmarks.report import facts, units

WAIT_BUDGET, CODEL_INTERVAL = 0.5, 0.1  # seconds, Headgate's defaults
_LATE_PLACES = frozenset({"post", "stream"})  # where inference has begun before


def goodput(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    for key, least in zip(row.trials, (0.95, 0.97, 0.95), strict=True):
        phase = phase_of(outcomes, key)
        line = floor(row, f"goodput at {key} ÷ the oracle's", facts.share(phase) if phase else None, least, ratio)
        yield line._replace(beside=f"{units.rate(phase.goodput)}" if phase else "")


def latency(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    for key in row.trials:
        phase = phase_of(outcomes, key)
        for name, share, most in (("p50", 0.5, 0.3), ("p99", 0.99, 0.7)):
            value = phase.timings.latency.percentile(share) if phase else None
            yield limit(row, f"latency of served at {key}, {name}", value, most, units.duration)


def highest(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    phase = phase_of(outcomes, row.trials[0])
    served = facts.highest_served(phase) if phase is not None else None
    yield floor(row, "highest class at 2x, served", served, 0.99, units.percent)


def fairness(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    phase = phase_of(outcomes, row.trials[0])
    sessions = phase.sessions if phase else None
    line = floor(row, "Jain's index over sessions' served work", sessions.jain if sessions else None, 0.95, ratio)
    if sessions is not None:
        line = line._replace(beside=f"{sessions.least} to {sessions.most} served of each")
    yield line


# --- refusals ------------------------------------------------------------------------------------------------------


def _refusals(outcomes: Outcomes, keys: Sequence[str], where: str) -> Histogram:
    phases = [phase for key in keys if (phase := phase_of(outcomes, key)) is not None]
    return facts.refusal_latency((entry for phase in phases for entry in phase.refusals), where)


def at_door(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    for key in row.trials:
        found = _refusals(outcomes, [key], "door")
        line = limit(row, f"refused at the door at {key}, p99", found.percentile(0.99), 0.010, units.duration)
        yield line._replace(beside=units.some(found.count, "refusal"))


def after_queueing(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    """Nobody refused after queueing is as good as it gets."""
    found, most = _refusals(outcomes, row.trials, "queue"), WAIT_BUDGET + CODEL_INTERVAL
    known = all(phase_of(outcomes, key) for key in row.trials)
    value = found.most if found.count else 0.0
    line = limit(row, "refused after queueing, longest", value if known else None, most, units.duration)
    beside = f"{units.some(found.count, 'refusal')}, p99 {units.duration(found.percentile(0.99))}"
    yield line._replace(beside=beside) if found.count else line._replace(measured="none" if known else line.measured)


def no_trial(_row: Row, _outcomes: Outcomes) -> Iterator[Line]:
    """Nothing that load shows: see `benchmarks.overload.cost`."""
    return iter(())


def shed_late(row: Row, outcomes: Outcomes) -> Iterator[Line]:
    """By the backend's log, which has no shed request, and by what Headgate counted."""
    reports = [report_of(outcomes, key) for key in row.trials]
    found: float | None = 0.0
    for report in reports:
        known = report is not None and report.backend is not None and report.backend.shed_late is not None
        if not known or report is None or report.backend is None or found is None:
            found = None
            break
        counted = sum(e.count for e in report.accounting.ended if e.outcome == "shed" and e.stage in _LATE_PLACES)
        found += (report.backend.shed_late or 0) + counted
    yield limit(row, "requests shed after their inference began", found, 0, number)
