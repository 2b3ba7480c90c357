"""The clients' books beside the target's and the backend's; with a real Headgate: `test_accounting_real`."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest

from benchmarks.load.accounting import NOTICE, Attempts, Clients, agree_backend, compare
from benchmarks.load.answer import Answer, End
from benchmarks.load.backend_client import BackendTally, Row, RunLog
from benchmarks.load.scrape import Difference, Ending
from benchmarks.report.model import Account, Counts

DONE = ("completed", "stream", "done")
FULL = ("shed", "inference", "queue_full")
GONE = ("cancelled", "stream", "client_gone")


def booked(answers: Iterable[Answer]) -> Attempts:
    attempts = Attempts()
    for answer in answers:
        attempts.book(answer)
    return attempts


def answered(end: End, status: int = 0, code: str = "", *, sent: float = 1.0, resent: int = 0) -> Answer:
    return Answer(end=end, status=status, code=code, sent=sent, resent=resent)


def between(ended: dict[Ending, int], *, offered: int | None = None, **fields: Any) -> Difference:
    counted = Counter(ended)
    defaults = {"open_before": 0, "unrouted_before": 0, "open_after": 0, "comparable": True, "problems": []}
    return Difference(counted.total() if offered is None else offered, counted, **(defaults | fields))


def rows(accounts: list[Account] | None) -> dict[str, Account]:
    assert accounts is not None
    return {each.outcome: each for each in accounts}


WHOLE = answered(End.WHOLE, 200)
SHED = answered(End.REFUSED, 503, "overloaded")
LEFT = answered(End.LEFT, 200)


def test_books_that_agree():
    counts = Counts(offered=6, completed=3, shed=2, cancelled=1, left=1)
    result = compare(counts, booked([WHOLE] * 3 + [SHED] * 2 + [LEFT]), between({DONE: 3, FULL: 2, GONE: 1}))
    assert result.balanced
    assert not result.problems
    accounts = rows(result.target)
    assert (accounts["offered"].client, accounts["offered"].least, accounts["offered"].most) == (6, 5, 6)
    assert (accounts["completed"].client, accounts["completed"].least, accounts["completed"].most) == (3, 3, 4)
    assert (accounts["cancelled"].client, accounts["cancelled"].least, accounts["cancelled"].most) == (1, 0, 1)
    assert all(account.agrees for account in accounts.values())
    assert [(one.outcome, one.stage, one.reason, one.count) for one in result.ended] == [
        ("completed", "stream", "done", 3),
        ("shed", "inference", "queue_full", 2),
        ("cancelled", "stream", "client_gone", 1),
    ]


@pytest.mark.parametrize("ended", [{}, {DONE: 1}, {FULL: 1}, {GONE: 1}, {("failed", "-", "shard_lost"): 1}])
@pytest.mark.parametrize("end", [End.LEFT, End.TIMED_OUT, End.STOPPED, End.BROKEN, End.NONSENSE])
def test_of_a_client_that_did_not_get_its_answer_the_target_may_have_booked_anything(
    end: End, ended: dict[Ending, int]
):
    assert not compare(Counts(), booked([answered(end)]), between(ended)).problems
    twice = compare(Counts(), booked([answered(end)]), between(dict.fromkeys(ended, 2))).problems
    assert len(twice) == (2 if ended else 0)  # the outcome, and offered


@pytest.mark.parametrize(
    ("answer", "outcome"),
    [
        (WHOLE, "completed"),
        (SHED, "shed"),
        (answered(End.REFUSED, 503, "cancelled"), "cancelled"),
        (answered(End.REFUSED, 504, "deadline_exceeded"), "expired"),
        (answered(End.REFUSED, 502, "backend_error"), "failed"),
        (answered(End.REFUSED, 404, "model_not_found"), "rejected"),
        (answered(End.REFUSED, 429, "rate_limit_exceeded"), "rejected"),
        (answered(End.REFUSED, 401, "invalid_api_key"), "rejected"),
        (answered(End.REFUSED, 403, "permission_denied"), "rejected"),
        (answered(End.ERROR_EVENT, 200, "backend_error"), "failed"),
        (answered(End.ERROR_EVENT, 200, "backend_refused"), "rejected"),
        (answered(End.ERROR_EVENT, 200, "deadline_exceeded"), "expired"),
    ],
)
def test_who_has_an_answer_knows_what_was_booked(answer: Answer, outcome: str):
    for other in ("completed", "shed", "rejected", "expired", "cancelled", "failed"):
        result = compare(Counts(), booked([answer]), between({(other, "x", "y"): 1}))
        assert bool(result.problems) is (other != outcome), other
    missing = compare(Counts(), booked([answer]), between({})).problems
    assert f"The target counted 0 requests as {outcome}, but this run's clients know of 1" in "".join(missing)


def test_an_error_in_a_stream_of_unknown_code_was_not_completed():
    unknown = booked([answered(End.ERROR_EVENT, 200, "who_knows")])
    assert not compare(Counts(), unknown, between({GONE: 1})).problems
    assert compare(Counts(), unknown, between({DONE: 1})).problems
    assert compare(Counts(), unknown, between({})).problems


@pytest.mark.parametrize("code", ["unknown_url", "method_not_allowed", "request_head_too_large"])
def test_what_was_no_prompt_is_not_booked(code: str):
    attempts = booked([answered(End.REFUSED, 404, code)])
    assert not compare(Counts(), attempts, between({})).problems
    assert compare(Counts(), attempts, between({("rejected", "ingress", "invalid"): 1})).problems


def test_what_another_server_on_the_way_answered_may_be_booked_or_not():
    attempts = booked([answered(End.REFUSED, 503, "")])
    assert not compare(Counts(), attempts, between({})).problems
    assert not compare(Counts(), attempts, between({DONE: 1})).problems


def test_what_was_not_sent_is_not_booked_and_what_was_sent_again_may_be_twice():
    attempts = booked([answered(End.UNREACHABLE, sent=0.0), Answer(), answered(End.WHOLE, 200, resent=1)])
    assert (attempts.unsent, attempts.resent, attempts.sent) == (2, 1, 2)
    for ended in ({DONE: 1}, {DONE: 2}, {DONE: 1, GONE: 1}):
        assert not compare(Counts(), attempts, between(ended)).problems
    assert compare(Counts(), attempts, between({DONE: 3})).problems
    assert compare(Counts(), attempts, between({DONE: 1, FULL: 1, GONE: 1})).problems


def test_a_strangers_requests_are_noticed_with_the_range_and_the_reasons():
    result = compare(Counts(), booked([WHOLE] * 3), between({DONE: 5}))
    assert not rows(result.target)["completed"].agrees
    assert (
        "The target counted 5 requests as completed (stream/done 5), but this run can have caused 3 at most: somebody "
        "else used the target meanwhile, or it counts requests twice."
    ) in result.problems


def test_requests_that_were_open_before_may_end_in_the_run():
    attempts = booked([WHOLE])
    assert compare(Counts(), attempts, between({DONE: 2}, offered=1)).problems
    assert not compare(Counts(), attempts, between({DONE: 2}, offered=1, open_before=1)).problems
    assert compare(Counts(), attempts, between({DONE: 2}, offered=2, open_before=1)).problems
    assert not compare(Counts(), attempts, between({DONE: 2}, offered=2, open_before=1, unrouted_before=1)).problems


def test_what_hangs_is_said_on_either_side():
    result = compare(Counts(offered=3, completed=2, unanswered=1), booked([]), between({}, open_after=2))
    assert result.problems == [
        "1 request was never answered, within the time after which that counts as hanging.",
        "2 requests were still open at the target after the last answer.",
    ]


def test_a_generator_that_lost_count_says_so():
    result = compare(Counts(offered=3, completed=2), booked([]), None)
    assert not result.balanced
    assert result.target is None
    assert result.problems == ["The generator lost count: 3 requests offered, but 2 ended."]


def test_what_cannot_be_compared_is_not():
    again = between({}, comparable=False, problems=["The target was started again."])
    result = compare(Counts(), booked([WHOLE]), again)
    assert result.target is None
    assert result.problems == ["The target was started again."]


# The simulated backend.


def tally(**counts: Any) -> BackendTally:
    fields = dict.fromkeys(BackendTally.__struct_fields__, 0)
    return BackendTally(**(fields | counts))


def log(rows: list[Row], *, left_out: int = 0, **counts: int) -> RunLog:
    outcomes = Counter(row.outcome for row in rows)
    known = {name: outcomes[name] for name in ("served", "cancelled", "failed", "refused")}
    busy = sum(row.held for row in rows)
    fields: dict[str, Any] = {"arrivals": len(rows), **known, "busy_seconds": busy} | counts
    return RunLog(counts=tally(**fields), rows=rows, left_out=left_out, taken=1000.0)


def served(number: int, at: float = 10.0, held: float = 2.0, outcome: str = "served") -> Row:
    return Row(number, at, at, at + held, held, outcome)


def test_a_backend_that_agrees():
    rows = [served(0), served(1, outcome="failed"), served(1), served(2, outcome="cancelled")]
    counts, phases = agree_backend(log(rows), Clients({0, 1}, 4, {2: 11.95}), [range(3)], 2)
    assert counts.agrees
    assert not counts.problems
    assert (counts.replicas, counts.arrivals, counts.served, counts.cancelled, counts.failed) == (2, 4, 2, 1, 1)
    assert counts.left_running == 0
    assert counts.busy_seconds == 8.0
    # The slot was given back within what word of the leaving needs: no request, but its seconds count.
    assert phases[0].requests == 0
    assert phases[0].seconds == pytest.approx(0.05)
    assert phases[0].share == pytest.approx(0.05 / 8.0)


def test_an_answer_that_the_backend_never_gave_came_from_elsewhere():
    counts, _ = agree_backend(log([served(0)]), Clients({0, 1, 2}, 3, {}), [range(3)], 1)
    assert not counts.agrees
    assert "2 of 3 completed requests were never served by the backend" in counts.problems[0]


def test_a_target_that_asks_twice_is_noticed():
    counts, _ = agree_backend(log([served(0, outcome="failed"), served(0)]), Clients({0}, 1, {}), [range(1)], 1)
    assert not counts.agrees
    assert "The backend got 2 requests, though 1 were sent" in counts.problems[0]


def test_a_backend_that_lost_count_is_noticed():
    counts, _ = agree_backend(log([served(0)], arrivals=2), Clients({0}, 2, {}), [range(2)], 1)
    assert counts.problems == ["The backend's own count does not add up: 2 requests arrived, but 1 ended and 0 run."]


def test_dropped_rows_leave_the_counts_to_compare():
    dropped = log([served(0)], left_out=4, arrivals=5, served=5)
    counts, _ = agree_backend(dropped, Clients(range(5), 5, {}), [range(5)], 1)
    assert counts.agrees
    assert "dropped 4 rows" in counts.problems[0]
    fewer, _ = agree_backend(dropped, Clients(range(6), 6, {}), [range(6)], 1)
    assert not fewer.agrees


def test_work_for_clients_that_had_gone_is_counted_where_they_arrived():
    gone = {1: 11.0, 5: 5.0, 6: 30.0, 7: 12.0, 8: 12.0}
    rows = [
        served(0),
        served(1),  # one of its two seconds
        served(5, outcome="cancelled"),  # its client had left before it got its slot
        served(5),  # and was asked again
        served(6),  # ended before its client left
        Row(7, 10.0, None, 20.0, 0.0, "cancelled"),  # never had a slot
        Row(8, 10.0, 11.0, None, 0.0, "running"),  # until the log was taken, at 1000.0
        served(99),  # of no phase
    ]
    counts, (first, second) = agree_backend(log(rows), Clients({0}, 9, gone), [range(5), range(5, 9)], 1)
    assert (first.requests, first.seconds, first.share) == (1, 1.0, 0.25)
    assert (second.requests, second.seconds) == (2, 2.0 + 2.0 + 988.0)
    assert second.share == (4.0 + 988.0) / (6.0 + 989.0)
    assert counts.wasted_seconds == first.seconds + second.seconds
    assert counts.left_running == 1
    assert NOTICE < 1.0
    assert (first.ended_after.count, first.ended_after.most) == (1, 1.0)
    # Two of session 5's rows, the one that never had a slot, and the one that runs; not what ended before.
    assert (second.ended_after.count, second.ended_after.most) == (4, 988.0)


def test_what_was_shed_though_the_backend_had_it_is_counted():
    rows = [served(0), served(1, outcome="cancelled"), Row(2, 10.0, None, 11.0, 0.0, "cancelled")]

    def late(*shed: int) -> int | None:
        return agree_backend(log(rows), Clients({0}, 9, {}, shed), [range(9)], 1)[0].shed_late

    assert late(1, 2, 3, 4) == 2
    assert late(3, 4) == 0
    again = agree_backend(log(rows), Clients({0}, 9, {}), [range(9)], 1)[0]
    assert again.shed_late is None, "of several attempts, the backend may have had another"


def test_a_phase_without_work_has_no_share():
    _, phases = agree_backend(log([]), Clients((), 0, {}), [range(5), range(5, 5)], 1)
    assert [(each.requests, each.seconds, each.share) for each in phases] == [(0, 0.0, None)] * 2
