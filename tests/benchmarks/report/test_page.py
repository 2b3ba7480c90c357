import base64
import hashlib
import json
import re
import sys
import time
from functools import cache

import pytest
from bs4 import BeautifulSoup
from plotly.offline import get_plotlyjs

from benchmarks.report import page, render
from benchmarks.report.errors import CannotWrite, NeedsPlotly
from benchmarks.report.page import html, write_html
from tests.benchmarks.report import reports

PLOTLY = get_plotlyjs()
ALL = [
    reports.small,
    reports.bare,
    reports.interrupted,
    reports.report,
    reports.hostile,
    reports.troubled,
    reports.crowded,
]


@cache
def shown(make):
    return html(make())


@cache
def parsed(text):
    return BeautifulSoup(text.replace(PLOTLY, ""), "html.parser")


def table(soup, caption):
    found = next(table for table in soup.find_all("table") if table.caption.text.startswith(caption))
    columns = [cell.text for cell in found.thead.find_all("th")]
    rows = [row.find_all(["th", "td"]) for row in found.tbody.find_all("tr")]
    assert all(len(row) == len(columns) for row in rows)
    return columns, rows


def exact(cell):
    return float(cell.data["value"]) if cell.data else None


@pytest.mark.parametrize("make", ALL)
def test_nothing_is_fetched_from_anywhere(make):
    soup = parsed(shown(make))
    for element in soup.find_all(True):
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert str(element.get(name, "#")).startswith("#")
    assert not soup.find_all(["link", "img", "iframe", "object", "embed", "base"])
    style = "".join(element.text for element in soup.find_all("style"))
    assert "url(" not in style
    assert "@import" not in style
    policy = soup.find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")


@pytest.mark.parametrize("make", ALL)
def test_the_policy_allows_exactly_the_scripts_of_the_page(make):
    text = shown(make)
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    hashes = {base64.b64encode(hashlib.sha256(one.encode()).digest()).decode() for one in scripts}
    policy = parsed(text).find("meta", {"http-equiv": "Content-Security-Policy"})["content"]
    assert hashes <= set(re.findall(r"'sha256-([^']+)'", policy))
    assert text.count("<script") == len(scripts) + 1  # and the figures, which are no program


@pytest.mark.parametrize("make", ALL)
def test_structure(make):
    text = shown(make)
    soup = parsed(text)
    ids = [element["id"] for element in soup.find_all(id=True)]
    assert len(ids) == len(set(ids))
    for link in soup.find_all("a"):
        assert link["href"].removeprefix("#") in ids
    figures = json.loads(soup.find("script", id="figures").text)
    assert [f"chart-{figure['id']}" for figure in figures] == [one["id"] for one in soup.select(".plot")]
    for chart in soup.select(".plot"):
        words = soup.find(id=chart["aria-describedby"])
        assert len(words.text) > 30
        assert soup.find(id=chart["aria-labelledby"]).text
        assert chart.find_parent("figure").find("table")
    assert len(soup.find_all("h1")) == 1
    assert "nan" not in text.replace(PLOTLY, "").lower().split()


@pytest.mark.parametrize("make", [reports.small, reports.report, reports.crowded])
def test_the_tables_of_phases_say_what_the_report_says(make):
    made = make()
    soup = parsed(html(made))
    columns, rows = table(soup, "Load and outcome by phase")
    for phase, row in zip(made.phases, rows, strict=True):
        cell = dict(zip(columns, row, strict=True))
        assert cell["phase"].text == phase.name
        assert exact(cell["offered"]) == phase.counts.offered / phase.seconds
        assert exact(cell["goodput"]) == phase.goodput
        assert exact(cell["of the oracle's"]) == phase.oracle.share
        for name in ("completed", "shed", "rejected", "expired", "failed", "cancelled"):
            assert exact(cell[name]) == getattr(phase.counts, name)
            assert cell[name].text == f"{getattr(phase.counts, name):,}"
    columns, rows = table(soup, "Times of completed requests by phase")
    for phase, row in zip(made.phases, rows, strict=True):
        assert exact(row[1]) == phase.timings.latency.percentile(0.5)
        assert exact(row[2]) == phase.timings.latency.percentile(0.99)
        assert exact(row[3]) == phase.timings.latency.percentile(0.999)
        assert exact(row[5]) == phase.timings.first_token.percentile(0.5)
        assert exact(row[8]) == phase.timings.gaps.percentile(0.99)


def test_refusals_at_the_door_and_after_queueing_stand_apart():
    made = reports.report()
    soup = parsed(html(made))
    for caption, index in (("Refused at the door", 0), ("Refused after queueing", 1)):
        columns, rows = table(soup, caption)
        cell = dict(zip(columns, rows[0], strict=True))
        entries = [phase.refusals[index] for phase in made.phases]
        assert exact(cell["count"]) == sum(entry.count for entry in entries)
        assert cell["reason"].text == entries[0].reason
        share = sum(entry.with_retry_after for entry in entries) / sum(entry.count for entry in entries)
        assert exact(cell["with Retry-After"]) == share


def test_the_tiles_show_the_hardest_phase():
    made = reports.report()
    soup = parsed(html(made))
    hard = made.phases[-1]
    tiles = {tile.dt.text: tile.find(class_="figure") for tile in soup.select(".tiles > div")}
    assert exact(tiles["Goodput"]) == hard.goodput
    assert exact(tiles["Of what was possible"]) == hard.oracle.share
    assert exact(tiles["Latency of completed, p99"]) == hard.timings.latency.percentile(0.99)
    assert exact(tiles["Refusal at the door, p99"]) == hard.refusals[0].latency.percentile(0.99)
    assert tiles["Accounting"].text == "adds up"


def test_a_broken_run_says_so_before_any_figure():
    text = html(reports.troubled()).replace(PLOTLY, "")
    banner = text.index("Do not rely on this run")
    assert banner < text.index("The target counts 12 completed requests fewer") < text.index('class="tiles"')
    assert "BROKEN" in text
    soup = parsed(text)
    assert table(soup, "Client and target")[1][0][-1].text == "NO"
    assert table(soup, "Stretches in which the generator was behind")[1][0][2].text == "340 ms"


def test_what_the_report_does_not_have_is_said_and_not_drawn():
    soup = parsed(shown(reports.bare))
    absent = {one.strong.text: one.text for one in soup.select(".absent")}
    assert "the target is on another machine" in absent["CPU and memory"]
    assert "not the simulated one" in absent["The backend's own count"]
    assert "no metrics" in absent["Client and target"]
    assert "one load only" in absent["Goodput over load"]
    assert "Nothing was refused" in absent["Refusals"]
    assert not soup.find(id="chart-cores")
    assert "the capacity is not known" in soup.select_one(".tiles").text
    names = [trace["name"] for figure in json.loads(soup.find("script", id="figures").text) for trace in figure["data"]]
    assert not [name for name in names if "oracle" in name or "gap" in name]


def test_an_empty_run_has_a_page_without_plotly():
    text = shown(reports.interrupted)
    assert len(text) < 30_000
    assert "Nothing was measured: no request was offered." in text
    assert "there is nothing to show" in text


def test_hostile_text_stays_text():
    text = shown(reports.hostile)
    soup = parsed(text)
    assert len(soup.find_all("script")) == 3
    assert not soup.find_all("img")
    assert not soup.find_all("b")
    assert "{{7*7}}" in soup.text
    assert "\x1b" not in text.replace(PLOTLY, "")
    data = soup.find("script", id="figures").text
    assert "<" not in data
    figures = json.loads(data)
    spans = figures[0]["layout"]["meta"]["spans"]
    assert spans[0][0].startswith("</script><script>")  # page.js escapes these when it has cut them
    names = [trace["name"] for figure in figures for trace in figure["data"]]
    assert any("&lt;/script&gt;" in name for name in names)  # plotly takes labels for a kind of HTML
    assert not any("<" in name for name in names)


def test_json_in_a_script_cannot_end_it():
    value = {"</script>": ["<!--", "&amp;", "\u2028"]}
    text = render.embedded(value)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == value


def test_the_weight_of_a_page_and_the_time_it_takes():
    made = reports.report()
    html(made)  # plotly is read once
    started = time.process_time()
    text = html(made)
    assert time.process_time() - started < 2
    assert len(text.encode()) - len(PLOTLY.encode()) < 500_000
    assert text.count(PLOTLY) == 1


def test_a_page_of_a_thousand_phases_is_bounded():
    plan = [(f"p{index}", 20, 0.01 * (index + 1), False) for index in range(1000)]
    made = reports.report(plan, step=0.1)
    made.scenario = {"phases": [{"name": "x" * 100} for _ in range(5000)]}
    text = html(made)
    assert len(text.encode()) - len(PLOTLY.encode()) < 500_000
    assert "900 phases of lower load are left out" in text
    assert "cut here" in text


def test_without_plotly_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    render._plotly.cache_clear()
    with pytest.raises(NeedsPlotly, match=re.escape("pip install 'headgate[bench]'")):
        html(reports.small())


def test_written_to_a_file(tmp_path):
    write_html(reports.small(), tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == html(reports.small())
    with pytest.raises(CannotWrite):
        page.write_html(reports.small(), tmp_path / "missing" / "page.html")
