"""The reports of a gateway's phases as one: each phase was run by itself, and the page shows whole scenarios."""

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from benchmarks.histogram import Histogram
from benchmarks.load.scenario import Scenario
from benchmarks.report.model import (
    Account,
    Accounting,
    BackendCounts,
    Counts,
    Ended,
    Lag,
    Processes,
    Report,
    Target,
    Timings,
)

_Placed = list[tuple[float, Report]]
"""Each report with the seconds that the ones before it took."""


def together(
    reports: Sequence[Report], scenario: Scenario, *, version: str, command: Sequence[str], missing: Sequence[str] = ()
) -> Report:
    """Times, counts and costs of all of them; their time lines one after the other.

    `scenario` is what was to be run, `missing` the phases of which there is no report.
    """
    first = reports[0]
    placed = _placed(reports)
    notes = [_placed_in(report, note) for report in reports for note in report.notes]
    notes += [f"Phase {name} was not measured." for name in missing]
    return Report(
        name=first.name,
        scenario_name=first.scenario_name,
        scenario=msgspec.to_builtins(scenario),
        command=list(command),
        seed=first.seed,
        seconds=sum(report.seconds for report in reports),
        ended=next((report.ended for report in reports if report.ended != "done"), "done"),
        environment=first.environment,
        target=_target(first, version),
        capacity=first.capacity,
        totals=_counts(report.totals for report in reports),
        timings=_timings(reports),
        phases=[msgspec.structs.replace(phase, at=phase.at + at) for at, report in placed for phase in report.phases],
        moments=[
            msgspec.structs.replace(moment, at=moment.at + at) for at, report in placed for moment in report.moments
        ],
        generator=_lag(placed),
        processes=_processes(placed),
        backend=_backend(reports),
        accounting=_accounting(reports),
        notes=notes,
        faults=[_placed_in(report, fault) for report in reports for fault in report.faults],
    )


def _placed_in(report: Report, sentence: str) -> str:
    """With the phase that it is of, unless it says so itself."""
    name = f"Phase {_names(report)}"
    return sentence if sentence.startswith(name) else f"{name}: {sentence}"


def _names(report: Report) -> str:
    return ", ".join(phase.name for phase in report.phases if not phase.warmup) or "of warm-up"


def _placed(reports: Sequence[Report]) -> _Placed:
    placed, at = [], 0.0
    for report in reports:
        placed.append((at, report))
        at += report.seconds
    return placed


def _target(report: Report, version: str) -> Target:
    """What a gateway says of itself is often its HTTP server's name; we know which it is."""
    if report.target.ours or not version:
        return report.target
    return msgspec.structs.replace(report.target, server=report.name, version=version)


def _counts(every: Iterable[Counts]) -> Counts:
    total = Counts()
    for counts in every:
        for name in Counts.__struct_fields__:
            setattr(total, name, getattr(total, name) + getattr(counts, name))
    return total


def _merged(histograms: Iterable[Histogram]) -> Histogram:
    whole = Histogram()
    for histogram in histograms:
        whole.merge(histogram)
    return whole


def _timings(reports: Sequence[Report]) -> Timings:
    return Timings(
        latency=_merged(report.timings.latency for report in reports),
        first_token=_merged(report.timings.first_token for report in reports),
        gaps=_merged(report.timings.gaps for report in reports),
    )


def _lag(placed: _Placed) -> Lag:
    every = [report.generator for _, report in placed]
    seconds = sum(report.seconds for _, report in placed)
    used = sum(report.generator.cores * report.seconds for _, report in placed)
    return Lag(
        threshold=every[0].threshold,
        lag=_merged(lag.lag for lag in every),
        behind=[
            (begin + at, end + at, worst) for at, report in placed for begin, end, worst in report.generator.behind
        ],
        cores=used / seconds if seconds else 0.0,
        peak_in_flight=max(lag.peak_in_flight for lag in every),
        connections=sum(lag.connections for lag in every),
        resent=sum(lag.resent for lag in every),
    )


def _processes(placed: _Placed) -> Processes:
    every = [report.processes for _, report in placed]
    known = [(one.cpu, one.cpu / one.cpu_per_request) for one in every if one.cpu and one.cpu_per_request]
    cpu, requests = sum(cpu for cpu, _ in known), sum(requests for _, requests in known)
    resident = [one.peak_resident for one in every if one.peak_resident is not None]
    used = [one.cpu for one in every if one.cpu is not None]
    return Processes(
        found=every[0].found,
        pids=sorted({pid for one in every for pid in one.pids}),
        cpu=sum(used) if used else None,
        cpu_per_request=cpu / requests if requests else None,
        peak_resident=max(resident, default=None),
        samples=[
            msgspec.structs.replace(sample, at=sample.at + at)
            for at, report in placed
            for sample in report.processes.samples
        ],
    )


def _backend(reports: Sequence[Report]) -> BackendCounts | None:
    every = [report.backend for report in reports if report.backend is not None]
    if not every:
        return None
    return BackendCounts(
        replicas=every[0].replicas,
        arrivals=sum(one.arrivals for one in every),
        served=sum(one.served for one in every),
        cancelled=sum(one.cancelled for one in every),
        failed=sum(one.failed for one in every),
        refused=sum(one.refused for one in every),
        left_running=sum(one.left_running for one in every),
        busy_seconds=sum(one.busy_seconds for one in every),
        wasted_seconds=sum(one.wasted_seconds for one in every),
        agrees=all(one.agrees for one in every),
        problems=[problem for one in every for problem in one.problems],
        shed_late=None if any(one.shed_late is None for one in every) else sum(one.shed_late or 0 for one in every),
    )


def _accounting(reports: Sequence[Report]) -> Accounting:
    accounts: dict[str, Account] = {}
    for one in (account for report in reports for account in report.accounting.target or []):
        before = accounts.get(one.outcome)
        accounts[one.outcome] = one if before is None else _sum(before, one)
    return Accounting(
        balanced=all(report.accounting.balanced for report in reports),
        target=list(accounts.values()) if all(report.accounting.target is not None for report in reports) else None,
        problems=[problem for report in reports for problem in report.accounting.problems],
        ended=_ended(reports),
    )


def _ended(reports: Sequence[Report]) -> list[Ended]:
    counts: Counter[tuple[str, str, str]] = Counter()
    for one in (ended for report in reports for ended in report.accounting.ended):
        counts[one.outcome, one.stage, one.reason] += one.count
    return [
        Ended(outcome=outcome, stage=stage, reason=reason, count=count)
        for (outcome, stage, reason), count in counts.most_common()
    ]


def _sum(a: Account, b: Account) -> Account:
    return Account(
        outcome=a.outcome,
        client=a.client + b.client,
        least=a.least + b.least,
        most=a.most + b.most,
        target=a.target + b.target,
        agrees=a.agrees and b.agrees,
    )
