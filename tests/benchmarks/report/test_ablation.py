import statistics

import pytest

from benchmarks.report.ablation import PATH, line_of, read_ablation, record
from benchmarks.report.errors import CannotRead
from tests.benchmarks.report import reports


def test_a_line_holds_what_was_measured():
    made = reports.report()
    line = line_of(made, "wait", "admission by estimated wait")
    assert (line.commit, line.date) == ("0123456789ab", "2026-03-01T12:00:00Z")
    assert line.command == "headgate bench overload.toml --target http://127.0.0.1:8080/v1"
    assert [phase.name for phase in line.phases] == ["half", "full", "double"]
    assert line.phases[2].goodput == made.phases[3].goodput
    assert line.phases[2].p99 == made.phases[3].timings.latency.percentile(0.99)


def test_of_several_runs_the_median_is_taken():
    runs = [reports.report(seed=seed, skill=skill) for seed, skill in ((1, 0.9), (2, 0.5), (3, 0.8))]
    phase = line_of(runs, "wait", "").phases[0]
    assert phase.runs == 3
    assert phase.goodput == statistics.median(run.phases[1].goodput for run in runs)
    runs[1].phases[1].oracle = None
    assert line_of(runs, "wait", "").phases[0].share == pytest.approx(
        statistics.median([runs[0].phases[1].oracle.share, runs[2].phases[1].oracle.share])
    )


def test_runs_of_two_commits_are_no_line():
    other = reports.report()
    other.environment.commit = "fedcba"
    with pytest.raises(ValueError, match="different commits: 0123456789ab, fedcba"):
        line_of([reports.report(), other], "wait", "")
    with pytest.raises(ValueError, match="no report"):
        line_of([], "wait", "")


def test_lines_are_kept_in_order_and_replaced_by_name(tmp_path):
    path = tmp_path / "ablation.json"
    first, second = (line_of(reports.report(skill=skill), name, "") for name, skill in (("a", 0.4), ("b", 0.8)))
    record(first, path)
    record(second, path)
    assert read_ablation(path) == [first, second]
    again = line_of(reports.report(skill=0.5), "a", "measured again")
    record(again, path)
    assert read_ablation(path) == [again, second]


def test_a_file_that_holds_no_lines_is_named_and_not_overwritten(tmp_path):
    path = tmp_path / "ablation.json"
    path.write_text('[{"name": 5}]')
    with pytest.raises(CannotRead, match=r"ablation\.json"):
        record(line_of(reports.small(), "a", ""), path)
    assert path.read_text() == '[{"name": 5}]'
    with pytest.raises(CannotRead, match="no such file"):
        read_ablation(tmp_path / "missing.json")


def test_the_project_s_own_file_can_be_read():
    assert isinstance(read_ablation(PATH), list)
