"""Outcomes of trials as they could come from runs, good enough for every line of the table unless a test spoils one."""

from random import Random

import msgspec

from benchmarks.histogram import Histogram
from benchmarks.overload.trial import Outcome
from benchmarks.overload.trials import TRIALS
from benchmarks.report.model import Counts, Group, Outlived, PhaseReport, Recovery, Report, Sample, SessionWork
from benchmarks.report.model import Sessions as Served
from tests.benchmarks.report.reports import report, timings

SHARD = 77


def spread(*values: float) -> Histogram:
    found = Histogram()
    for value in values:
        found.add(value)
    return found


def made(key: str) -> Report:
    trial = TRIALS[key]
    found = report([("warm-up", 1_000, 0.5, True), (trial.phase, 5_000, 2.0, False)])
    found.scenario_name = trial.scenario
    phase = found.phases[1]
    assert phase.oracle
    phase.oracle.share = 0.99
    phase.timings.latency = spread(*[0.2] * 99, 0.6)
    for entry in phase.refusals:
        entry.latency = spread(*[0.002] * entry.count) if entry.where == "door" else spread(*[0.55] * entry.count)
    phase.classes = [
        Group(name=name, counts=Counts(offered=100, completed=served), timings=timings(Random(1), 9, 0.2))
        for name, served in (("high", 100), ("normal", 30))
    ]
    phase.sessions = Served(
        count=2, jain=0.97, least=40, most=60, busiest=[SessionWork(name="s-1", offered=300, completed=60)]
    )
    phase.outlived = Outlived(requests=0, seconds=0.1, share=0.0, ended_after=spread(0.004, 0.02))
    phase.counts.left = 60
    found.totals.left = 60
    phase.recoveries = [
        Recovery(at=25.0, what="first", within=20.0, goodput=1.0, p50_wanted=0.13, p50=1.2, oracle_p50=1.4),
        Recovery(at=40.0, what="second", within=20.0, goodput=2.0),
    ]
    assert found.backend
    found.backend.shed_late = 0
    found.processes.samples = [
        Sample(at=float(at), cores=0.5, resident=90, processes=2, by_pid={1: 30, SHARD: 60}) for at in range(1, 71)
    ]
    return found


def outcomes() -> dict[str, Outcome]:
    found = {key: Outcome(made(key), [], [SHARD]) for key in TRIALS}
    retrieving = found["retrieving"].report
    assert retrieving is not None
    assert retrieving.backend is not None
    retrieving.backend = msgspec.structs.replace(
        retrieving.backend, arrivals=0, served=0, cancelled=0, failed=0, busy_seconds=0.0
    )
    found["retrieving"] = found["retrieving"]._replace(searches=62, cut=60)
    return found


def phase(found: dict[str, Outcome], key: str) -> PhaseReport:
    return whole(found, key).phases[1]


def whole(found: dict[str, Outcome], key: str) -> Report:
    one = found[key].report
    assert one is not None
    return one
