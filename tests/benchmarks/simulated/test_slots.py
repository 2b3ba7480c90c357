"""The line and the slots, on a clock that the test turns."""

from collections.abc import Callable
from heapq import heappop, heappush

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from benchmarks.service import Service, fails
from benchmarks.simulated.slots import Full, Job, Sizes, Slots

ONE = Sizes(1, None)
SECOND = Service(slots=1, first_token_ms=1000)


class Time:
    """A clock that goes to `until` and calls what is due on the way."""

    def __init__(self) -> None:
        self.now = 100.0
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    def call_at(self, at: float, back: Callable[[], None]) -> None:
        self._count += 1
        heappush(self._due, (at, self._count, back))

    def until(self, at: float) -> None:
        while self._due and self._due[0][0] <= at:
            self.now, _, back = heappop(self._due)
            back()
        self.now = at


class Bench:
    """Slots, with clients that take their answers when they are ready."""

    def __init__(self, service: Service) -> None:
        self.time = Time()
        self.slots = Slots(service, lambda: self.time.now, self.time.call_at)

    def ask(self, number: int, run: str = "run") -> Job:
        job = self.slots.arrive(run, number, ONE)
        if job.waits:
            job.turn = lambda: self._answer(job)
        else:
            self._answer(job)
        return job

    def _answer(self, job: Job) -> None:
        if job.failure is None:
            self.time.call_at(job.end, lambda: None if job.ended or job.gone else self.slots.done(job, job.end))

    def identity(self) -> None:
        log, open_now = self.slots.log, self.slots.in_flight + self.slots.waiting
        for counts in (log.counts, log.run("run").counts):
            ended = counts.served + counts.cancelled + counts.failed + counts.refused
            assert counts.arrivals == ended + open_now
            assert counts.cancelled_waiting <= counts.cancelled

    def outcomes(self) -> list[str]:
        return [row[-1] for row in self.slots.log.run("run").rows(0.0)]


def test_first_come_first_served():
    bench = Bench(SECOND)
    jobs = [bench.ask(number) for number in range(3)]
    bench.time.until(110.0)
    assert [job.start for job in jobs] == [100.0, 101.0, 102.0]
    assert bench.outcomes() == ["served"] * 3
    assert bench.slots.log.counts.busy_seconds == 3.0
    assert bench.slots.log.counts.tokens == 3 * 16


def test_who_is_late_does_not_make_the_next_one_late():
    """The loop noticed an end 0.2 s after it had been due: the next one has had its slot since then."""
    bench = Bench(SECOND)
    first, second = bench.slots.arrive("run", 0, ONE), bench.slots.arrive("run", 1, ONE)
    bench.time.now = 100.9
    third = bench.slots.arrive("run", 2, ONE)
    bench.time.now = 101.2
    bench.slots.done(first, first.end)
    assert second.start == 101.0
    bench.time.now = 102.5
    bench.slots.done(second, 102.5)  # its client was slow, and that counts
    assert third.start == 102.5


def test_nobody_starts_before_it_came():
    bench = Bench(SECOND)
    first = bench.slots.arrive("run", 0, ONE)
    bench.time.now = 101.5
    second = bench.slots.arrive("run", 1, ONE)
    bench.slots.done(first, first.end)
    assert second.start == 101.5


def test_the_line_is_as_long_as_it_may_be():
    bench = Bench(msgspec.structs.replace(SECOND, queue=2))
    for number in range(3):
        bench.ask(number)
    with pytest.raises(Full) as full:
        bench.ask(3)
    assert (full.value.waiting, full.value.retry_after) == (2, 3)
    assert bench.outcomes() == ["running"] * 3 + ["refused"]
    bench.identity()


def test_without_a_line_a_free_slot_is_still_given():
    bench = Bench(msgspec.structs.replace(SECOND, queue=0))
    bench.ask(0)
    with pytest.raises(Full) as full:
        bench.ask(1)
    assert full.value.retry_after == 1


def test_without_slots_the_wish_to_retry_has_a_bound():
    bench = Bench(Service(slots=0, queue=0))
    with pytest.raises(Full) as full:
        bench.ask(0)
    assert full.value.retry_after == 3600


def test_who_leaves_the_line_makes_room_at_once():
    bench = Bench(SECOND)
    _, second, third = (bench.ask(number) for number in range(3))
    bench.slots.left(second)
    bench.time.until(110.0)
    assert third.start == 101.0
    assert bench.outcomes() == ["served", "cancelled", "served"]
    assert bench.slots.log.counts.cancelled_waiting == 1
    assert [row[2:5] for row in bench.slots.log.run("run").rows(0.0)][1] == [None, 100.0, 0.0]


def test_who_leaves_its_slot_frees_it_at_once():
    bench = Bench(msgspec.structs.replace(SECOND, first_token_ms=0, tokens_per_second=15, tokens=16))
    first, second = bench.ask(0), bench.ask(1)
    bench.time.until(100.5)
    bench.slots.left(first)
    assert second.start == 100.5
    counts = bench.slots.log.counts
    assert (counts.cancelled, counts.cancelled_waiting, counts.busy_seconds, counts.tokens) == (1, 0, 0.5, 8)


def test_work_that_is_not_cancelled_is_carried_to_its_end():
    bench = Bench(msgspec.structs.replace(SECOND, cancel=False))
    first, second, third = (bench.ask(number) for number in range(3))
    bench.slots.left(first)
    bench.slots.left(second)
    bench.identity()
    bench.time.until(110.0)
    assert [job.start for job in (first, second, third)] == [100.0, 101.0, 102.0]
    assert bench.outcomes() == ["cancelled", "cancelled", "served"]
    assert bench.slots.log.counts.cancelled_waiting == 0
    assert bench.slots.log.counts.busy_seconds == 3.0
    assert bench.slots.log.counts.tokens == 3 * 16


def test_a_failure_holds_no_slot():
    bench = Bench(msgspec.structs.replace(SECOND, failure_rate=0.5, failure_status=502))
    jobs = [bench.ask(number) for number in range(12)]
    bench.time.until(120.0)
    failing = [number for number in range(12) if fails(bench.slots.service, number)]
    assert [job.number for job in jobs if job.failure == 502] == failing
    assert bench.slots.log.counts.failed == len(failing)
    assert bench.slots.log.counts.busy_seconds == 12 - len(failing)
    assert max(job.start for job in jobs) <= 100.0 + 12 - len(failing)


def test_slots_grow_and_shrink_under_requests():
    bench = Bench(msgspec.structs.replace(SECOND, slots=0))
    jobs = [bench.ask(number) for number in range(5)]
    assert (bench.slots.in_flight, bench.slots.waiting) == (0, 5)
    bench.slots.change(msgspec.structs.replace(SECOND, slots=3))
    assert (bench.slots.in_flight, bench.slots.waiting) == (3, 2)
    bench.slots.change(msgspec.structs.replace(SECOND, slots=1, first_token_ms=500))
    assert (bench.slots.in_flight, bench.slots.waiting) == (3, 2)
    bench.time.until(110.0)
    assert [job.start for job in jobs] == [100.0, 100.0, 100.0, 101.0, 101.5]


def test_a_reset_keeps_those_under_way():
    bench = Bench(SECOND)
    for number in range(3):
        bench.ask(number)
    bench.time.until(101.5)
    bench.slots.reset()
    bench.identity()
    assert bench.slots.log.counts.arrivals == 2
    bench.time.until(110.0)
    rows = list(bench.slots.log.run("run").rows(0.0))
    assert rows == [[1, 100.0, 101.0, 102.0, 1.0, "served"], [2, 100.0, 102.0, 103.0, 1.0, "served"]]
    bench.identity()


class Anything(RuleBasedStateMachine):
    """Whatever happens in whatever order, every request is in one place, and no more are worked on than may be."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(msgspec.structs.replace(SECOND, slots=2, queue=4, failure_rate=0.2, distribution="uniform"))
        self.jobs: list[Job] = []
        self.number = 0
        self.most = 2

    @rule()
    def ask(self) -> None:
        self.number += 1
        try:
            self.jobs.append(self.bench.ask(self.number))
        except Full:
            assert self.bench.slots.waiting >= 4

    @rule(seconds=st.floats(0, 1.5))
    def wait(self, seconds: float) -> None:
        self.bench.time.until(self.bench.time.now + seconds)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        self.bench.slots.left(data.draw(st.sampled_from(self.jobs)))

    @rule(slots=st.integers(0, 4), cancel=st.booleans())
    def change(self, slots: int, cancel: bool) -> None:
        self.most = max(self.bench.slots.in_flight, slots)
        changed = msgspec.structs.replace(self.bench.slots.service, slots=slots, cancel=cancel)
        self.bench.slots.change(changed)

    @invariant()
    def everybody_is_somewhere(self) -> None:
        slots = self.bench.slots
        self.bench.identity()
        assert slots.in_flight <= max(self.most, slots.service.slots)
        assert not slots.waiting or slots.in_flight >= slots.service.slots
        assert slots.waiting == sum(job.waits for job in self.jobs)

    def teardown(self) -> None:
        self.bench.slots.change(SECOND)
        self.bench.time.until(self.bench.time.now + 1000.0)
        assert (self.bench.slots.in_flight, self.bench.slots.waiting) == (0, 0)
        assert "running" not in self.bench.outcomes()


TestAnything = Anything.TestCase
