"""The door's decisions in virtual time: goodput, bounded waits, classes, sessions, and what is never allowed."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.core.outcomes import Priority, Reason
from pipeline.policy.breaker import BreakerRules
from pipeline.policy.concurrency import FixedLimit
from pipeline.policy.lane import Asker, Lane, Rules, Verdict
from pipeline.policy.limits import TokenBucket
from pipeline.policy.pool import Pool, PoolRules, Result
from tests.policy.lane_simulation import Arrival, Simulation, merged, poisson

CAPACITY = 80.0  # 8 slots of 100 ms
SECONDS = 20.0


def percentile(arrivals: list[Arrival], share: float) -> float:
    latencies = sorted(a.latency for a in arrivals)
    return latencies[int(len(latencies) * share)]


@pytest.mark.parametrize(("load", "least"), [(1.0, 0.94), (2.0, 0.97), (10.0, 0.97)])
def test_goodput_stays_and_waits_are_bounded(load, least):
    arrivals = poisson(Random(7), CAPACITY * load, SECONDS)
    out = Simulation().run(arrivals)
    served = [a for a in out.served() if a.ended <= SECONDS]
    assert len(served) >= least * min(CAPACITY * SECONDS, len(arrivals))
    assert percentile(served, 0.5) <= 0.26
    assert percentile(served, 0.99) <= 0.65
    assert all(a.left - a.at <= 0.6 + 1e-9 for a in arrivals if a.dropped is not None)


def test_without_a_wait_budget_everybody_waits_for_ever():
    """The ablation: plain bounded queues. This is what the mechanisms are there against."""
    out = Simulation(rules=Rules(wait_budget=False, codel_interval=None, fair=False)).run(
        poisson(Random(7), CAPACITY * 2, SECONDS)
    )
    late = [a for a in out.served() if a.latency > 2.0]
    assert len(late) > 0.5 * len(out.served())


def test_codel_shortens_what_the_budget_alone_would_let_stand():
    arrivals = [poisson(Random(7), CAPACITY * 2, SECONDS) for _ in range(2)]
    alone = Simulation(rules=Rules(codel_interval=None)).run(arrivals[0])
    both = Simulation(rules=Rules()).run(arrivals[1])
    assert percentile(both.served(), 0.5) < 0.5 * percentile(alone.served(), 0.5)


def test_a_class_within_its_share_is_served_whatever_lower_ones_ask():
    random = Random(3)
    arrivals = merged(
        poisson(random, CAPACITY * 0.5, SECONDS, priority=Priority.HIGH),
        poisson(random, CAPACITY * 5, SECONDS, priority=Priority.LOW),
    )
    out = Simulation().run(arrivals)
    assert out.share(priority=Priority.HIGH) >= 0.99
    low = out.served(priority=Priority.LOW)
    assert len(low) >= 0.9 * 0.5 * CAPACITY * SECONDS  # and what it leaves is theirs


def test_one_session_that_asks_for_ten_times_its_share_gets_no_more_than_the_others():
    random = Random(5)
    light = 3 * CAPACITY / 29
    sessions = [poisson(random, light, SECONDS, session=str(n)) for n in range(19)]
    out = Simulation().run(merged(*sessions, poisson(random, 10 * light, SECONDS, session="heavy")))
    work = Counter(a.session for a in out.served())
    jain = sum(work.values()) ** 2 / (20 * sum(n * n for n in work.values()))
    assert jain >= 0.95
    assert sum(work.values()) >= 0.95 * CAPACITY * SECONDS


def test_in_order_of_arrival_the_heavy_session_takes_most():
    """That the test above can fail."""
    random = Random(5)
    light = 3 * CAPACITY / 29
    sessions = [poisson(random, light, SECONDS, session=str(n)) for n in range(19)]
    heavy = poisson(random, 10 * light, SECONDS, session="heavy")
    out = Simulation(rules=Rules(fair=False)).run(merged(*sessions, heavy))
    work = Counter(a.session for a in out.served())
    assert sum(work.values()) ** 2 / (20 * sum(n * n for n in work.values())) < 0.8


def test_who_cannot_be_served_before_the_deadline_is_told_at_once():
    arrivals = poisson(Random(1), CAPACITY * 3, SECONDS, deadline=0.15)
    out = Simulation().run(arrivals)
    late = [a for a in out.served() if a.latency > 0.15 + 1e-9]
    assert len(late) <= 0.03 * len(out.served())  # those of before anything was known
    assert Counter(a.refused for a in arrivals)[Reason.TOO_LATE] > 0
    assert len(out.served()) >= 0.9 * CAPACITY * SECONDS


def test_a_deadline_that_is_too_short_never_locks_an_idle_worker():
    out = Simulation().run([Arrival(at=float(n), service=1.0, deadline=0.5) for n in range(1, 9)])
    assert len(out.served()) == 8  # who is to say that this one would not be quicker


def test_a_single_slow_slot_is_kept_busy():
    """A small model that takes ten seconds for an answer: the budget grows with it, or the slot would often idle."""
    arrivals = poisson(Random(2), 0.2, 600.0, service=10.0)
    out = Simulation(limit=1).run(arrivals)
    busy = sum(a.service for a in out.served() if a.ended <= 600)
    assert busy >= 0.85 * 600


def test_the_pace_is_followed_down_and_up():
    random = Random(11)
    arrivals = poisson(random, CAPACITY * 0.9, 60.0)
    for a in arrivals:
        a.service = 0.5 if 20 <= a.at < 40 else 0.1
    out = Simulation().run(arrivals)
    for start, end, capacity in ((23, 40, 16), (43, 60, CAPACITY * 0.9)):
        served = [a for a in out.served() if start <= a.ended < end and a.latency <= 2.0]
        assert len(served) >= 0.9 * capacity * (end - start)


def ended(lane: Lane, hold: float, times: int = 20) -> None:
    for n in range(times):
        lane.typical.ended(hold, hold, 1, n * 0.01, 1)


def fill(lane: Lane, waiting: int, *, priority=Priority.NORMAL, session="") -> None:
    for number in range(waiting):
        flow = lane.admit(Asker(priority, "-", 1.0, session))
        lane.queue.push(flow, (float(number), f"{priority.label}{number}"))


def test_a_full_queue_gives_way_to_a_higher_class_only():
    lane: Lane[str] = Lane("w", FixedLimit(1), Rules())
    fill(lane, 3, priority=Priority.LOW, session="x")
    high = lane.decide(Asker(Priority.HIGH, "-", 1.0, ""), None, 60.0, None, 9.0, full=True)
    assert (high.verdict, high.reason, high.victim) == (Verdict.DISPLACE, Reason.QUEUE_FULL, "low2")
    same = lane.decide(Asker(Priority.LOW, "-", 1.0, "x"), None, 60.0, None, 9.0, full=True)
    assert (same.verdict, same.reason) == (Verdict.REFUSE, Reason.QUEUE_FULL)


def test_a_lower_class_that_waits_is_no_reason_to_refuse_and_none_to_be_displaced():
    lane: Lane[str] = Lane("w", FixedLimit(1), Rules())
    ended(lane, 0.1)
    lane.inflight = 1
    fill(lane, 50, priority=Priority.LOW, session="x")
    assert lane.decide(Asker(Priority.HIGH, "-", 1.0, ""), None, 60.0, None, 9.0).verdict is Verdict.ADMIT
    fill(lane, 6, priority=Priority.HIGH)
    refused = lane.decide(Asker(Priority.HIGH, "-", 1.0, ""), 0.3, 60.0, None, 9.0)
    assert (refused.verdict, refused.reason) == (Verdict.REFUSE, Reason.WAIT_BUDGET)


def test_a_quota_going_out_makes_calls_wait_and_the_door_knows():
    lane: Lane[str] = Lane("w", FixedLimit(8), Rules(), requests=TokenBucket(10.0, 2.0, 0.0))
    for _ in range(2):
        assert lane.room(0.0) > 0
        fill(lane, 1)
        lane.queue.pop()
        lane.start(Priority.NORMAL, 0, 0.0)
    assert lane.room(0.0) == 0
    assert lane.blocked(0.0) == pytest.approx(0.1)
    assert lane.estimated_wait(Priority.NORMAL, 0.0) == pytest.approx(0.1)
    fill(lane, 4)
    assert lane.estimated_wait(Priority.NORMAL, 0.0) == pytest.approx(0.5)
    assert lane.room(0.1) > 0


def test_a_quota_of_tokens_is_settled_with_what_was_used():
    lane: Lane[str] = Lane("w", FixedLimit(8), Rules(), tokens=TokenBucket(100.0, 100.0, 0.0))
    fill(lane, 1)
    lane.start(Priority.NORMAL, 100, 0.0)
    assert lane.room(0.0) == 0
    lane.finish(100, 20, 0.0, answered=False)
    assert lane.room(0.0) > 0
    fill(lane, 1)
    lane.start(Priority.NORMAL, 10, 0.0)
    lane.finish(10, 210, 0.0, answered=False)
    assert lane.blocked(0.0) == pytest.approx(1.31)


def test_one_request_in_the_quota_lets_one_call_go():
    lane: Lane[str] = Lane("w", FixedLimit(64), Rules(), requests=TokenBucket(1.0, 10.0, 0.0))
    fill(lane, 50)
    for _ in range(lane.room(0.0)):
        lane.start(Priority.NORMAL, 0, 0.0)
    assert lane.inflight == 10
    assert (lane.room(0.9), lane.room(1.0), lane.room(3.5)) == (0, 1, 3)


def test_a_quota_of_tokens_lets_as_many_go_as_calls_usually_take():
    lane: Lane[str] = Lane("w", FixedLimit(64), Rules(), tokens=TokenBucket(100.0, 1000.0, 0.0))
    for n in range(40):
        lane.typical.ended(0.1, 0.1, 100, n * 0.1, 1, 100)
    assert 4 <= lane.room(4.0) <= 6


def test_no_estimate_closes_the_lane_for_longer_than_it_saves_up():
    lane: Lane[str] = Lane("w", FixedLimit(8), Rules(), tokens=TokenBucket(100.0, 1000.0, 0.0))
    fill(lane, 1)
    lane.start(Priority.NORMAL, 1_000_000, 0.0)
    assert lane.blocked(0.0) <= 1.0
    lane.finish(1_000_000, 0, 0.0, answered=False)  # it came to nothing
    assert lane.blocked(0.0) == 0.0


def test_who_is_refused_for_the_quota_is_told_when_that_is_filled_again():
    lane: Lane[str] = Lane("w", FixedLimit(8), Rules(), requests=TokenBucket(0.1, 1.0, 0.0))
    ended(lane, 0.1)
    fill(lane, 1)
    lane.start(Priority.NORMAL, 0, 0.0)
    fill(lane, 3)
    assert 30.0 <= lane.drain(0.0) <= 60.0


def test_who_was_told_to_come_back_is_counted_when_others_are_told_when():
    lane: Lane[str] = Lane("w", FixedLimit(8), Rules())
    ended(lane, 0.1)
    assert lane.drain(1.0) == 1.0
    for n in range(800):
        lane.refused(1.0 + n / 800)
    assert 5.0 < lane.drain(2.0) < 10.0
    assert lane.drain(20.0) == 1.0


def test_a_clock_that_jumps_back_breaks_nothing():
    lane: Lane[str] = Lane("w", FixedLimit(2), Rules(), requests=TokenBucket(10.0, 2.0, 100.0))
    ended(lane, 0.1)
    lane.refused(100.0)
    lane.refused(5.0)
    assert lane.drain(5.0) >= 1.0
    assert lane.decide(Asker(Priority.NORMAL, "-", 1.0, ""), None, 60.0, None, 5.0).verdict is Verdict.ADMIT
    assert lane.drops(Priority.NORMAL, -95.0, None, 5.0) is None


loads = st.builds(
    Arrival,
    at=st.floats(0.0, 3.0),
    service=st.floats(0.001, 1.0),
    priority=st.sampled_from(list(Priority)),
    session=st.sampled_from(["", "a", "b", "c"]),
    caller=st.sampled_from(["-", "x", "y"]),
    weight=st.just(1.0),
    deadline=st.floats(0.05, 5.0),
)
rules = st.builds(Rules, st.booleans(), st.sampled_from([None, 0.05, 0.1]), st.booleans())


@settings(deadline=None, max_examples=60)
@given(st.lists(loads, max_size=120), rules, st.integers(1, 8), st.sampled_from([None, 0.05, 1.0]))
def test_whatever_comes_each_request_ends_once_within_bounds_and_the_same_each_time(arrivals, rules, limit, budget):
    arrivals = sorted(arrivals, key=lambda a: a.at)
    runs = []
    for _ in range(2):
        fresh = [Arrival(a.at, a.service, a.priority, a.session, a.caller, a.weight, a.deadline) for a in arrivals]
        out = Simulation(limit=limit, rules=rules, budget=budget).run(fresh)
        assert out.most_running <= limit
        for a in fresh:
            assert (a.refused is not None) + (a.dropped is not None) + (a.ended is not None) == 1
            assert a.started is None or a.ended is not None  # what has begun is never shed
        runs.append([(a.refused, a.dropped, a.started, a.ended) for a in fresh])
    assert runs[0] == runs[1]


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 1000), st.sampled_from([2.0, 5.0, 10.0]), st.sampled_from([0.3, 0.5]))
def test_no_class_starves_within_what_the_higher_ones_leave(seed, load, high):
    random = Random(seed)
    arrivals = merged(
        poisson(random, CAPACITY * high, 10.0, priority=Priority.CRITICAL),
        poisson(random, CAPACITY * (1 - high) * 0.4, 10.0, priority=Priority.NORMAL),
        poisson(random, CAPACITY * load, 10.0, priority=Priority.LOW),
    )
    out = Simulation().run(arrivals)
    assert out.share(priority=Priority.CRITICAL) >= 0.97
    assert out.share(priority=Priority.NORMAL) >= 0.85
    assert out.served(priority=Priority.LOW)


def test_who_was_let_in_before_replicas_were_lost_may_wait_that_much_longer():
    pool = Pool(["one", "two"], PoolRules(False, 1, 0.0, BreakerRules(failures=1, open_s=60.0)))
    lane: Lane[str] = Lane("w", FixedLimit(8), Rules(codel_interval=None))
    lane.pool = pool
    pool.on_change = lambda: lane.refit(100.0)
    lane.refit(100.0)
    lane.refit(200.0)
    assert (lane.limit, lane.patience(0.5, now=200.0)) == (2, 0.5)
    assert lane.drops(Priority.NORMAL, 0.9, 0.5, 200.0) is Reason.OVERDUE
    attempt = pool.choose(None, 200.0)
    assert attempt is not None
    pool.on_change = lambda: lane.refit(200.0)
    pool.ended(attempt, 200.0, Result.FAULT)
    assert (lane.limit, lane.patience(0.5, now=200.1)) == (1, 1.0)
    assert lane.drops(Priority.NORMAL, 0.9, 0.5, 200.1) is None
    assert lane.drops(Priority.NORMAL, 1.2, 0.5, 200.1) is Reason.OVERDUE
    assert lane.patience(0.5, now=230.0) == 0.5  # whoever came before has gone
    assert lane.budget(0.5) == 0.5  # for newcomers nothing has changed
