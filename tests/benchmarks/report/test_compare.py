import io

import pytest
from bs4 import BeautifulSoup
from plotly.offline import get_plotlyjs
from rich.console import Console

from benchmarks.report.compare import compare_html, compare_terminal, differences
from benchmarks.report.metrics import judged
from tests.benchmarks.report import reports

PLOTLY = get_plotlyjs()


def shown(a, b, width=100):
    out = io.StringIO()
    compare_terminal(a, b, Console(file=out, width=width))
    return out.getvalue()


def rows(a, b, caption):
    soup = BeautifulSoup(compare_html(a, b).replace(PLOTLY, ""), "html.parser")
    table = next(table for table in soup.find_all("table") if table.caption.text.startswith(caption))
    return {row.th.text: [cell.text for cell in row.find_all("td")] for row in table.tbody.find_all("tr")}


@pytest.mark.parametrize(
    ("a", "b", "better", "text"),
    [
        (100.0, 110.0, "more", "▲ better"),
        (100.0, 90.0, "more", "▼ worse"),
        (0.5, 0.4, "less", "▲ better"),
        (0.5, 0.6, "less", "▼ worse"),
        (100.0, 102.9, "more", "same"),
        (0.0, 0.0, "less", "same"),
        (0.0, 0.2, "less", "▼ worse"),
        (None, 1.0, "less", ""),
        (1.0, 5.0, None, ""),
    ],
)
def test_better_and_worse_are_words(a, b, better, text):
    assert judged(a, b, better).text == text


def test_a_run_beside_itself_differs_in_nothing():
    made = reports.report()
    assert differences(made, made) == []
    assert "▲" not in shown(made, made)
    assert "▼" not in shown(made, made)
    assert "The same scenario, seed and place." in compare_html(made, made)


def test_phases_are_matched_by_name_and_have_ratios():
    a, b = reports.report(), reports.report(skill=0.8)
    b.phases.reverse()
    found = rows(a, b, "double")
    goodput = [next(phase for phase in made.phases if phase.name == "double").goodput for made in (a, b)]
    assert found["goodput"] == [
        f"{goodput[0]:.0f}/s",
        f"{goodput[1]:.0f}/s",
        f"{goodput[1] / goodput[0]:.2f} ×",
        "▼ worse",
    ]
    assert found["offered"][2:] == ["1.00 ×", ""]


def test_what_else_differs_is_said():
    a, b = reports.report(), reports.report([("half", 16_000, 0.5, False), ("triple", 9_000, 3.0, False)], seed=2)
    b.environment.python = "3.13.0"
    b.environment.commit = "fedcba"
    b.notes = ["The generator fell behind."]
    reasons = differences(a, b)
    assert reasons[0] == "B is not sound: The generator fell behind."
    assert "The seeds differ, 1 and 2: not the same requests came." in reasons
    assert "The scenarios differ: phases 4 entries and 2 entries." in reasons
    assert "The environments differ: python 3.11.2 and 3.13.0." in reasons
    assert "Phases of A only: double; full; warm-up." in reasons
    assert "Phases of B only: triple." in reasons
    assert not [reason for reason in reasons if "fedcba" in reason]  # two commits are what one compares
    text = " ".join(shown(a, b).split())
    assert all(reason in text for reason in reasons)
    page = compare_html(a, b)
    assert all(reason in page for reason in reasons)


def test_runs_without_a_phase_in_common():
    a, b = reports.small(), reports.interrupted()
    assert "Phases are matched by name." in compare_html(a, b)
    assert "Phases of A only: only." in shown(a, b)


@pytest.mark.parametrize("make", [reports.bare, reports.hostile, reports.crowded, reports.interrupted])
def test_any_two_reports_can_be_compared(make):
    made = make()
    soup = BeautifulSoup(compare_html(made, reports.report()).replace(PLOTLY, ""), "html.parser")
    assert not soup.find_all(["img", "b"])
    assert max(map(len, shown(made, reports.report(), 80).splitlines())) <= 80
