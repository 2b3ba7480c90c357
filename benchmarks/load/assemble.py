"""From what a run noted to its report."""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from benchmarks.histogram import Histogram
from benchmarks.load.driver import Driver
from benchmarks.load.ledger import PhaseLedger, timings
from benchmarks.load.recovery import Completions, recoveries
from benchmarks.load.scenario import Change, Phase
from benchmarks.oracle import Possible, possible
from benchmarks.report.model import Capacity, Counts, Oracle, Outlived, PhaseReport, Recovery, Timings
from benchmarks.service import Service


class Basis(NamedTuple):
    """What the oracle takes for the capacity. `where` as in `Oracle.basis`; `service` is of each of `replicas`."""

    where: str
    service: Service
    replicas: int = 1

    def whole(self, service: Service) -> Service:
        """All replicas as one."""
        return msgspec.structs.replace(service, slots=service.slots * self.replicas)


def basis(service: Service | None, replicas: int, capacity: Capacity | None) -> Basis | None:
    """The simulated backend's own settings where they are known; else a server of the capacity that was found."""
    if service is not None:
        return Basis("backend", service, replicas)
    if capacity is None:
        return None
    if capacity.in_flight is not None:
        slots = capacity.in_flight
        return Basis("measured", _constant(slots, capacity.rate))
    return Basis("scenario", _constant(1, capacity.rate))


def _constant(slots: int, rate: float) -> Service:
    return Service(slots=slots, first_token_ms=slots / rate * 1000, tokens_per_second=0.0, spread=0.0)


def phases(
    driver: Driver, capacity: Capacity | None, base: Basis | None, outlived: Sequence[Outlived | None]
) -> list[PhaseReport]:
    """One report a phase. Enters the oracle's completions in the driver's timeline on the way."""
    reports = []
    service = base.service if base is not None else None
    for ledger, beyond in zip(driver.phases, outlived, strict=True):
        oracle: Oracle | None = None
        recovered: list[Recovery] = []
        if base is not None and service is not None and ledger.phase.arrivals != "closed":
            oracle, recovered = _oracle(driver, ledger, base, service)
        reports.append(_phase(driver, ledger, capacity, oracle, recovered, beyond))
        if service is not None:
            service = _after(service, ledger.phase.changes)
    return reports


def _phase(
    driver: Driver,
    ledger: PhaseLedger,
    capacity: Capacity | None,
    oracle: Oracle | None,
    recovered: list[Recovery],
    beyond: Outlived | None,
) -> PhaseReport:
    phase, counts = ledger.phase, ledger.books.counts
    seconds = _lasted(driver, ledger)
    goodput = ledger.in_time / seconds if seconds else 0.0
    rate = counts.offered / seconds if seconds else 0.0
    if oracle is not None and oracle.goodput > 0:
        oracle.share = goodput / oracle.goodput
    return PhaseReport(
        name=phase.name,
        arrivals=phase.arrivals,
        at=ledger.began - driver.began,
        seconds=seconds,
        took=max(ledger.ended - ledger.began, 0.0),
        warmup=phase.warmup,
        rate=rate,
        load=_load(phase, rate, capacity),
        counts=counts,
        goodput=goodput,
        timings=ledger.books.timings,
        attempts=ledger.attempts,
        retried=ledger.retried,
        refusals=sorted(ledger.refusals.values(), key=lambda entry: -entry.count),
        kinds=[books.group(name) for name, books in sorted(ledger.kinds.items())],
        classes=[ledger.classes[name].group(name) for name in _CLASSES if name in ledger.classes],
        oracle=oracle,
        outlived=beyond,
        least_share=phase.least_share,
        recoveries=recovered,
        sessions=ledger.sessions.result(),
    )


_CLASSES = ("critical", "high", "normal", "low")


def _lasted(driver: Driver, ledger: PhaseLedger) -> float:
    """How long requests arrived: the phase's length, less where the run was stopped in it."""
    if driver.ended != "done" and ledger is driver.phases[-1]:
        return min(ledger.phase.seconds, max(driver.stopped_at - ledger.began, 0.0))
    return ledger.phase.seconds


def _load(phase: Phase, rate: float, capacity: Capacity | None) -> float | None:
    if phase.load is not None and phase.to_load is None:
        return phase.load
    return rate / capacity.rate if capacity is not None and phase.arrivals != "closed" else None


def _oracle(driver: Driver, ledger: PhaseLedger, base: Basis, service: Service) -> tuple[Oracle, list[Recovery]]:
    budget = driver.scenario.wait_budget_ms / 1000
    changes = [(at, base.whole(changed)) for at, changed in _changes(service, ledger.phase.changes)]
    seconds = _lasted(driver, ledger)
    found: Possible = possible(ledger.arrivals(), base.whole(service), wait_budget=budget, changes=changes)
    offset = ledger.began - driver.began
    driver.timeline.expected(offset, offset + seconds)
    for end, latency in zip(found.ends, found.latencies, strict=True):
        driver.timeline.possible(offset + end, latency)
    in_time = sum(end <= seconds for end in found.ends)
    target = Completions(ledger.ends, ledger.latencies)
    times = [arrival.at for arrival in ledger.arrivals()]
    recovered = recoveries(ledger.phase, times, target, Completions(found.ends, found.latencies))
    oracle = Oracle(
        basis=base.where,
        slots=base.whole(service).slots,
        wait_budget=budget,
        completed=found.completed,
        refused=found.refused,
        goodput=in_time / seconds if seconds else 0.0,
        share=None,
        latency=found.latency,
    )
    return oracle, recovered


def _changes(service: Service, changes: Sequence[Change]) -> list[tuple[float, Service]]:
    result = []
    for change in changes:
        service = msgspec.structs.replace(service, **partial(change))
        result.append((change.at, service))
    return result


def _after(service: Service, changes: Sequence[Change]) -> Service:
    return _changes(service, changes)[-1][1] if changes else service


def partial(change: Change) -> dict[str, float]:
    """The settings that a change names."""
    values = msgspec.structs.asdict(change)
    return {name: value for name, value in values.items() if name != "at" and value is not None}


def totals(reports: Sequence[PhaseReport]) -> tuple[Counts, Timings]:
    """All phases but the warm-ups."""
    counts, times = Counts(), timings()
    for report in reports:
        if report.warmup:
            continue
        for field in Counts.__struct_fields__:
            setattr(counts, field, getattr(counts, field) + getattr(report.counts, field))
        for name in Timings.__struct_fields__:
            into: Histogram = getattr(times, name)
            into.merge(getattr(report.timings, name))
    return counts, times
