"""How many refusals get a line, and that none is forgotten."""

import asyncio
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.core.errors import Forbidden, InvalidRequest, RateLimited, Unauthorized
from pipeline.core.outcomes import OUTCOME_OF, Outcome, Place, Reason
from pipeline.core.ports import Hooks
from pipeline.core.ticket import Ticket
from pipeline.observe.refusals import BOUNDED, BoundedLog, Refusals, summary
from tests.observe.requests import complete, refusal, refuse


class Told:
    """What was told of refusals left out, summed up."""

    def __init__(self) -> None:
        self.lines: list[dict[tuple[str, str, Place], int]] = []
        self.again = asyncio.Event()

    def __call__(self, left_out) -> None:
        self.lines.append(dict(left_out))
        self.again.set()

    @property
    def total(self) -> int:
        return sum(sum(line.values()) for line in self.lines)


class Shown(Hooks):
    """A log."""

    def __init__(self) -> None:
        self.reasons: list[str] = []

    def after_end(self, ticket: Ticket) -> None:
        self.reasons.append(ticket.ending.reason)

    def after_gate(self, error, arrived, now, request_id="") -> None:
        self.reasons.append("gate " + error.reason)


@pytest.fixture
def told() -> Told:
    return Told()


def passes(refusals: Refusals, now: float, reason: Reason = Reason.QUEUE_FULL, route: str = "docs") -> bool:
    return refusals.passes(reason, route, Place.INGRESS, now)


class TestRefusals:
    def test_so_many_a_second_pass_for_each_reason(self, told):
        refusals = Refusals(2, told)
        assert [passes(refusals, 5.0 + n / 10) for n in range(4)] == [True, True, False, False]
        assert passes(refusals, 5.5, Reason.WAIT_BUDGET)
        assert not passes(refusals, 5.99)
        assert passes(refusals, 6.0)

    def test_none_pass_where_none_is_allowed(self, told):
        refusals = Refusals(0, told)
        assert not any(passes(refusals, float(n)) for n in range(10))
        refusals.close()
        assert told.lines == [{("queue_full", "docs", Place.INGRESS): 10}]

    def test_a_clock_that_jumps_back_silences_nobody(self, told):
        refusals = Refusals(1, told)
        assert passes(refusals, 1000.0)
        assert not passes(refusals, 1000.5)
        assert passes(refusals, 3.0)
        assert not passes(refusals, 3.5)

    @given(
        st.integers(0, 5),
        st.lists(
            st.tuples(st.floats(0.0, 0.7), st.sampled_from(sorted(BOUNDED)), st.sampled_from(["docs", "chat"])),
            max_size=60,
        ),
    )
    def test_each_refusal_is_either_logged_or_told_and_no_second_is_too_full(self, per_second, arrivals):
        told = Told()
        refusals = Refusals(per_second, told)
        now, began, logged, in_second = 1.0, None, 0, Counter()
        for gap, reason, route in arrivals:
            now += gap
            if began is None or now >= began + 1:
                began = now
                in_second.clear()
            if passes(refusals, now, reason, route):
                logged += 1
                in_second[reason] += 1
            assert all(number <= per_second for number in in_second.values())
        refusals.close()
        assert logged + told.total == len(arrivals)
        assert len(told.lines) <= 1

    async def test_the_number_is_told_in_time_and_the_rest_at_the_end(self, told, monkeypatch):
        monkeypatch.setattr("pipeline.observe.refusals._SECOND", 0.05)
        refusals = Refusals(0, told)
        for lines in range(1, 4):  # it is told again and again while something is left out
            passes(refusals, float(lines))
            passes(refusals, float(lines))
            assert len(told.lines) == lines - 1
            async with asyncio.timeout(5):
                await told.again.wait()
            told.again.clear()
        assert told.lines == [{("queue_full", "docs", Place.INGRESS): 2}] * 3
        passes(refusals, 4.0)
        refusals.close()
        assert told.total == 7
        await asyncio.sleep(0.1)
        assert len(told.lines) == 4  # nothing is told twice

    def test_nothing_is_told_where_nothing_was_left_out(self, told):
        refusals = Refusals(5, told)
        passes(refusals, 1.0)
        refusals.close()
        assert told.lines == []


class TestSummary:
    def test_tells_them_by_reason_stage_and_route(self):
        fields = summary(
            {
                ("wait_budget", "docs", Place.INGRESS): 5,
                ("wait_budget", "-", Place.INGRESS): 70,
                ("overdue", "docs", Place.INFERENCE): 2,
            }
        )
        assert fields == {
            "count": 77,
            "reasons": {"wait_budget": 75, "overdue": 2},
            "stages": {"ingress": 75, "inference": 2},
            "routes": {"-": 70, "docs": 7},
        }

    def test_does_not_grow_with_the_number_of_routes(self):
        fields = summary({("queue_full", f"r{n}", Place.INGRESS): n for n in range(1, 101)})
        assert list(fields["routes"]) == [f"r{n}" for n in range(100, 90, -1)]
        assert fields["count"] == sum(fields["routes"].values()) + fields["other_routes"] == 5050


class TestBoundedLog:
    @pytest.mark.parametrize(
        "error",
        [
            *(refusal(reason) for reason in Reason if OUTCOME_OF[reason] is Outcome.SHED),
            refusal(Reason.OVERDUE, Place.INFERENCE),
            Unauthorized("No such key"),
            Forbidden("Not this route"),
            *(RateLimited("Slowly", reason=r, retry_after=1) for r in ("request_limit", "token_limit")),
            RateLimited("Slowly", reason="concurrency_limit", retry_after=1),
        ],
        ids=lambda error: error.reason,
    )
    def test_bounds_what_is_shed_and_what_a_keys_holder_can_repeat(self, told, error):
        log = BoundedLog(Shown(), Refusals(1, told))
        assert [log.wants(refuse(Hooks(), 1.0, error)) for _ in range(3)] == [True, False, False]

    def test_shows_every_other_ending(self, told):
        log = BoundedLog(Shown(), Refusals(0, told))
        assert all(log.wants(refuse(Hooks(), 1.0, InvalidRequest("no"))) for _ in range(3))
        assert log.wants(complete(Hooks()))

    def test_the_head_gates_refusals_share_the_bound(self, told):
        shown = Shown()
        refusals = Refusals(2, told)
        log = BoundedLog(shown, refusals)
        log.after_gate(refusal(), 0.0, 1.0)
        ticket = refuse(Hooks(), 1.0)
        assert log.wants(ticket)
        log.after_end(ticket)
        log.after_gate(refusal(), 0.0, 1.0)
        assert shown.reasons == ["gate wait_budget", "wait_budget"]
        refusals.close()
        assert told.lines == [{("wait_budget", "-", Place.INGRESS): 1}]
