from typing import Any

import msgspec

from benchmarks.load.scenario import Phase, Scenario
from benchmarks.peers.together import together
from benchmarks.report import facts
from benchmarks.report.model import Counts, Ended, Report
from tests.benchmarks.report.reports import bare, report

WHOLE = Scenario(phases=[Phase(name="full", seconds=60, load=1), Phase(name="double", seconds=50, load=2)])


def points() -> list[Report]:
    """Each phase by itself, with the same warm-up before it."""
    return [
        report([("warm-up", 1_000, 0.5, True), (name, requests, load, False)], seed=seed)
        for seed, (name, requests, load) in enumerate([("full", 30_000, 1.0), ("double", 50_000, 2.0)])
    ]


def merge(reports: list[Report], **options: Any) -> Report:
    return together(reports, WHOLE, **{"version": "1.2", "command": ["python", "-m", "x"], **options})


def test_counts_times_and_costs_are_sums() -> None:
    a, b = points()
    whole = merge([a, b])

    for name in Counts.__struct_fields__:
        assert getattr(whole.totals, name) == getattr(a.totals, name) + getattr(b.totals, name)
    assert whole.timings.latency.count == a.timings.latency.count + b.timings.latency.count
    assert whole.seconds == a.seconds + b.seconds
    assert whole.backend
    assert a.backend
    assert b.backend
    for name in ("arrivals", "served", "cancelled", "failed", "busy_seconds", "wasted_seconds"):
        assert getattr(whole.backend, name) == getattr(a.backend, name) + getattr(b.backend, name)
    assert whole.processes.cpu
    assert a.processes.cpu
    assert b.processes.cpu
    assert whole.processes.cpu == a.processes.cpu + b.processes.cpu
    requests = a.totals.offered + b.totals.offered
    assert whole.processes.cpu_per_request
    assert abs(whole.processes.cpu_per_request * requests / whole.processes.cpu - 1) < 1e-9
    assert whole.generator.connections == a.generator.connections + b.generator.connections
    assert whole.accounting.target
    assert a.accounting.target
    assert b.accounting.target
    assert whole.accounting.target[0].target == a.accounting.target[0].target + b.accounting.target[0].target
    assert facts.verdict(whole).level == "sound"


def test_what_the_target_counted_and_what_was_shed_late_are_sums() -> None:
    a, b = points()
    assert a.backend
    assert b.backend
    a.backend.shed_late, b.backend.shed_late = 1, 2
    done = Ended(outcome="completed", stage="stream", reason="done", count=5)
    full = Ended(outcome="shed", stage="ingress", reason="queue_full", count=9)
    a.accounting.ended, b.accounting.ended = [done], [full, done]
    whole = merge([a, b])
    assert whole.backend
    assert whole.backend.shed_late == 3
    assert [(one.outcome, one.reason, one.count) for one in whole.accounting.ended] == [
        ("completed", "done", 10),
        ("shed", "queue_full", 9),
    ]
    b.backend.shed_late = None
    unknown = merge([a, b]).backend
    assert unknown
    assert unknown.shed_late is None


def test_phases_and_time_lines_follow_one_another() -> None:
    a, b = points()
    whole = merge([a, b])
    assert [phase.name for phase in facts.measured(whole)] == ["full", "double"]
    assert whole.phases[2].at == b.phases[0].at + a.seconds
    assert [moment.at for moment in whole.moments] == sorted(moment.at for moment in whole.moments)
    assert [sample.at for sample in whole.processes.samples] == sorted(one.at for one in whole.processes.samples)
    assert whole.scenario["phases"][1]["name"] == "double"
    assert a.phases[0].at == points()[0].phases[0].at, "the points' own reports stay as they are"
    msgspec.json.decode(msgspec.json.encode(whole), type=Report)


def test_what_is_wrong_with_one_is_wrong_with_the_whole() -> None:
    a, b = points()
    assert b.backend
    b.ended, b.notes, b.backend.agrees = "interrupted", ["The generator was late.", "Phase double is short."], False
    b.faults = ["The simulated backend's counts are missing."]
    b.accounting.balanced, b.accounting.problems = False, ["One is missing."]
    whole = merge([a, b], missing=["triple"])
    assert whole.ended == "interrupted"
    assert whole.notes == [
        "Phase double: The generator was late.",
        "Phase double is short.",
        "Phase triple was not measured.",
    ]
    assert whole.faults == ["Phase double: The simulated backend's counts are missing."]
    assert whole.accounting.problems == ["One is missing."]
    assert not whole.accounting.balanced
    assert whole.backend
    assert not whole.backend.agrees
    assert facts.verdict(whole).level == "broken"


def test_a_gateway_that_does_not_say_what_it_is() -> None:
    one = bare()
    one.name, one.target.server = "litellm", "uvicorn"
    whole = merge([one, one])
    assert (whole.target.server, whole.target.version) == ("litellm", "1.2")
    assert whole.backend is None
    assert whole.accounting.target is None
    assert whole.processes.cpu is None
    assert whole.processes.cpu_per_request is None
    assert merge(points()).target.server == "headgate"
    assert merge([one], version="").target.server == "uvicorn"
