"""What a shard does with its part of a limit."""

import pytest

from pipeline.core.outcomes import Priority, Reason
from pipeline.policy.concurrency import AdaptiveLimit, FixedLimit
from pipeline.policy.lane import Asker, Lane, Rules, Verdict
from pipeline.policy.leases import Leases, Own, parts
from pipeline.policy.leases_limit import SAMPLES_KEPT, LeasedLimit
from pipeline.policy.limits import KeyQuota, TokenBucket, per_minute

ASKER = Asker(Priority.NORMAL, "-", 1.0, "s")


def leased(limit: int, share: float, hold: float = 0.1) -> tuple[LeasedLimit, Lane[str]]:
    leases = Leases()
    limiter = leases.concurrency("w", 8, 256)
    assert isinstance(limiter, LeasedLimit)
    lane: Lane[str] = Lane("w", limiter, Rules())
    limiter.granted(limit, 8, [share] * len(Priority), 0.0)
    for number in range(20):
        lane.typical.ended(hold, hold, 1, number * 0.01, 1)
    return limiter, lane


def test_a_lane_without_a_place_serves_at_the_pace_of_its_share():
    _, lane = leased(0, 0.5)
    assert not lane.idle
    assert lane.room(1.0) == 0
    assert lane.rate == pytest.approx(5.0)
    assert lane.estimated_wait(Priority.NORMAL, 1.0) == pytest.approx(0.2)
    assert lane.budget(None) == 0.4
    assert lane.decide(ASKER, None, 100.0, None, 1.0).verdict is Verdict.ADMIT
    lane.queue.push(lane.admit(ASKER), (1.0, "first"))
    assert lane.decide(ASKER, None, 100.0, None, 1.0).verdict is Verdict.ADMIT
    lane.queue.push(lane.admit(ASKER), (1.0, "second"))
    decision = lane.decide(ASKER, None, 100.0, None, 1.0)
    assert (decision.verdict, decision.reason) == (Verdict.REFUSE, Reason.WAIT_BUDGET)
    assert lane.drain(1.0) == pytest.approx(1.0)


def test_somebody_may_always_wait_for_the_next_turn():
    _, lane = leased(0, 0.1, hold=5.0)
    assert lane.decide(ASKER, None, 1000.0, None, 1.0).verdict is Verdict.ADMIT


def test_before_anything_was_granted_nothing_is_divided_by_zero():
    lane: Lane[str] = Lane("w", Leases().concurrency("w", None, 256), Rules())
    assert (lane.limit, lane.idle, lane.rate) == (0, False, 0.0)
    assert lane.decide(ASKER, None, 100.0, None, 0.0).verdict is Verdict.ADMIT
    assert lane.drain(0.0) > 0.0


def test_calls_under_way_are_held_until_they_end_and_then_given_up():
    limiter, lane = leased(2, 2.0)
    yielded: list[int] = []
    limiter.urgent = lambda: yielded.append(limiter.held)
    flows = [lane.admit(ASKER) for _ in range(2)]
    for _ in flows:
        lane.start(Priority.NORMAL, 0, 1.0)
    assert not limiter.granted(0, 8, [1.0] * 4, 1.0)
    assert (limiter.held, lane.room(1.0)) == (2, -2)
    lane.finish(0, 0, 1.1, answered=False)
    assert yielded == [1]
    assert limiter.granted(2, 8, [1.0] * 4, 1.2)
    lane.finish(0, 0, 1.3, answered=False)
    assert yielded == [1]  # that place stays


def test_a_call_whose_request_has_left_before_it_is_over_is_told_all_the_same():
    limiter, lane = leased(1, 0.5)
    flow = lane.admit(ASKER)
    lane.start(Priority.NORMAL, 0, 1.0)
    lane.leave(flow, Priority.NORMAL, 1.1, started=True)
    limiter.granted(0, 1, [0.5] * 4, 1.1)
    assert limiter.news(1.1) is not None
    assert limiter.held == 1
    lane.finish(0, 0, 1.11, answered=False)
    assert limiter.news(1.11) is not None  # the load is as it was, and the place is free
    assert limiter.news(1.12) is None


def test_a_place_that_another_wants_is_given_up_when_nobody_here_needs_it():
    limiter, lane = leased(2, 2.0)
    told: list[int] = []
    limiter.urgent = lambda: told.append(limiter.held)
    for _ in range(2):
        lane.admit(ASKER)
        lane.start(Priority.NORMAL, 0, 1.0)
    lane.finish(0, 0, 1.1, answered=False)
    assert (told, limiter.limit) == ([], 2)  # nobody wants it
    assert not limiter.granted(2, 8, [2.0] * 4, 1.2, wanted=True)
    assert limiter.limit == 1
    lane.finish(0, 0, 1.3, answered=False)
    assert (told, limiter.limit) == ([0], 0)


def test_the_first_who_lacks_a_place_is_told_at_once_and_not_more_often_than_is_worth_it():
    limiter, lane = leased(0, 0.5)
    told: list[int] = []

    def urgent() -> None:
        told.append(sum(lane.waiting))
        assert limiter.news(1.0) is not None

    limiter.urgent = urgent
    lane.admit(ASKER)
    lane.admit(ASKER)
    assert told == [1]
    for number in range(20):  # places come and go between two ticks
        limiter.granted(8, 8, [8.0] * 4, 1.0)
        limiter.granted(1, 8, [0.5] * 4, 1.0)
        limiter.lane = Lane("other", limiter, Rules())
        assert limiter.news(1.0) is not None
        limiter.lane = lane
        flow = lane.admit(ASKER)
        lane.leave(flow, Priority.NORMAL, 1.0, started=False)
        if number == 10:
            assert len(told) < 8
    assert len(told) < 8
    limiter.ticked()


def test_who_was_let_in_waits_for_a_turn_also_where_the_share_has_fallen():
    limiter, lane = leased(0, 0.5)
    assert (lane.budget(None), lane.patience(None)) == (0.4, 0.8)
    limiter.granted(8, 8, [8.0] * 4, 10.0)
    limiter.tick(0, 0.0, 10.5)
    assert lane.patience(None) == 0.8  # others asked a moment ago
    limiter.tick(0, 0.0, 12.5)
    assert lane.patience(None) == 0.4


def test_what_is_told_is_told_once():
    limiter, lane = leased(4, 4.0)
    assert limiter.news(1.0) is not None
    assert limiter.news(1.02) is None
    flow = lane.admit(ASKER)
    load = limiter.news(1.04)
    assert load is not None
    assert (load.waiting, load.running, load.flows) == ([0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 1.0, 0])
    lane.start(Priority.NORMAL, 0, 1.0)
    load = limiter.news(1.06)
    assert load is not None
    assert (load.waiting, load.running) == ([0, 0, 0, 0], [0, 0, 1, 0])
    lane.finish(0, 0, 1.1, answered=False)
    lane.leave(flow, Priority.NORMAL, 1.1, started=True)
    load = limiter.news(1.12)
    assert load is not None
    assert (load.running, load.flows) == ([0, 0, 0, 0], [0, 0, 0, 0])


def test_sessions_that_are_refused_count_for_a_second():
    limiter, lane = leased(0, 0.1)
    for number in range(5):
        for _ in range(2):
            decision = lane.decide(Asker(Priority.LOW, "k", 2.0, str(number)), 0.05, 100.0, None, 1.0)
            assert decision.verdict is Verdict.REFUSE
    load = limiter.news(1.5)
    assert load is not None
    assert load.flows == [0, 0, 0, 10.0]
    load = limiter.news(2.1)
    assert load is not None
    assert load.flows == [0, 0, 0, 0]


def test_samples_are_bounded_and_say_which_limit_was_in_force():
    limit = LeasedLimit(adaptive=True)
    limit.granted(4, 8, [4.0] * 4, 10.0)
    limit.first_delta(0.5, 10, 3, 10.6)
    limit.first_delta(0.5, 10, 3, 10.4)
    samples, _ = limit.heard()
    assert [sample.limit for sample in samples] == [8, 0]
    for _ in range(2 * SAMPLES_KEPT):
        limit.first_delta(0.5, 10, 3, 11.0)
        limit.pushed_back(1.0, 3, 11.0)
    assert [len(each) for each in limit.heard()] == [SAMPLES_KEPT, SAMPLES_KEPT]
    fixed = LeasedLimit(adaptive=False)
    fixed.first_delta(0.5, 10, 3, 11.0)
    assert fixed.heard() == ([], [])


def test_stale_samples_count_for_the_rate_only():
    limit = AdaptiveLimit(64, initial=10)
    for number in range(100):
        limit.first_delta(5.0 if number else 0.1, 10, 1, 1000.0 + number, stale=True)
    assert limit.limit == 10


@pytest.mark.parametrize("allotter", [Own(), Leases()])
def test_the_same_name_gives_the_same_object_with_other_numbers(allotter):
    bucket = allotter.bucket("key:a:b:requests", 60, 0.0)
    places = allotter.places("key:a:b:places", 3)
    limit = allotter.concurrency("w", 8, 256)
    assert allotter.bucket("key:a:b:requests", 600, 0.0) is bucket
    assert (bucket.rate, bucket.burst) == per_minute(600)
    assert allotter.places("key:a:b:places", 5) is places
    assert places.number == 5
    assert allotter.concurrency("w", 4, 256) is limit
    allotter.forget("key:a:b:requests")
    assert allotter.bucket("key:a:b:requests", 60, 0.0) is not bucket


def test_another_kind_of_limit_begins_anew():
    own = Own()
    fixed = own.concurrency("w", 8, 256)
    adaptive = own.concurrency("w", None, 256)
    assert isinstance(fixed, FixedLimit)
    assert isinstance(adaptive, AdaptiveLimit)
    assert own.concurrency("w", None, 4) is adaptive
    assert adaptive.limit == 4
    own.forget("w")
    assert own.concurrency("w", None, 4) is not adaptive


def test_names_may_have_colons():
    assert parts("key:a:b:tokens") == ("key", "a:b", "tokens")


def test_a_quota_of_one_process_never_lacks_what_is_elsewhere():
    quota = KeyQuota(TokenBucket(*per_minute(6), 0.0), None, None)
    quota.admit(0, 0.0)
    assert not quota.leased
    assert not quota.short(0, 0.0)
