"""How ends become counts."""

import pytest

from benchmarks.load import ledger as books
from benchmarks.load.accounting import Attempts, compare
from benchmarks.load.answer import Answer, End
from benchmarks.load.ledger import COMBINATIONS, Done, PhaseLedger, Timeline, jain, outcome
from benchmarks.load.mix import Intent
from benchmarks.load.scenario import Kind, Phase

PHASE = Phase(name="a", seconds=10, rate=1)


def intent(
    number: int = 0, at: float = 0.0, kind: Kind | None = None, *, leaves: bool = False, session: str | None = None
) -> Intent:
    return Intent(number, at, kind or Kind(), session, 1, None, leaves)


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        (Answer(end=End.WHOLE, status=200), "completed"),
        (Answer(end=End.REFUSED, status=503), "shed"),
        (Answer(end=End.REFUSED, status=504), "expired"),
        (Answer(end=End.REFUSED, status=500), "failed"),
        (Answer(end=End.REFUSED, status=502), "failed"),
        (Answer(end=End.REFUSED, status=429), "rejected"),
        (Answer(end=End.REFUSED, status=307), "rejected"),
        (Answer(end=End.ERROR_EVENT, status=200), "failed"),
        (Answer(end=End.BROKEN), "failed"),
        (Answer(end=End.NONSENSE, status=200), "failed"),
        (Answer(end=End.UNREACHABLE), "unreachable"),
        (Answer(end=End.TIMED_OUT), "cancelled"),
        (Answer(end=End.LEFT), "cancelled"),
        (Answer(end=End.STOPPED), "unsent"),
        (Answer(end=End.STOPPED, sent=1.0), "cancelled"),
    ],
)
def test_outcomes(answer: Answer, name: str):
    assert outcome(answer) == name


def test_every_end_has_an_outcome():
    for end in End:
        assert outcome(Answer(end=end, status=200))


def test_goodput_leaves_out_what_completed_after_arrivals_had_ended():
    ledger = PhaseLedger(PHASE, began=100.0, first_number=0)
    for ended in (105.0, 110.0, 110.5):
        ledger.offer(intent())
        answer = Answer(end=End.WHOLE, status=200, sent=104.0, ended=ended)
        ledger.book(Done(intent(), 104.0, 104.0, answer, "completed"))
    assert ledger.books.counts.completed == 3
    assert ledger.in_time == 2


def test_a_request_that_never_ended_is_missed():
    ledger = PhaseLedger(PHASE, began=0.0, first_number=0)
    ledger.offer(intent())
    ledger.offer(intent(kind=Kind(name="other", class_="high")))
    ledger.book(Done(intent(), 0.0, 0.0, Answer(end=End.WHOLE, status=200, sent=1.0, ended=1.0), "completed"))
    assert (ledger.books.counts.offered, ledger.books.counts.completed) == (2, 1)
    assert ledger.classes["high"].counts.offered == 1
    accounting = compare(ledger.books.counts, Attempts(), None)
    assert not accounting.balanced
    assert "lost count" in accounting.problems[0]


def test_latency_counts_from_the_intended_time_and_refusals_from_their_own_attempt():
    ledger = PhaseLedger(PHASE, began=0.0, first_number=0)
    refused = Answer(end=End.REFUSED, status=503, sent=1.0, ended=1.1, stage="inference", reason="x", retry_after=2.0)
    ledger.attempt(refused, begun=1.0)
    served = Answer(end=End.WHOLE, status=200, sent=3.0, ended=3.5)
    ledger.offer(intent())
    ledger.attempt(served, begun=3.0)
    ledger.book(Done(intent(), 1.0, 3.0, served, "completed"))
    (refusal,) = ledger.refusals.values()
    assert refusal.where == "queue"
    assert refusal.latency.percentile(0.5) == pytest.approx(0.1)
    assert ledger.books.timings.latency.percentile(0.5) == pytest.approx(2.5)


@pytest.mark.parametrize(
    ("stage", "reason", "where"),
    [
        ("inference", "queue_full", "door"),
        ("ingress", "too_late", "door"),
        ("inference", "too_late", "queue"),
        ("inference", "late", "queue"),
        ("", "", "unknown"),
    ],
)
def test_where_a_refusal_happened(stage: str, reason: str, where: str):
    ledger = PhaseLedger(PHASE, began=0.0, first_number=0)
    ledger.attempt(Answer(end=End.REFUSED, status=503, ended=1.0, stage=stage, reason=reason), begun=0.0)
    assert [refusal.where for refusal in ledger.refusals.values()] == [where]


@pytest.mark.parametrize("code", ["rate_limit_exceeded", "invalid_api_key", "permission_denied"])
def test_keys_and_limits_refuse_at_the_door_whatever_the_header_says(code: str):
    ledger = PhaseLedger(PHASE, began=0.0, first_number=0)
    ledger.attempt(Answer(end=End.REFUSED, status=429, ended=1.0, code=code), begun=0.0)
    assert [refusal.where for refusal in ledger.refusals.values()] == ["door"]


def ended(ledger: PhaseLedger, session: str | None, answer: Answer, number: int = 0) -> None:
    one = intent(number, session=session)
    ledger.offer(one)
    ledger.book(Done(one, ledger.began, ledger.began, answer, outcome(answer)))


SERVED = Answer(end=End.WHOLE, status=200, sent=1.0, ended=102.5)
SHED = Answer(end=End.REFUSED, status=503, sent=1.0, ended=100.1)


def test_what_each_session_got():
    ledger = PhaseLedger(PHASE, began=100.0, first_number=0)
    assert ledger.sessions.result() is None
    for session, answers in {"a": [SERVED, SERVED, SHED], "b": [SERVED, SHED], "c": [SHED], None: [SERVED]}.items():
        for answer in answers:
            ended(ledger, session, answer)
    found = ledger.sessions.result()
    assert found is not None
    assert (found.count, found.least, found.most) == (3, 0, 2)
    assert found.jain == jain([2, 1, 0]) == pytest.approx(9 / 15)
    assert [(one.name, one.offered, one.completed) for one in found.busiest] == [("a", 3, 2), ("b", 2, 1), ("c", 1, 0)]


def test_more_sessions_than_are_told_apart_have_no_index(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(books, "SESSIONS", 3)
    monkeypatch.setattr(books, "BUSIEST", 2)
    ledger = PhaseLedger(PHASE, began=100.0, first_number=0)
    for name in "abc":
        ended(ledger, name, SERVED)
    found = ledger.sessions.result()
    assert found is not None
    assert (found.count, len(found.busiest), found.jain) == (3, 2, 1.0)
    ended(ledger, "d", SERVED)
    assert ledger.sessions.result() is None


def test_jains_index():
    assert jain([5, 5, 5, 5]) == 1.0
    assert jain([8, 0, 0, 0]) == 0.25
    assert jain([0, 0]) is None


def test_completions_and_sheds_are_kept_for_what_is_made_of_them():
    ledger = PhaseLedger(PHASE, began=100.0, first_number=0)
    ended(ledger, None, SERVED, 4)
    ended(ledger, None, SHED, 5)
    assert (list(ledger.completed), list(ledger.ends), list(ledger.latencies)) == ([4], [2.5], [2.5])
    assert list(ledger.shed) == [5]


def test_refusals_that_nobody_could_tell_apart_are_booked_together():
    ledger = PhaseLedger(PHASE, began=0.0, first_number=0)
    for number in range(COMBINATIONS + 50):
        ledger.attempt(Answer(end=End.REFUSED, status=400, code=f"code {number}", ended=1.0), begun=0.0)
    assert sum(entry.count for entry in ledger.refusals.values()) == COMBINATIONS + 50
    assert ledger.refusals["rejected", 0, "", "", "others"].count == 50


def test_who_leaves_has_no_patience_for_the_oracle():
    ledger = PhaseLedger(PHASE, began=0.0, first_number=7)
    ledger.arrival(intent(7, 0.5), 2.0)
    ledger.arrival(intent(8, 0.6, leaves=True), 2.0)
    first, second = ledger.arrivals()
    assert (first.at, first.number, first.patience, first.max_tokens) == (0.5, 7, 2.0, None)
    assert (second.number, second.patience) == (8, 0.0)


def test_the_timeline_books_arrivals_and_ends_where_they_belong():
    line = Timeline(began=50.0, seconds=10)
    line.offered(50.5, 1)
    line.offered(52.9, 3)
    line.ended(Done(intent(), 50.5, 50.5, Answer(end=End.WHOLE, ended=52.0), "completed"))
    line.ended(Done(intent(), 52.9, 52.9, Answer(end=End.REFUSED, status=503, ended=52.95), "shed"))
    line.expected(0, 2)
    line.possible(1.5, 0.25)
    moments = line.moments()
    assert [moment.offered for moment in moments] == [1, 0, 1]
    assert [moment.completed for moment in moments] == [0, 0, 1]
    assert [moment.shed for moment in moments] == [0, 0, 1]
    assert [moment.oracle for moment in moments] == [0, 1, None]
    assert moments[2].p50 == pytest.approx(1.5, rel=0.01)
    assert moments[1].oracle_p50 == moments[1].oracle_p99 == pytest.approx(0.25, rel=0.01)
    assert moments[0].oracle_p50 is None
    assert moments[2].in_flight == 3


def test_a_long_run_is_no_more_than_so_many_moments():
    line = Timeline(began=0.0, seconds=3000)
    line.offered(2999.0, 1)
    assert len(line.moments()) == 300
