from random import Random

from benchmarks.soak.growth import Allowance, growth, judged, slope, thinned

ALLOWED = Allowance(warmup=30, grow=10, most=200)


def course(value, seconds=600):
    return [(float(second), value(second)) for second in range(seconds)]


class TestSlope:
    def test_of_a_line_is_its_own(self):
        assert abs(slope(course(lambda t: 50 + 0.25 * t)) - 0.25) < 1e-9

    def test_is_not_moved_by_a_quarter_of_wild_points(self):
        random = Random(1)
        points = course(lambda t: 50 + 0.01 * t + (random.random() < 0.2) * 1000)
        assert 0.008 < slope(points) < 0.02

    def test_of_less_than_two_moments_is_none(self):
        assert slope([]) == slope([(1.0, 5.0)]) == slope([(1.0, 5.0), (1.0, 9.0)]) == 0.0


class TestJudged:
    def test_a_leak_is_found(self):
        (problem,) = judged("memory of the shard process 7", course(lambda t: 60 + t / 40), ALLOWED, "MB")
        assert "memory of the shard process 7 grew by 14" in problem
        assert "10 may be" in problem

    def test_what_settles_in_the_warm_up_is_no_growth(self):
        assert judged("it", course(lambda t: 60 + min(t, 30)), ALLOWED, "MB") == []

    def test_bursts_that_come_again_and_again_are_none(self):
        assert judged("it", course(lambda t: 60 + 100 * (t % 20 == 0)), ALLOWED, "MB") == []

    def test_the_limit_holds_in_the_warm_up_too(self):
        (problem,) = judged("it", course(lambda t: 300 if t == 3 else 60), ALLOWED, "MB")
        assert "300 MB, more than 200" in problem

    def test_a_short_life_says_nothing_about_growth(self):
        assert growth(course(lambda t: t, seconds=35), warmup=30) is None


def test_thinned_keeps_both_ends():
    points = course(lambda t: t)
    kept = thinned(points, 50)
    assert len(kept) == 50
    assert (kept[0], kept[-1]) == (points[0], points[-1])
    assert thinned(points[:10], 50) == points[:10]
