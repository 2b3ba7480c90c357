import io

import pytest
from rich.console import Console

from benchmarks.report.terminal import show
from tests.benchmarks.report import reports

ALL = [
    reports.small,
    reports.bare,
    reports.interrupted,
    reports.report,
    reports.hostile,
    reports.troubled,
    reports.crowded,
]


def shown(report, width=100, **options):
    out = io.StringIO()
    show(report, Console(file=out, width=width, **options))
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("make", ALL)
def test_it_fits_one_screen(make, width):
    lines = shown(make(), width).splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= width
    assert sum(line.startswith(("outlived", "target", "accounting", "generator", "backend")) for line in lines) == 5


def test_no_line_is_wrapped_at_80_columns():
    narrow, wide = shown(reports.report(), 80), shown(reports.report(), 200)
    assert [line.rstrip() for line in narrow.splitlines()][1:] == [line.rstrip() for line in wide.splitlines()][1:]


def test_the_verdict_comes_first_in_plain_words():
    lines = shown(reports.troubled()).splitlines()
    assert lines[1] == "Do not rely on this run: its figures do not add up."
    assert lines[2] == "- The target counts 12 completed requests fewer than the client received."
    assert "DISAGREES on completed" in shown(reports.troubled())


def test_every_phase_has_its_figures():
    made = reports.report()
    text = shown(made)
    for phase in made.phases:
        rows = [line for line in text.splitlines() if line.removeprefix("w ").startswith(phase.name)]
        assert len(rows) == 2
    double = next(line for line in text.splitlines() if line.startswith("double"))
    assert double.split() == ["double", "1,000/s", "483/s", "96.5", "%", "25,275", "125", "100", "250"]


def test_refusals_are_told_apart_by_place():
    text = shown(reports.report())
    assert "at the door    503 ingress/estimated_wait" in text
    assert "after queueing 503 inference/sojourn" in text


def test_what_does_not_fit_is_counted():
    text = shown(reports.crowded())
    assert "… and 57 more" in text  # refusals
    assert "… and 38 more" in text  # phases
    assert "- … and 6 more" in text  # notes
    assert "step 40" in text  # the hardest phase is the one that stays


def test_text_of_the_target_commands_neither_the_terminal_nor_rich():
    text = shown(reports.hostile(), force_terminal=True, color_system="truecolor")
    assert "\x1b[31m{{" not in text
    assert "\x1b[2J" not in text
    made = reports.small()
    made.notes = ["[bold]not markup[/bold]"]
    assert "[bold]not markup[/bold]" in shown(made)


def test_without_colour_the_text_is_the_same():
    made = reports.troubled()
    coloured = shown(made, force_terminal=True, color_system="truecolor", no_color=True)
    plain = shown(made)
    assert [line.split() for line in plain.splitlines()] == [
        line.replace("\x1b[1m", "").replace("\x1b[2m", "").replace("\x1b[0m", "").split()
        for line in coloured.splitlines()
    ]
