"""The rows of the table. What was not measured is not met."""

from benchmarks.overload import lasting, recovering, serving
from benchmarks.overload.lines import Line, Outcomes, Row
from benchmarks.report import facts

ROWS = {
    row.key: row
    for row in (
        Row("goodput", "goodput beside the oracle's at 1x, 2x and 10x", ("1x", "2x", "10x"), serving.goodput),
        Row("latency", "latency of what is served at 2x and 10x", ("2x", "10x"), serving.latency),
        Row("class", "the highest class at 2x", ("classes",), serving.highest),
        Row("door", "how fast refusals at the door are", ("2x", "10x"), serving.at_door),
        Row(
            "queue",
            "how late refusals after queueing are",
            ("2x", "10x", "classes", "fairness"),
            serving.after_queueing,
        ),
        Row("cpu", "the CPU of a refusal", (), serving.no_trial),
        Row("surge", "five seconds of twice the load", ("surge",), recovering.surge),
        Row(
            "capacity", "a backend that loses four fifths, and gets them back", ("slots", "slower"), recovering.capacity
        ),
        Row("fairness", "one session that asks ten times as much", ("fairness",), serving.fairness),
        Row("leavers", "clients that go away", ("working", "queued", "retrieving"), lasting.leavers),
        Row("retries", "clients that retry at once", ("impatient",), recovering.impatient),
        Row("late", "what is shed too late", ("1x", "2x", "10x", "classes", "fairness", "surge"), serving.shed_late),
        Row("memory", "what grows under load", ("endurance",), lasting.memory_row),
    )
}


def accounted(outcomes: Outcomes) -> Line:
    """No figure is worth anything where requests are lost on the way."""
    broken = [key for key, one in outcomes.items() if one.report is None or facts.verdict(one.report).level == "broken"]
    return Line(
        "accounts",
        "every request accounted for, by clients, Headgate and backend",
        "all trials",
        f"not in {', '.join(broken)}" if broken else f"{len(outcomes)} trials",
        float(len(broken)),
        met=not broken,
    )
