from pipeline.policy.admission import RETRY_AFTER_MAX, RETRY_AFTER_MIN, retry_after


def test_the_wait_is_the_time_to_drain_what_waits():
    assert retry_after(400, 80.0) == 5.0


def test_bounds():
    assert retry_after(1, 1000.0) == RETRY_AFTER_MIN
    assert retry_after(100_000, 1.0) == RETRY_AFTER_MAX


def test_nothing_is_known_without_a_rate():
    assert retry_after(10, 0.0) == RETRY_AFTER_MAX
    assert retry_after(0, 0.0) == RETRY_AFTER_MIN
