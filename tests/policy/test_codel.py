"""A burst is taken up, a standing queue is cut."""

from itertools import pairwise

from pipeline.policy.codel import CoDel


def test_one_burst_drops_nothing():
    codel = CoDel(0.1)
    for step in range(9):  # above the target for less than an interval
        assert not codel.drops(0.2, 0.05, step * 0.01)
    assert not codel.drops(0.01, 0.05, 0.1)
    assert not codel.drops(0.2, 0.05, 0.11)
    assert not codel.standing


def test_what_the_door_alone_will_mend_is_not_dropped():
    codel = CoDel(0.1)
    assert not any(codel.drops(0.09, 0.05, step / 100) for step in range(200))
    assert codel.standing


def test_above_the_target_for_an_interval_drops_ever_sooner():
    codel = CoDel(0.1)
    drops = [step / 100 for step in range(200) if codel.drops(0.2, 0.05, step / 100)]
    assert codel.standing
    assert drops[0] == 0.1
    gaps = [later - earlier for earlier, later in pairwise(drops)]
    assert gaps[0] > 0.08
    assert gaps[-1] < 0.04


def test_below_the_target_it_stops_dropping_but_the_queue_stands_until_it_was_empty():
    codel = CoDel(0.1)
    for step in range(50):
        codel.drops(0.2, 0.05, step / 100)
    assert not codel.drops(0.04, 0.05, 0.5)
    assert codel.standing
    codel.emptied()
    assert not codel.standing
    assert not codel.drops(0.2, 0.05, 0.51)


def test_soon_after_it_goes_on_near_where_it_was():
    first, again = CoDel(0.1), CoDel(0.1)
    for step in range(100):
        again.drops(0.2, 0.05, step / 100)
    again.drops(0.01, 0.05, 1.0)
    count = [sum(codel.drops(0.2, 0.05, 1.01 + step / 100) for step in range(60)) for codel in (first, again)]
    assert count[1] > count[0]


def test_a_clock_that_jumps_back_begins_anew():
    codel = CoDel(0.1)
    codel.drops(0.2, 0.05, 1000.0)
    assert not codel.drops(0.2, 0.05, 5.0)
    assert not codel.drops(0.2, 0.05, 5.05)
    assert codel.drops(0.2, 0.05, 5.11)
