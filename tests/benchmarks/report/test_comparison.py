import io
import json

import pytest
from bs4 import BeautifulSoup
from plotly.offline import get_plotlyjs
from rich.console import Console

from benchmarks.report.ablation import line_of
from benchmarks.report.compare import comparison, comparison_terminal
from tests.benchmarks.report import reports

PLOTLY = get_plotlyjs()
MISSING = [("LiteLLM", "its package <could> not be installed")]


def run(name, scenario="overload", **options):
    made = reports.report(name=name, **options)
    made.scenario_name = scenario
    return made


def parsed(*arguments):
    return BeautifulSoup(comparison(*arguments).replace(PLOTLY, ""), "html.parser")


def tables(soup):
    return {
        table.caption.text: {
            row.th.text: [cell.text for cell in row.find_all("td")] for row in table.tbody.find_all("tr")
        }
        for table in soup.find_all("table")
    }


def test_gateways_stand_side_by_side_for_each_scenario_and_phase():
    soup = parsed([run("ours"), run("theirs", skill=0.3), run("ours", "leaving")], [], [])
    assert [heading.text for heading in soup.find_all("h2")] == ["overload", "leaving", "Step by step"]
    double = tables(soup)["double: 1,000/s offered, 2.00 × capacity"]
    assert list(double) == ["ours"]  # the last of that caption: scenario leaving
    first = next(table for table in soup.find_all("table") if table.caption.text.startswith("double"))
    names = [row.th.text for row in first.tbody.find_all("tr")]
    assert names == ["ours", "theirs"]
    goodput = [float(row.find_all("td")[1].data["value"]) for row in first.tbody.find_all("tr")]
    assert goodput == [run("ours").phases[-1].goodput, run("theirs", skill=0.3).phases[-1].goodput]


def test_who_is_missing_is_named_with_the_reason():
    soup = parsed([run("ours")], MISSING, [])
    assert tables(soup)["Not measured"] == {"LiteLLM": ["its package <could> not be installed"]}
    assert "LiteLLM was not measured" in soup.select_one(".verdict").text


def test_a_gateway_without_a_phase_has_its_line_and_no_figures():
    short = run("short")
    short.phases.pop()
    soup = parsed([run("ours"), short], [], [])
    assert set(tables(soup)["double: 1,000/s offered, 2.00 × capacity"]["short"]) == {"–"}


def test_two_runs_of_one_gateway_are_told_apart():
    soup = parsed([run("ours"), run("ours", seed=2)], [], [])
    assert list(tables(soup)["Whole runs"]) == ["ours", "ours (2)"]
    assert "overload: the runs have different seeds." in soup.select_one(".verdict").text


def test_a_run_that_does_not_add_up_is_named():
    bad = run("bad")
    bad.accounting.balanced = False
    soup = parsed([run("ours"), bad], [], [])
    assert "overload, bad: Do not rely on this run" in soup.select_one(".verdict").text
    assert tables(soup)["Whole runs"]["bad"][-1] == "broken"


def test_the_ablation_table_shows_each_step_beside_the_one_before():
    lines = [line_of(run("a", skill=0.4), "queues", "bounded queues"), line_of(run("a", skill=0.8), "wait", "a budget")]
    soup = parsed([], [], lines)
    table = next(table for table in soup.find_all("table") if table.caption.text == "What each step brought")
    rows = [[cell.text for cell in row.find_all(["th", "td"])] for row in table.tbody.find_all("tr")]
    assert [row[0] for row in rows] == ["queues"] * 3 + ["wait"] * 3
    assert [row[7] for row in rows] == ["–"] * 3 + ["2.00 ×"] * 3


def test_nothing_measured_at_all():
    assert "Nothing was measured." in parsed([], [], []).text


@pytest.mark.parametrize("make", [reports.hostile, reports.bare, reports.crowded, reports.interrupted])
def test_any_report_can_be_among_them(make):
    soup = parsed([make(), run("ours")], [(reports.HOSTILE, reports.HOSTILE)], [])
    assert not soup.find_all(["img", "b"])
    assert len(soup.find_all("script")) == 3
    for figure in json.loads(soup.find("script", id="figures").text):
        for trace in figure["data"]:
            assert not any("<" in str(label) for label in [trace["name"], *trace["x"]])


def test_the_terminal_shows_a_line_for_each_gateway_and_phase():
    out = io.StringIO()
    comparison_terminal([run("ours"), run("theirs", skill=0.3)], MISSING, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert [line.split()[:3] for line in lines[2:8]] == [
        ["half", "ours", "241/s"],
        ["half", "theirs", "74.6/s"],
        ["full", "ours", "483/s"],
        ["full", "theirs", "149/s"],
        ["double", "ours", "483/s"],
        ["double", "theirs", "149/s"],
    ]
    assert "LiteLLM: not measured: its package <could> not be installed" in lines
    assert max(map(len, lines)) <= 80
