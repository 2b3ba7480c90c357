import heapq
import math
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.policy.typical import Typical

TICK = 0.1


def taught(typical: Typical, times: int, hold: float, *, first: float | None = None, inflight: int = 8, **more) -> None:
    fields = {"tokens": 10, "now": 0.0, **more}
    for _ in range(times):
        typical.ended(hold, hold / 5 if first is None else first, inflight=inflight, **fields)


class Backend:
    """`slots` calls run all the time, each for as long as `hold` says when it begins; the tick comes ten times a
    second. Simulated time."""

    def __init__(self, slots: int, hold: Callable[[], float], typical: Typical | None = None) -> None:
        self.typical = typical or Typical()
        self.hold = hold
        self.now = 0.0
        self.ends = 0
        self._began = dict.fromkeys(range(slots), 0.0)
        self._due = [(hold(), slot) for slot in range(slots)]
        heapq.heapify(self._due)
        self._tick = TICK

    def run(self, seconds: float) -> None:
        until = self.now + seconds
        while min(self._due[0][0], self._tick) <= until:
            due, slot = self._due[0]
            if self._tick < due:
                self.now = self._tick
                self._tick += TICK
                ages = [self.now - began for began in self._began.values()]
                self.typical.overdue(sum(ages) / len(ages))
                continue
            self.now = due
            took = due - self._began[slot]
            self.typical.ended(took, took / 5, 20, due, len(self._due))
            self.ends += 1
            self._began[slot] = due
            heapq.heapreplace(self._due, (due + self.hold(), slot))
        self.now = until

    def run_until_ends(self, count: int) -> None:
        until = self.ends + count
        while self.ends < until:
            self.run(0.01)


def test_nothing_is_known_at_first():
    typical = Typical()
    assert (typical.hold, typical.tokens) == (0.0, 0.0)
    assert typical.answer(None) == typical.answer(100) == 0.0


def test_one_call_says_how_long_calls_take_and_little_of_what_they_take_at_least():
    typical = Typical()
    taught(typical, 1, 2.0)
    assert typical.hold == 2.0
    assert typical.answer(None) < 0.5


@pytest.mark.parametrize("inflight", [1, 8, 100])
def test_calls_that_are_all_alike(inflight):
    typical = Typical()
    taught(typical, 20 * max(inflight, 20), 2.1, first=0.1, tokens=40, prompt=60, inflight=inflight)
    assert typical.hold == pytest.approx(2.1)
    assert typical.tokens == pytest.approx(100)
    assert typical.answer(None) == pytest.approx(2.1, rel=0.1)
    assert typical.answer(20) == pytest.approx(1.1, rel=0.1)
    assert typical.answer(4000) == typical.answer(None)


def test_what_a_call_costs():
    typical = Typical()
    assert (typical.cost(100, None), typical.cost(100, 50)) == (100, 150)  # nothing known: as many as it may have
    taught(typical, 50, 1.0, tokens=30, prompt=1000)
    assert (typical.cost(100, None), typical.cost(100, 50), typical.cost(100, 7)) == (130, 130, 107)


@pytest.mark.parametrize("factor", [5.0, 0.2])
def test_a_step_is_followed_within_two_rounds(factor):
    backend = Backend(8, lambda: 0.1)
    backend.run(10.0)
    assert backend.typical.hold == pytest.approx(0.1)
    backend.hold = lambda: 0.1 * factor
    backend.run_until_ends(8 + 16)  # the calls of before the step, and two rounds
    assert backend.typical.hold == pytest.approx(0.1 * factor, rel=0.3)


def test_more_calls_at_once_weigh_less_each():
    few, many = Typical(), Typical()
    for typical, inflight in ((few, 8), (many, 64)):
        taught(typical, 500, 1.0, inflight=inflight)
        taught(typical, 16, 3.0, inflight=inflight)
    assert few.hold > 2.5
    assert 1.2 < many.hold < 1.8
    taught(many, 48, 3.0, inflight=64)  # a whole round
    assert many.hold == pytest.approx(2.5, abs=0.1)


def test_the_mean_of_times_that_vary_is_the_mean():
    draws = random.Random(7)
    backend = Backend(32, lambda: draws.expovariate(1 / 0.5))
    backend.run(20.0)
    means = []
    for _ in range(100):
        backend.run(0.5)
        means.append(backend.typical.hold)
    assert sum(means) / len(means) == pytest.approx(0.5, rel=0.05)
    assert max(means) < 1.0


def test_a_backend_that_freezes_is_noticed_although_nothing_ends():
    backend = Backend(8, lambda: 0.1)
    backend.run(5.0)
    backend.hold = lambda: math.inf
    backend.run(0.1)  # the last of those that began before
    ends = backend.ends
    for seconds in range(1, 10):
        backend.run(1.0)
        assert backend.ends == ends
        assert backend.typical.hold == pytest.approx(seconds, abs=0.2)


def test_a_first_call_that_does_not_end_is_noticed():
    typical = Typical()
    for tick in range(1, 20):
        typical.overdue(tick * TICK)
        assert typical.hold == tick * TICK
    taught(typical, 1, 30.0)
    assert typical.hold == 30.0


def test_one_call_that_hangs_beside_others_that_end_says_little():
    stuck = iter([math.inf])
    backend = Backend(8, lambda: next(stuck, 0.1))
    backend.run(600.0)  # the mean age of the calls under way is more than a minute
    assert backend.typical.hold == pytest.approx(0.1)
    backend.typical.ended(600.0, 0.1, 20, backend.now, 8)  # now it ends
    assert backend.typical.hold < 0.3


@pytest.mark.parametrize("spread", [0.3, 1.0])
def test_an_answer_is_on_the_low_side(spread):
    """Few of the calls that were made took less than what is said of an answer."""
    draws = random.Random(3)
    typical = Typical()
    quicker = 0
    for number in range(2000):
        tokens = 1 + int(draws.lognormvariate(4, spread))
        first = draws.lognormvariate(-2, spread)
        hold = first + tokens * 0.01
        if number >= 100:
            quicker += hold < typical.answer(None)
        typical.ended(hold, first, tokens, number * 0.1, 8)
    assert quicker < 0.15 * 1900
    assert typical.answer(None) > 0.1


def test_what_is_said_of_answers_falls_at_once_and_rises_slowly():
    typical = Typical()
    taught(typical, 300, 5.0)
    assert typical.answer(None) > 4.5
    taught(typical, 4, 0.5)
    assert typical.answer(None) < 0.8
    taught(typical, 4, 5.0)
    assert typical.answer(None) < 1.5


def test_what_was_long_ago_counts_little():
    typical = Typical()
    taught(typical, 100, 10.0, now=0.0)
    taught(typical, 1, 1.0, now=3600.0)
    assert typical.hold == pytest.approx(5.5)
    taught(typical, 3, 1.0, now=3601.0)
    assert typical.hold < 3.0


@pytest.mark.parametrize("hold", [-1.0, math.nan, math.inf, -math.inf])
def test_a_time_that_is_none_is_not_counted(hold):
    typical = Typical()
    taught(typical, 10, 1.0)
    before = (typical.hold, typical.tokens, typical.answer(None))
    typical.ended(hold, 0.1, 1000, 1.0, 1, 1000)
    assert (typical.hold, typical.tokens, typical.answer(None)) == before


def test_a_call_that_delivered_nothing_says_nothing_of_answers():
    typical = Typical()
    taught(typical, 100, 1.0)
    before = typical.answer(None)
    for _ in range(5):
        typical.ended(9.0, None, 0, 0.0, 8)
    assert typical.answer(None) == before
    assert typical.hold > 4.0


seconds = st.floats(0.0, 1e6)
ends = st.tuples(seconds, st.none() | st.floats(0.0, 1.0), st.integers(0, 100_000), st.integers(1, 5000), seconds)


@given(st.lists(ends | seconds, max_size=60), st.none() | st.integers(1, 1_000_000))
def test_it_is_never_negative_no_nan_and_bounded_by_what_was_seen(happened, max_tokens):
    typical = Typical()
    holds, firsts, gaps, lengths, ages = [0.0], [0.0], [0.0], [0], [0.0]
    for what in happened:
        if isinstance(what, float):
            typical.overdue(what)
            ages.append(what)
        else:
            hold, share, tokens, inflight, now = what
            first = None if share is None else share * hold
            typical.ended(hold, first, tokens, now, inflight)
            holds.append(hold)
            if first is not None and tokens:
                firsts.append(first)
                gaps.append((hold - first) / tokens)
                lengths.append(tokens)
        slack = 1 + 1e-9
        assert 0.0 <= typical.hold <= max(*holds, *ages) * slack
        longest = max(lengths) if max_tokens is None else min(max_tokens, max(lengths))
        assert 0.0 <= typical.answer(max_tokens) <= (max(firsts) + max(gaps) * longest) * slack
        assert 0 <= typical.cost(0, None) <= max(lengths)
