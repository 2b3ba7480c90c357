"""Reports that could have come from a run: random, but with figures that hang together."""

import random
from functools import cache
from itertools import accumulate

import msgspec

from benchmarks.histogram import Histogram
from benchmarks.report.model import (
    Account,
    Accounting,
    BackendCounts,
    Capacity,
    Counts,
    Environment,
    Group,
    Lag,
    Moment,
    Oracle,
    Outlived,
    PhaseReport,
    Processes,
    Recovery,
    Refusal,
    Report,
    Sample,
    Sessions,
    SessionWork,
    Target,
    Timings,
)

CAPACITY = 500.0
PLAN = [
    ("warm-up", 4_000, 0.5, True),
    ("half", 16_000, 0.5, False),
    ("full", 30_000, 1.0, False),
    ("double", 50_000, 2.0, False),
]
HOSTILE = (
    "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">\x1b[31m{{7*7}}"
)


def histogram(dice: random.Random, count: int, median: float, spread: float = 0.35) -> Histogram:
    found = Histogram()
    lots = max(count // 1500, 1)
    for _ in range(count // lots):
        found.add(median * dice.lognormvariate(0, spread), lots)
    if count % lots:
        found.add(median, count % lots)
    return found


def timings(dice: random.Random, count: int, median: float, streamed: bool = True) -> Timings:
    return Timings(
        latency=histogram(dice, count, median),
        first_token=histogram(dice, count, median / 3),
        gaps=histogram(dice, count * 15 if streamed else 0, 0.02, 0.2),
    )


def refusal(dice: random.Random, count: int, *, where: str = "door", reason: str = "estimated_wait") -> Refusal:
    door = where == "door"
    return Refusal(
        outcome="shed",
        status=503,
        stage="ingress" if door else "inference",
        reason=reason,
        code="overloaded",
        where=where,
        count=count,
        with_retry_after=count if door else count // 2,
        retry_after=histogram(dice, count if door else count // 2, 1.0),
        latency=histogram(dice, count, 0.0011 if door else 0.45),
    )


def split(counts: Counts, share: float) -> Counts:
    parts = {name: int(getattr(counts, name) * share) for name in Counts.__struct_fields__}
    parts["offered"] = sum(value for name, value in parts.items() if name not in {"offered", "left"})
    return Counts(**parts)


def phase(
    dice: random.Random,
    name: str,
    at: float,
    requests: int,
    load: float,
    *,
    warmup: bool = False,
    arrivals: str = "poisson",
    skill: float = 0.97,
) -> PhaseReport:
    seconds = requests / (load * CAPACITY)
    possible = min(requests, int(CAPACITY * seconds))
    failed, cancelled, rejected = requests // 500, requests // 200, requests // 400
    completed = min(int(possible * skill), requests - failed - cancelled - rejected)
    shed = requests - completed - failed - cancelled - rejected
    counts = Counts(
        offered=requests,
        completed=completed,
        shed=shed,
        failed=failed,
        cancelled=cancelled,
        rejected=rejected,
        left=cancelled // 2,
    )
    late = shed // 20
    entries = [refusal(dice, shed - late)] + ([refusal(dice, late, where="queue", reason="sojourn")] if late else [])
    median = 0.21 if load <= 1 else 0.38
    return PhaseReport(
        name=name,
        arrivals=arrivals,
        at=at,
        seconds=seconds,
        took=seconds + 0.6,
        warmup=warmup,
        rate=load * CAPACITY,
        load=load,
        counts=counts,
        goodput=completed * 0.995 / seconds,
        timings=timings(dice, completed, median),
        attempts=requests + shed // 3,
        retried=shed // 3,
        refusals=[entry for entry in entries if entry.count],
        kinds=[
            Group(name="chat", counts=split(counts, 0.7), timings=timings(dice, int(completed * 0.7), median)),
            Group(name="batch", counts=split(counts, 0.3), timings=timings(dice, int(completed * 0.3), median, False)),
        ],
        classes=[
            Group(name="high", counts=split(counts, 0.2), timings=timings(dice, int(completed * 0.2), median * 0.8)),
            Group(name="normal", counts=split(counts, 0.8), timings=timings(dice, int(completed * 0.8), median)),
        ],
        oracle=Oracle(
            basis="backend",
            slots=100,
            wait_budget=0.5,
            completed=possible,
            refused=requests - possible,
            goodput=possible / seconds,
            share=completed * 0.995 / possible,
            latency=histogram(dice, possible, median * 0.95, 0.2),
        ),
        outlived=Outlived(requests=requests // 300, seconds=requests * 0.0004, share=0.002),
        recoveries=[
            Recovery(at=3.0, what="surge over", within=9.0, goodput=0.4, p50_wanted=0.13, p50=1.2, oracle_p50=0.9),
            Recovery(at=12.0, what="slots 2", within=8.0, goodput=None),
        ],
        sessions=Sessions(
            count=2,
            jain=0.98,
            least=completed // 3,
            most=completed - completed // 3,
            busiest=[
                SessionWork(name="s-1", offered=requests - requests // 4, completed=completed - completed // 3),
                SessionWork(name="s-2", offered=requests // 4, completed=completed // 3),
            ],
        ),
    )


def moments(dice: random.Random, phases: list[PhaseReport], step: float) -> list[Moment]:
    made = []
    for one in phases:
        steps = max(int(one.seconds / step), 1)
        for index in range(steps):
            counts, sway = one.counts, dice.uniform(0.9, 1.1)
            offered, completed = int(counts.offered * sway / steps), int(counts.completed * sway / steps)
            failed, cancelled = int(counts.failed * sway / steps), int(counts.cancelled * sway / steps)
            made.append(
                Moment(
                    at=one.at + index * one.seconds / steps,
                    seconds=one.seconds / steps,
                    offered=offered,
                    completed=completed,
                    shed=max(offered - completed - failed - cancelled, 0),
                    failed=failed,
                    cancelled=cancelled,
                    in_flight=int(completed * 0.3),
                    p50=one.timings.latency.percentile(0.5) if completed else None,
                    p99=(one.timings.latency.percentile(0.99) or 0) * dice.uniform(0.8, 1.2) if completed else None,
                    oracle=int(one.oracle.completed / steps) if one.oracle else None,
                    oracle_p50=one.oracle.latency.percentile(0.5) if one.oracle else None,
                    oracle_p99=one.oracle.latency.percentile(0.99) if one.oracle else None,
                )
            )
    return made


def total(parts: list[Counts]) -> Counts:
    return Counts(**{name: sum(getattr(part, name) for part in parts) for name in Counts.__struct_fields__})


def merged(parts: list[Timings]) -> Timings:
    found = Timings(latency=Histogram(), first_token=Histogram(), gaps=Histogram())
    for part in parts:
        for name in Timings.__struct_fields__:
            getattr(found, name).merge(getattr(part, name))
    return found


def report(
    plan: list[tuple[str, int, float, bool]] | None = None,
    *,
    seed: int = 1,
    name: str = "headgate",
    skill: float = 0.97,
    step: float = 1.0,
) -> Report:
    """`plan`: name, requests, load and whether it is warm-up, for each phase."""
    return msgspec.json.decode(_report(tuple(plan or PLAN), seed, name, skill, step), type=Report)


@cache
def _report(plan: tuple[tuple[str, int, float, bool], ...], seed: int, name: str, skill: float, step: float) -> bytes:
    dice = random.Random(seed)
    lengths = [requests / (load * CAPACITY) for _, requests, load, _ in plan]
    starts = [0.0, *accumulate(length + 1.0 for length in lengths)]
    phases = [
        phase(dice, label, at, requests, load, warmup=warmup, skill=skill)
        for (label, requests, load, warmup), at in zip(plan, starts, strict=False)
    ]
    counted = [one for one in phases if not one.warmup]
    totals = total([one.counts for one in counted])
    seconds = starts[-1]
    everything = total([one.counts for one in phases])
    made = Report(
        name=name,
        scenario_name="overload",
        scenario={"seed": seed, "phases": [{"name": label, "load": load} for label, _, load, _ in plan]},
        command=["headgate", "bench", "overload.toml", "--target", "http://127.0.0.1:8080/v1"],
        seed=seed,
        seconds=seconds,
        ended="done",
        environment=Environment(
            started="2026-03-01T12:00:00Z",
            headgate="0.1.0",
            commit="0123456789ab",
            python="3.11.2",
            libraries={"uvloop": "0.23.0", "httptools": "0.7.1"},
            system="Linux 6.1",
            machine="x86_64",
            cores=2,
            processor="Some Processor at 2.1 GHz",
        ),
        target=Target(
            url="http://127.0.0.1:8080/v1", model="echo", server="headgate", version="0.1.0", ours=True, local=True
        ),
        capacity=Capacity(rate=CAPACITY, how="backend", in_flight=100, steps=[]),
        totals=totals,
        timings=merged([one.timings for one in counted]),
        phases=phases,
        moments=moments(dice, phases, step),
        generator=Lag(
            threshold=0.01,
            lag=histogram(dice, everything.offered, 0.0002),
            behind=[],
            cores=0.61,
            peak_in_flight=412,
            connections=420,
            resent=3,
        ),
        processes=Processes(
            found="port",
            pids=[4242, 4243],
            cpu=seconds * 0.8,
            cpu_per_request=seconds * 0.8 / max(totals.offered, 1),
            peak_resident=180 * 2**20,
            samples=[
                Sample(
                    at=float(at),
                    cores=dice.uniform(0.6, 0.95),
                    resident=(140 + at % 40) * 2**20,
                    processes=2,
                    by_pid={4242: 40 * 2**20, 4243: (100 + at % 40) * 2**20},
                )
                for at in range(int(seconds) + 1)
            ],
        ),
        backend=BackendCounts(
            replicas=2,
            arrivals=everything.completed + everything.cancelled + everything.failed,
            served=everything.completed,
            cancelled=everything.cancelled,
            failed=everything.failed,
            refused=0,
            left_running=0,
            busy_seconds=everything.completed * 0.2,
            wasted_seconds=everything.offered * 0.0004,
            agrees=True,
            problems=[],
        ),
        accounting=Accounting(
            balanced=True,
            target=[
                Account(outcome=outcome, client=value, least=value, most=value + 2, target=value + 1, agrees=True)
                for outcome in ("completed", "shed", "rejected", "expired", "failed", "cancelled")
                if (value := getattr(everything, outcome)) is not None
            ],
            problems=[],
        ),
        notes=[],
    )
    return msgspec.json.encode(made)


def small() -> Report:
    """Ten requests in one phase."""
    return report([("only", 10, 0.5, False)], step=0.005)


def bare() -> Report:
    """Everything that may be missing is: a target that is not ours, far away, of unknown capacity, without streams."""
    made = report([("only", 2_000, 1.0, False)])
    made.capacity = made.backend = made.accounting.target = None
    made.target.ours = made.target.local = False
    made.target.server = made.target.version = ""
    made.timings.gaps = Histogram()
    made.processes = Processes(
        found="the target is on another machine",
        pids=[],
        cpu=None,
        cpu_per_request=None,
        peak_resident=None,
        samples=[],
    )
    for one in made.phases:
        one.oracle = one.outlived = one.load = None
        one.timings.gaps = Histogram()
        one.kinds, one.classes, one.refusals = [], [], []
        one.recoveries, one.sessions = [], None
    for moment in made.moments:
        moment.oracle = moment.oracle_p50 = moment.oracle_p99 = None
    return made


def interrupted() -> Report:
    """Stopped before the first request."""
    made = bare()
    made.ended, made.seconds = "interrupted", 0.2
    made.totals, made.phases, made.moments = Counts(), [], []
    made.timings = Timings(latency=Histogram(), first_token=Histogram(), gaps=Histogram())
    made.generator.lag = Histogram()
    return made


def hostile() -> Report:
    """Every text that a target or a scenario's author can choose is an attack on the page or on the terminal."""
    made = report([(HOSTILE[:40], 2_000, 2.0, False), ("<b>bold</b>\u202e\x1b[2J", 2_000, 1.0, False)])
    for field in ("url", "model", "server", "version"):
        setattr(made.target, field, HOSTILE)
    made.name = made.scenario_name = HOSTILE
    made.scenario = {"description": HOSTILE, HOSTILE: [HOSTILE]}
    made.command = ["headgate", "bench", HOSTILE]
    made.notes = [HOSTILE]
    made.processes.found = made.environment.processor = HOSTILE
    for one in made.phases:
        for entry in one.refusals:
            entry.reason = entry.code = entry.stage = HOSTILE
        for group in (*one.kinds, *one.classes):
            group.name = HOSTILE + group.name
        assert one.sessions
        for work in one.sessions.busiest:
            work.name = HOSTILE
        for recovery in one.recoveries:
            recovery.what = HOSTILE
    return made


def troubled() -> Report:
    """What a bad run looks like: nothing adds up, the generator was late, the target leaks."""
    made = report()
    made.notes = ["The generator fell behind twice, by up to 340 ms: the offered load was less than asked."]
    made.generator.behind = [(35.0, 36.5, 0.34), (100.0, 101.2, 0.08)]
    made.accounting.balanced = False
    made.accounting.problems = ["The target counts 12 completed requests fewer than the client received."]
    made.accounting.target = made.accounting.target or []
    made.accounting.target[0].agrees = False
    assert made.backend
    made.backend.agrees = False
    made.backend.left_running = 310
    made.backend.problems = ["310 requests still ran at the backend when the run was over."]
    return made


def crowded() -> Report:
    """Forty phases, and refusals of sixty kinds in each."""
    made = report([(f"step {index} of the long staircase", 100 + index, 0.1 * index, False) for index in range(1, 41)])
    dice = random.Random(2)
    for one in made.phases:
        one.refusals = [refusal(dice, 3, reason=f"reason_{index}") for index in range(60)]
    made.notes = [
        f"Note {index}: something that the reader has to know before believing the figures." for index in range(9)
    ]
    return made
