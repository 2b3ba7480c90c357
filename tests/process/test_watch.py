from hypothesis import given
from hypothesis import strategies as st

from pipeline.process.watch import PulseWatch

LIMIT, INTERVAL = 2.0, 0.1


def watched(pulses: list[float], steps: list[float]) -> list[dict[str, float]]:
    watch: PulseWatch[str] = PulseWatch(LIMIT, INTERVAL)
    now, found = 100.0, []
    for pulse, step in zip(pulses, steps, strict=True):
        now += step
        found.append(watch.look({"a": pulse}, now))
    return found


def test_a_pulse_that_stands_still_is_told_once():
    found = watched([1.0] * 40, [INTERVAL] * 40)
    (told,) = [each["a"] for each in found if each]
    assert LIMIT <= told < LIMIT + INTERVAL * 1.5


def test_a_pulse_that_moves_is_well():
    assert not any(watched([float(n) for n in range(100)], [INTERVAL] * 100))


def test_the_sleep_of_a_whole_machine_is_nobodys_fault():
    """After an hour nobody has beaten; nobody could."""
    assert not any(watched([1.0, 1.0, 1.0, 2.0], [INTERVAL, INTERVAL, 3600.0, INTERVAL]))


def test_a_watch_that_was_late_all_the_time_takes_longer():
    found = watched([1.0] * 40, [10 * INTERVAL] * 40)
    first = next(n for n, each in enumerate(found) if each)
    assert LIMIT / (2 * INTERVAL) <= first <= LIMIT / (2 * INTERVAL) + 1


def test_each_has_its_own_time():
    watch: PulseWatch[str] = PulseWatch(LIMIT, INTERVAL)
    told: dict[str, float] = {}
    for n in range(60):
        now = n * INTERVAL
        pulses = {"early": 1.0} if n < 10 else {"early": 1.0, "late": 1.0}
        told |= dict.fromkeys(watch.look(pulses, now), now)
    assert told["late"] - told["early"] >= 1.0 - INTERVAL


def test_who_was_away_begins_anew():
    watch: PulseWatch[str] = PulseWatch(LIMIT, INTERVAL)
    for n in range(15):
        assert not watch.look({"a": 1.0}, n * INTERVAL)
    watch.look({}, 1.5)
    for n in range(16, 30):
        assert not watch.look({"a": 1.0}, n * INTERVAL)


@given(st.lists(st.floats(0.0, 1000.0), min_size=1, max_size=60))
def test_never_before_so_many_looks_have_passed(steps):
    """Whatever the clock does between them."""
    found = watched([1.0] * len(steps), steps)
    fewest = LIMIT / (2 * INTERVAL)
    assert not any(each for n, each in enumerate(found) if n < fewest - 1)
