"""The table and its page say which targets are met, and what to keep in mind."""

import re
from io import StringIO

import msgspec
from rich.console import Console

from benchmarks.overload import ablation
from benchmarks.overload.page import Result, data, html, show, warnings
from benchmarks.overload.rows import ROWS, accounted
from benchmarks.overload.trials import STEPS, USUAL, step_trials
from tests.benchmarks.overload.reports import outcomes, phase, whole
from tests.benchmarks.report.reports import HOSTILE, report


def result(*, spoil: bool = False, seconds: float = USUAL) -> Result:
    found = outcomes()
    if spoil:
        it = phase(found, "10x").oracle
        assert it is not None
        it.share = 0.5
    steps = {trial.key: found[trial.key.partition("-")[2]] for trial in step_trials(STEPS[0])}
    lines = [line for row in ROWS.values() for line in row.judge(row, found)]
    return Result(
        lines=[*lines, accounted(found)],
        steps=ablation.lines(steps),
        outcomes=found | steps,
        environment=report().environment,
        command=["python", "-m", "benchmarks.overload"],
        seconds=seconds,
        whole=True,
    )


def terminal(it: Result) -> str:
    out = StringIO()
    show(it, Console(file=out, width=170))
    return out.getvalue()


def test_all_met():
    it = result()
    assert it.missed == []
    assert warnings(it) == []
    shown = terminal(it)
    assert f"All {len(it.lines)} figures are met." in shown
    assert "MISSED" not in shown
    page = html(it)
    assert f"All {len(it.lines)} figures are met." in page
    assert "MISSED" not in page


def test_what_is_missed_is_said_first():
    it = result(spoil=True)
    (missed,) = it.missed
    assert "MISSED" in terminal(it)
    page = html(it)
    assert page.index("Missed: goodput at 10x ÷ the oracle&#39;s, 0.500 (≥ 0.950)") < page.index("<main>")
    assert data(it)["missed"] == 1
    assert msgspec.json.decode(msgspec.json.encode(data(it)))["lines"][2]["value"] == missed.value


def test_the_page_has_the_charts_of_each_trial_once():
    page = html(result())
    names = re.findall(r'id="chart-([^"]+)"', page)
    assert len(names) == len(set(names)) > 2 * 12
    assert "What each mechanism brings" in page
    assert "try-put" in page
    assert 'content="default-src ' in page, "it fetches nothing"


def test_a_shortened_stopped_or_changing_run_says_so():
    it = result(seconds=5.0)._replace(whole=False)
    it.outcomes["2x"].problems.append("The gateway ended during the phase.")
    whole(dict(it.outcomes), "1x").environment.commit = "fedcba9876"
    whole(dict(it.outcomes), "surge").notes.append("The generator fell behind itself.")
    said = "\n".join(warnings(it))
    for part in ("was stopped", "5 s in place of 30 s", "The code changed", "2x: The gateway", "surge: The generator"):
        assert part in said
    assert "The gateway ended" in html(it)
    assert "The gateway ended" in terminal(it)


def test_a_great_many_warnings_do_not_hide_the_table():
    it = result()
    for outcome in it.outcomes.values():
        outcome.problems.extend(f"problem {index}" for index in range(9))
    assert len(warnings(it)) <= 20
    assert "more" in warnings(it)[-1]


def test_hostile_text_stays_text():
    it = result()
    it.outcomes["2x"].problems.append(HOSTILE)
    whole(dict(it.outcomes), "2x").scenario_name = HOSTILE
    page = html(it._replace(command=[HOSTILE]))
    assert "<script>document.title" not in page
    assert "\x1b[31m" not in terminal(it)


def test_a_run_that_measured_nothing_has_a_page():
    nothing = result()._replace(lines=[], steps=[], outcomes={}, whole=False)
    assert "was stopped" in html(nothing)
    assert "0 figures" in terminal(nothing)
