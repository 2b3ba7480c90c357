from pipeline.process.backoff import HEALTHY_AFTER, Backoff


def test_the_first_death_costs_no_time():
    assert Backoff().after(0.0) == 0.0


def test_doubles_up_to_its_longest():
    backoff = Backoff()
    delays = [backoff.after(1.0) for _ in range(9)]
    assert delays == [0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_health_is_forgiving():
    backoff = Backoff()
    for _ in range(6):
        backoff.after(HEALTHY_AFTER - 0.1)
    assert backoff.after(HEALTHY_AFTER) == 0.0
    assert backoff.after(0.0) == 0.1
