"""Each line of the table can be met, and can be missed."""

from collections.abc import Callable

import pytest

from benchmarks.histogram import Histogram
from benchmarks.overload.lasting import growth, memory
from benchmarks.overload.lines import Line
from benchmarks.overload.rows import ROWS, accounted
from benchmarks.overload.trial import Outcome
from benchmarks.overload.trials import TRIALS
from benchmarks.report.model import Ended, Oracle, Report, Sample
from benchmarks.report.model import Sessions as Served
from tests.benchmarks.overload.reports import SHARD, outcomes, phase, spread, whole

Outcomes = dict[str, Outcome]


def lines(found: Outcomes, row: str) -> list[Line]:
    return list(ROWS[row].judge(ROWS[row], found))


def oracle(found: Outcomes, key: str) -> Oracle:
    it = phase(found, key).oracle
    assert it is not None
    return it


def sessions(found: Outcomes) -> Served:
    it = phase(found, "fairness").sessions
    assert it is not None
    return it


def refused(found: Outcomes, key: str, where: str, *seconds: float) -> None:
    for entry in phase(found, key).refusals:
        if entry.where == where:
            entry.latency = spread(*seconds)


def slow_shed(found: Outcomes) -> None:
    whole(found, "surge").accounting.ended = [Ended(outcome="shed", stage="stream", reason="displaced", count=1)]


def backend_had(found: Outcomes) -> None:
    it = whole(found, "2x").backend
    assert it is not None
    it.shed_late = 3


def left_running(found: Outcomes) -> None:
    it = whole(found, "queued").backend
    assert it is not None
    it.left_running = 1


def called(found: Outcomes) -> None:
    it = whole(found, "retrieving").backend
    assert it is not None
    it.arrivals = 1


def calls_end(found: Outcomes, key: str, seconds: float) -> None:
    it = phase(found, key).outlived
    assert it is not None
    it.ended_after = spread(0.01, seconds)


def grows(found: Outcomes) -> None:
    whole(found, "endurance").processes.samples = [
        Sample(at=float(at), cores=0.5, resident=90, processes=2, by_pid={1: 90, SHARD: 600 + at})
        for at in range(1, 71)
    ]


def test_all_of_them_can_be_met():
    found = outcomes()
    every = [line for row in ROWS for line in lines(found, row)]
    assert [line for line in every if not line.met] == []
    assert len(every) >= 20
    assert {line.row for line in every} == ROWS.keys() - {"cpu"}
    assert all(line.value is not None for line in every)
    assert accounted(found).met


# what is spoilt; the row; how many of its lines are missed; what the first of these shows
SPOILT: list[tuple[Callable[[Outcomes], object], str, int, str]] = [
    (lambda found: setattr(oracle(found, "10x"), "share", 0.949), "goodput", 1, "0.949"),
    (lambda found: setattr(oracle(found, "2x"), "share", 0.96), "goodput", 1, "0.960"),
    (lambda found: setattr(phase(found, "2x"), "oracle", None), "goodput", 1, "not measured"),
    (lambda found: setattr(phase(found, "2x").timings, "latency", spread(0.4, 0.8)), "latency", 2, "401 ms"),
    (lambda found: setattr(phase(found, "classes").classes[0].counts, "completed", 98), "class", 1, "98.0 %"),
    (lambda found: setattr(phase(found, "classes"), "classes", []), "class", 1, "not measured"),
    (lambda found: refused(found, "10x", "door", 0.012), "door", 1, "12.0 ms"),
    (lambda found: refused(found, "classes", "queue", 0.3, 0.61), "queue", 1, "610 ms"),
    (lambda found: setattr(sessions(found), "jain", 0.94), "fairness", 1, "0.940"),
    (lambda found: setattr(phase(found, "surge").recoveries[0], "p50", 2.2), "surge", 1, "2.20 s"),
    (lambda found: setattr(phase(found, "surge").recoveries[0], "p50", None), "surge", 1, "not within 20.0 s"),
    (lambda found: setattr(phase(found, "surge"), "recoveries", []), "surge", 1, "not measured"),
    (lambda found: setattr(phase(found, "slots").recoveries[0], "goodput", 3.2), "capacity", 1, "3.20 s"),
    (lambda found: setattr(phase(found, "slower").recoveries[1], "goodput", None), "capacity", 1, "not within 20.0 s"),
    (lambda found: phase(found, "slower").recoveries.clear(), "capacity", 2, "not measured"),
    (lambda found: setattr(phase(found, "impatient").recoveries[0], "p50", 5.2), "retries", 1, "5.20 s"),
    (
        lambda found: setattr(phase(found, "impatient").recoveries[0], "goodput", None),
        "retries",
        1,
        "not within 20.0 s",
    ),
    (lambda found: calls_end(found, "working", 0.11), "leavers", 1, "110 ms"),
    (lambda found: setattr(phase(found, "queued").counts, "left", 0), "leavers", 1, "not measured"),
    (called, "leavers", 1, "1"),
    (left_running, "leavers", 1, "1"),
    (lambda found: setattr(whole(found, "retrieving").totals, "left", 0), "leavers", 1, "not measured"),
    (slow_shed, "late", 1, "1"),
    (backend_had, "late", 1, "3"),
    (grows, "memory", 1, "+9.2 %"),
]


@pytest.mark.parametrize(("spoil", "row", "missed", "shown"), SPOILT)
def test_each_of_them_can_be_missed(spoil: Callable[[Outcomes], object], row: str, missed: int, shown: str):
    found = outcomes()
    spoil(found)
    wrong = [line for line in lines(found, row) if not line.met]
    assert len(wrong) == missed
    assert wrong[0].measured == shown


@pytest.mark.parametrize("row", sorted(ROWS.keys() - {"cpu"}))
def test_what_was_not_measured_is_missed(row: str):
    nothing = lines({}, row)
    assert nothing
    assert not any(line.met for line in nothing)
    found = outcomes()
    for key in ROWS[row].trials:
        found[key] = Outcome(None, ["the generator ended with status 1"], [])
    assert not any(line.met for line in lines(found, row))
    assert not accounted(found).met


def test_all_rows_know_their_trials():
    assert {key for row in ROWS.values() for key in row.trials} == TRIALS.keys()


def test_a_surge_that_the_oracle_hardly_felt_allows_a_window():
    found = outcomes()
    phase(found, "surge").recoveries[0].oracle_p50 = 0.0
    phase(found, "surge").recoveries[0].p50 = 1.5
    (line,) = lines(found, "surge")
    assert line.met
    phase(found, "surge").recoveries[0].p50 = 1.6
    assert not lines(found, "surge")[0].met


def test_nobody_refused_after_queueing_is_as_good_as_it_gets():
    found = outcomes()
    for key in ROWS["queue"].trials:
        phase(found, key).refusals = []
    (line,) = lines(found, "queue")
    assert (line.met, line.measured) == (True, "none")


def test_runs_that_do_not_add_up_are_told():
    found = outcomes()
    broken: Report = whole(found, "2x")
    broken.accounting.problems = ["3 requests were still open at the target after the last answer."]
    line = accounted(found)
    assert not line.met
    assert line.measured == "not in 2x"


def test_memory_is_that_of_the_shards_alone():
    it = outcomes()["endurance"]
    assert memory(it)[0] == (1.0, 60.0)
    assert memory(it._replace(shards=[])) == []
    assert memory(it._replace(shards=[SHARD, 1]))[0] == (1.0, 90.0)


def test_growth_is_looked_at_after_things_have_settled():
    settling = [(float(at), 100.0 if at >= 10 else 10.0 * at) for at in range(1, 71)]
    assert growth(settling) == 0.0
    assert growth([(at, resident + at) for at, resident in settling]) == pytest.approx(55 / 112, abs=0.01)
    assert growth(settling[:10]) is None
    assert growth([]) is None


def test_a_histogram_without_anything_is_not_within_a_limit():
    found = outcomes()
    phase(found, "2x").timings.latency = Histogram()
    assert [line.measured for line in lines(found, "latency")[:2]] == ["not measured"] * 2
