import math
from pathlib import Path

import plotly.graph_objects
import pytest

from benchmarks.histogram import Histogram
from benchmarks.report import charts, plots, timeline
from benchmarks.report.model import Moment
from benchmarks.report.parts import Absent, Chart
from tests.benchmarks.report import reports

MAKERS = [
    charts.outcomes_over_time,
    charts.latency_over_time,
    charts.over_load,
    charts.distribution,
    charts.latency_by_phase,
    charts.cores_over_time,
    charts.memory_over_time,
]


def painted(node, key=""):
    if isinstance(node, str):
        return "#123456" if key.endswith("color") and node.startswith("--") else node
    if isinstance(node, list):
        return [painted(inner, key) for inner in node]
    return {name: painted(inner, name) for name, inner in node.items()} if isinstance(node, dict) else node


@pytest.mark.slow  # plotly's own classes take a second to load
@pytest.mark.parametrize("make", [reports.small, reports.report, reports.hostile, reports.troubled, reports.crowded])
def test_plotly_knows_every_property(make):
    report = make()
    for chart in (maker(report) for maker in MAKERS):
        if isinstance(chart, Chart):
            plotly.graph_objects.Figure(painted(chart.figure))


@pytest.mark.parametrize("maker", MAKERS)
def test_a_chart_says_in_words_and_in_figures_what_it_shows(maker):
    chart = maker(reports.report())
    assert isinstance(chart, Chart)
    assert len(chart.description) > 30
    assert chart.table.rows
    assert all(len(row) == len(chart.table.columns) for row in chart.table.rows)


@pytest.mark.parametrize("maker", MAKERS)
def test_without_figures_it_says_why(maker):
    chart = maker(reports.interrupted())
    assert chart is None or (isinstance(chart, Absent) and chart.why)


def test_the_same_outcome_has_the_same_colour_everywhere():
    report = reports.report()
    over_time, over_load = charts.outcomes_over_time(report), charts.over_load(report)
    colours = {trace["name"]: trace["marker"]["color"] for trace in over_time.figure["data"] if "marker" in trace}
    assert colours["completed"] == "--completed"
    assert colours["shed"] == "--shed"
    lines = {trace["name"]: trace["line"]["color"] for trace in over_load.figure["data"]}
    assert lines["goodput"] == "--completed"
    assert lines["shed"] == "--shed"
    assert lines["oracle's goodput"] == "--oracle"


def test_every_colour_is_defined_for_both_themes():
    style = Path(plots.__file__).parent / "templates" / "page.css"
    light, dark = style.read_text().split("@media (prefers-color-scheme: dark)")[:2]
    names = {
        *plots.SERIES,
        *(color for color, _ in plots.OUTCOMES.values()),
        "--oracle",
        "--offered",
        "--card",
        "--ink",
    }
    names |= {"--grid", "--axis", "--quiet"}
    for name in names:
        assert f"{name}:" in light
        assert f"{name}:" in dark


def test_goodput_over_load_needs_two_loads():
    assert isinstance(charts.over_load(reports.small()), Absent)
    chart = charts.over_load(reports.report())
    goodput = chart.figure["data"][0]
    assert goodput["x"] == [250.0, 500.0, 1000.0]
    phases = reports.report().phases[1:]
    assert goodput["y"] == pytest.approx([phase.goodput for phase in phases], rel=1e-4)


def test_a_ramp_gives_a_point_for_each_of_its_moments():
    report = reports.report([("up", 20_000, 2.0, False)])
    report.phases[0].arrivals = "ramp"
    chart = charts.over_load(report)
    assert isinstance(chart, Chart)
    assert len(chart.figure["data"][0]["x"]) == len(report.moments) == 20


def test_where_the_generator_was_behind_is_marked():
    report = reports.troubled()
    chart = charts.outcomes_over_time(report)
    bands = [shape for shape in chart.figure["layout"]["shapes"] if shape.get("fillcolor") == "--failed"]
    assert [(band["x0"], band["x1"]) for band in bands] == [(35.0, 36.5), (100.0, 101.2)]
    assert "Red: the generator was behind." in chart.description


def moment(at, **figures):
    return Moment(at=at, seconds=1.0, **figures)


def test_merged_moments_lose_no_request_and_keep_the_worst():
    moments = [moment(float(i), offered=i, completed=i, p50=0.1 * i, p99=1.0 * i, oracle=1) for i in range(1, 11)]
    moments[4].p99 = None
    moments[7].oracle_p50 = 0.7
    few = timeline.thinned(moments, 3)
    assert len(few) == 3
    assert sum(one.offered for one in few) == 55
    assert sum(one.seconds for one in few) == 10
    assert sum(one.oracle or 0 for one in few) == 10
    assert [one.p99 for one in few] == [3.0, 7.0, 10.0]
    assert [one.oracle_p50 for one in few] == [None, None, 0.7]
    assert timeline.thinned(moments, 10) == moments


def test_steps_break_where_nothing_was_measured():
    x, y = timeline.steps([moment(0.0, offered=4), moment(1.0, offered=6), moment(5.0, offered=2)], lambda m: m.offered)
    assert x == [0.0, 0.5, 1.5, 2.0, None, 5.0, 5.5, 6.0, None]
    assert y == [4.0, 4.0, 6.0, 6.0, None, 2.0, 2.0, 2.0, None]


def test_a_percentile_curve_ends_where_its_count_ends():
    found = Histogram()
    for value in range(1, 11):
        found.add(value / 10)
    curve = plots.curve("ten", found, "--completed")
    assert max(curve["x"]) <= 1.0  # one nine: ten values have a p90 and no p99
    assert curve["y"][-1] == pytest.approx(0.9, rel=0.01)
    one = Histogram()
    one.add(0.5)
    assert plots.curve("one", one, "--completed")["mode"] == "markers"


@pytest.mark.parametrize(("least", "most"), [(1e-6, 100.0), (0.2, 0.21), (0.0003, 0.04), (5.0, 5.0)])
def test_an_axis_of_durations_has_marks_that_can_be_read(least, most):
    axis = plots.duration_axis([least, None, most], "t")
    assert 1 <= len(axis["tickvals"]) <= 12 or math.isclose(least, most)
    assert all(text.endswith(("s", "ms", "µs")) for text in axis["ticktext"])
    assert 10 ** axis["range"][0] < least <= most < 10 ** axis["range"][1]
