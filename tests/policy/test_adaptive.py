"""The adaptive limit in front of simulated backends: it finds what nobody configured, and follows it."""

from math import sqrt
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.policy.concurrency import AdaptiveLimit, FixedLimit, headroom
from tests.policy.simulation import Backend, Simulation, Trace, Work

SEEDS = (1, 2, 3)


def simulate(limit, backend: Backend, load, until: float, *, clock=None, **options) -> Trace:
    if clock is not None:
        limit = Jumping(limit, clock)
    return Simulation(limit, backend, load, queue=24, **options).run(until)


class Jumping:
    """A limit that is told times of another clock."""

    def __init__(self, limit, clock) -> None:
        self._limit, self._clock = limit, clock

    @property
    def limit(self) -> int:
        return self._limit.limit

    def first_delta(self, seconds, prompt_tokens, inflight, now) -> None:
        self._limit.first_delta(seconds, prompt_tokens, inflight, self._clock(now))

    def pushed_back(self, retry_after, inflight, now) -> None:
        self._limit.pushed_back(retry_after, inflight, self._clock(now))

    def tick(self, inflight, oldest, now) -> None:
        self._limit.tick(inflight, oldest, self._clock(now))


def constant(seconds: float):
    return lambda draws, prompt: Work(seconds, seconds)


def slots(number: int):
    return lambda backend: setattr(backend, "slots", number)


def taking(seconds: float):
    return lambda backend: setattr(backend, "work", constant(seconds))


def frozen(*, is_frozen: bool):
    return lambda backend: setattr(backend, "frozen", is_frozen)


def prompt_lengths(random: Random) -> int:
    return max(50, min(4000, int(random.lognormvariate(6, 1))))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [2, 10])
def test_eight_slots_are_found_kept_busy_and_hardly_queued_at(load, seed):
    result = simulate(AdaptiveLimit(256), Backend(8, constant(0.1)), 80 * load, 30, seed=seed)
    assert result.rate(3, 30) >= 0.97 * 80
    assert result.first(3, 30) <= 0.16
    assert max(result.between(3, 30)) <= 16


@pytest.mark.parametrize("load", [0.7, 1])
def test_what_fits_is_not_held_back(load):
    result = simulate(AdaptiveLimit(256), Backend(8, constant(0.1)), 80 * load, 60)
    assert result.rate(3, 60) >= 0.96 * 80 * load


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("load", [0.9, 2, 10])
@pytest.mark.parametrize(("less", "more"), [(slots(2), slots(10)), (taking(0.5), taking(0.1))], ids=["slots", "time"])
def test_capacity_to_a_fifth_and_back_is_followed_within_three_seconds(less, more, load, seed):
    """Ten slots become two; or the same ten become five times slower, which looks like a queue and is none."""
    backend = Backend(10, constant(0.1))
    result = simulate(AdaptiveLimit(256), backend, 100 * load, 60, seed=seed, changes=((20, less), (40, more)))
    assert result.rate(23, 40) >= 0.9 * 20
    assert result.rate(43, 60) >= 0.9 * 100 * min(load, 0.98)


def test_hundreds_of_slots_are_found_too():
    """As vLLM has them: streams of two seconds whose prompts are of all lengths."""
    backend = Backend(256, lambda _, prompt: Work(0.05 + 0.0002 * prompt, 2.05 + 0.0002 * prompt))
    capacity = 256 / 2.2
    result = simulate(AdaptiveLimit(512), backend, 2 * capacity, 60, prompts=prompt_lengths)
    assert result.rate(15, 60) >= 0.9 * capacity
    assert result.first(30, 60) <= 0.5


def test_one_slow_slot_is_never_left_idle():
    """A model on one machine, five seconds an answer: the limit comes down to one or two."""
    result = simulate(AdaptiveLimit(256), Backend(1, lambda _, prompt: Work(0.3, 5.3)), 1.0, 900)
    assert result.rate(20, 900) >= 0.97 / 5.3
    assert max(result.between(600, 900)) <= 3


def test_long_prompts_are_not_taken_for_a_queue():
    backend = Backend(64, lambda _, prompt: Work(*[0.02 + 0.001 * prompt] * 2))
    limit = AdaptiveLimit(256)
    mix = lambda random: 20 if random.random() < 0.8 else 2000  # noqa: E731
    result = simulate(limit, backend, 100.0, 60, prompts=mix)
    assert result.rate(5, 60) >= 0.97 * 100
    assert limit.baseline < 0.2  # of the two seconds that a long prompt takes, the most is its own


def test_a_mix_that_becomes_longer_is_not_either():
    backend = Backend(400, lambda _, prompt: Work(*[0.02 + 0.001 * prompt] * 2))
    lengths = iter([20 + n % 400 for n in range(2000)])
    longer = lambda random: next(lengths, 1500 + random.randrange(500))  # noqa: E731
    result = simulate(AdaptiveLimit(512), backend, 60.0, 90, prompts=longer)
    assert result.rate(60, 90) >= 0.7 * 60  # lengths that have never been seen take a while


@pytest.mark.parametrize("spread", ["exponential", "lognormal"])
@pytest.mark.parametrize("load", [1, 2, 10])
def test_noise_does_not_bring_it_down(load, spread):
    def work(random: Random, _prompt: int) -> Work:
        seconds = random.expovariate(10) if spread == "exponential" else 0.1 * random.lognormvariate(-0.045, 0.3)
        return Work(seconds, seconds)

    result = simulate(AdaptiveLimit(256), Backend(8, work), 80 * load, 60)
    assert result.rate(3, 60) >= 0.93 * 80


@pytest.mark.parametrize("load", [1, 2, 10])
def test_a_backend_that_says_429_above_five_calls_is_taken_at_its_word(load):
    result = simulate(AdaptiveLimit(256), Backend(100, constant(0.1), most=5), 50 * load, 60)
    assert result.rate(5, 60) >= 0.93 * 50
    assert len(result.refused) <= 20
    assert max(result.between(5, 60)) <= 6


def test_until_the_time_that_the_backend_named_the_limit_does_not_grow():
    limit = AdaptiveLimit(64, initial=10)
    limit.pushed_back(30.0, 9, 100.0)
    lowered = limit.limit
    assert lowered < 8
    for n in range(200):
        limit.first_delta(0.1, 10, lowered, 100.3 + n * 0.1)
    assert limit.limit == lowered
    for n in range(200):
        limit.first_delta(0.1, 10, limit.limit, 135 + n * 0.1)
    assert limit.limit > lowered


def test_an_absurd_retry_after_holds_for_a_minute_at_most():
    limit = AdaptiveLimit(64, initial=10)
    limit.pushed_back(86_400.0, 9, 0.0)
    lowered = limit.limit
    for n in range(300):
        limit.first_delta(0.1, 10, limit.limit, 62 + n * 0.1)
    assert limit.limit > lowered


def test_a_frozen_backend_lowers_it_without_a_word_and_it_recovers():
    changes = ((20, frozen(is_frozen=True)), (30, frozen(is_frozen=False)))
    result = simulate(AdaptiveLimit(256), Backend(8, constant(0.1)), 160, 60, changes=changes)
    assert min(result.between(25, 30)) <= 4
    assert result.rate(35, 60) >= 0.95 * 80


def test_idle_for_minutes_and_then_traffic():
    result = simulate(AdaptiveLimit(256), Backend(8, constant(0.1)), lambda now: 0.0 if 10 < now < 300 else 160.0, 320)
    assert result.rate(301, 320) >= 0.97 * 80


def test_a_worker_in_this_process_is_never_held_back():
    """Its answers take microseconds, and the event loop stalls now and then."""
    stalls = lambda random, _: Work(*[0.1 if random.random() < 0.001 else 5e-6] * 2)  # noqa: E731
    result = simulate(AdaptiveLimit(256), Backend(100_000, stalls), 5000, 5)
    assert result.rate(0.5, 4.9) >= 0.99 * 5000


def test_slow_answers_to_few_requests_do_not_lower_it():
    result = simulate(
        AdaptiveLimit(64, initial=32), Backend(100, lambda random, _: Work(*[random.uniform(0.1, 1.0)] * 2)), 4, 120
    )
    assert min(result.between(0, 120)) >= 32


@pytest.mark.parametrize("jump", [-1e6, 1e6])
def test_a_clock_that_jumps_breaks_nothing(jump):
    clock = lambda now: now if now < 10 else now + jump  # noqa: E731
    result = simulate(AdaptiveLimit(256), Backend(8, constant(0.1)), 160, 30, clock=clock)
    assert result.rate(15, 30) >= 0.97 * 80


def test_a_fixed_limit_stays():
    limit = FixedLimit(5)
    limit.pushed_back(1.0, 5, 0.0)
    limit.first_delta(100.0, 1, 5, 1.0)
    limit.tick(5, 100.0, 2.0)
    assert limit.limit == 5


def test_the_same_again_is_the_same():
    runs = [simulate(AdaptiveLimit(256), Backend(8, constant(0.1)), 160, 20).limits for _ in range(2)]
    assert runs[0] == runs[1]


def test_headroom_grows_with_the_root():
    assert headroom(1) == pytest.approx(0.6)
    assert headroom(256) == pytest.approx(0.6 * sqrt(256))


events = st.lists(
    st.one_of(
        st.tuples(st.just("delta"), st.floats(0, 100), st.integers(0, 10**6), st.integers(1, 1000)),
        st.tuples(st.just("pushed"), st.one_of(st.none(), st.floats(0, 1e9)), st.integers(0, 1000)),
        st.tuples(st.just("tick"), st.integers(0, 1000), st.floats(0, 1e4)),
    ),
    max_size=200,
)


@settings(deadline=None)
@given(events, st.integers(1, 300), st.lists(st.floats(-10, 10), min_size=200, max_size=200))
def test_it_stays_within_its_bounds_whatever_it_is_told(events, maximum, steps):
    limit = AdaptiveLimit(maximum)
    now = 0.0
    for (what, *told), step in zip(events, steps, strict=False):
        now += step
        if what == "delta":
            limit.first_delta(*told, now)
        elif what == "pushed":
            limit.pushed_back(*told, now)
        else:
            limit.tick(*told, now)
        assert 1 <= limit.limit <= maximum
        assert 0.0 <= limit.baseline < 1e9
