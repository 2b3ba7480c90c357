"""Who waits, who is worked on, and what becomes of whom. No I/O: the clock and the timer are passed in.

A slot's time is counted without the lateness of this process's event loop: when work ends, it has ended at the moment
that was planned, and the next in line begins at that moment and not some milliseconds later. A model on a machine of
its own would not be slowed by what runs here either. Only what the client causes (it leaves, or does not read) counts
as it happens.
"""

import math
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from benchmarks.service import Course, Service, course, fails, mean_duration
from benchmarks.simulated.log import Entry, Log

_LONGEST_RETRY = 3600
_ROUNDING = 1e-6  # a token that is due at the very end has been made


class Sizes(NamedTuple):
    words: int
    max_tokens: int | None


class Job:
    """One request. `turn` is called when it gets its slot, or fails instead (`failure` is then the status).

    `start` and `course` are there from then on.
    """

    __slots__ = ("arrived", "cancel", "course", "ended", "entry", "failure", "gone", "number", "sizes", "start", "turn")

    def __init__(self, number: int, sizes: Sizes, arrived: float, entry: Entry) -> None:
        self.number = number
        self.sizes = sizes
        self.arrived = arrived
        self.entry = entry
        self.turn: Callable[[], None] | None = None
        self.start = math.nan
        self.course: Course | None = None
        self.failure: int | None = None
        self.cancel = True  # whether work stops when the client goes away; from the settings, when work begins
        self.gone = False
        self.ended = False

    @property
    def waits(self) -> bool:
        return self.course is None and not self.ended

    @property
    def end(self) -> float:
        """When work is to end."""
        assert self.course is not None
        return self.start + self.course.duration


class Full(Exception):
    """Raised when as many wait as may; `retry_after` is in whole seconds, how long the line will need."""

    def __init__(self, waiting: int, retry_after: int) -> None:
        super().__init__(f"{waiting} requests wait already")
        self.waiting = waiting
        self.retry_after = retry_after


class Slots:
    """The line and the slots of one replica: first come, first served.

    `clock` gives seconds, `call_at` calls back at such a moment.
    """

    def __init__(
        self, service: Service, clock: Callable[[], float], call_at: Callable[[float, Callable[[], None]], object]
    ) -> None:
        self.service = service
        self.log = Log()
        self._clock = clock
        self._call_at = call_at
        self._waiting: OrderedDict[Job, str] = OrderedDict()  # with the name of their run
        self._running: dict[Job, str] = {}

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def in_flight(self) -> int:
        return len(self._running)

    def arrive(self, run: str, number: int, sizes: Sizes) -> Job:
        """Begins at once where a slot is free, else waits. Raises Full."""
        now = self._clock()
        entry = self.log.arrived(run, number, now)
        job = Job(number, sizes, now, entry)
        if len(self._running) < self.service.slots and not self._waiting:
            self._start(job, run, now)
        elif self.service.queue is not None and len(self._waiting) >= self.service.queue:
            self.log.ended(entry, "refused", now)
            raise Full(len(self._waiting), self._retry_after(sizes))
        else:
            self._waiting[job] = run
        return job

    def done(self, job: Job, at: float) -> None:
        """Its work has ended and its client has the answer."""
        self._end(job, "served", at)

    def left(self, job: Job) -> None:
        """Its client is gone. Nothing happens when it has ended before, or its client had gone already."""
        if job.ended or job.gone:
            return
        if job in self._waiting:
            if self.service.cancel:
                del self._waiting[job]
                job.ended = True
                self.log.left_the_line(job.entry, self._clock())
            job.gone = True
        elif job.cancel:
            self._end(job, "cancelled", self._clock())
        else:
            job.gone = True
            self._finish_alone(job)

    def change(self, service: Service) -> None:
        """Holds for whoever starts from now on; fewer slots end nothing."""
        self.service = service
        self._fill(self._clock())

    def reset(self) -> None:
        """All counts and the log back to zero; requests under way count as arrivals of the new ones."""
        self.log = Log()
        for jobs in (self._running, self._waiting):
            for job, run in jobs.items():
                job.entry = self.log.arrived(run, job.number, job.arrived)
                if not job.waits:
                    self.log.started(job.entry, job.start)

    def _fill(self, freed: float) -> None:
        """Slots that are free since that moment go to the first in line."""
        while self._waiting and len(self._running) < self.service.slots:
            job, run = self._waiting.popitem(last=False)
            self._start(job, run, max(freed, job.arrived))
            if job.turn is not None:
                job.turn()

    def _start(self, job: Job, run: str, at: float) -> None:
        service = self.service
        job.start = at
        job.cancel = service.cancel
        self.log.started(job.entry, at)
        if fails(service, job.number):
            job.failure = service.failure_status
            job.ended = True
            self.log.ended(job.entry, "cancelled" if job.gone else "failed", at)
            return
        job.course = course(service, job.number, *job.sizes)
        self._running[job] = run
        if job.gone:
            self._finish_alone(job)

    def _finish_alone(self, job: Job) -> None:
        self._call_at(job.end, lambda: self._end(job, "cancelled", job.end))

    def _end(self, job: Job, outcome: str, at: float) -> None:
        assert job.course is not None
        del self._running[job]
        job.ended = True
        held = max(at - job.start, 0.0)
        tokens = job.course.tokens if outcome == "served" else job.course.made(held + _ROUNDING)
        self.log.ended(job.entry, outcome, at, held=held, tokens=tokens)
        self._fill(at)

    def _retry_after(self, sizes: Sizes) -> int:
        """Until the line as it is has passed, if all in it are as large as this one."""
        if not self.service.slots:
            return _LONGEST_RETRY
        seconds = (len(self._waiting) + 1) * mean_duration(self.service, *sizes) / self.service.slots
        return min(max(math.ceil(seconds), 1), _LONGEST_RETRY)
