"""What became of each request: booked once, when it ends, into counts and histograms that stay small."""

from array import array
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from benchmarks.histogram import Histogram
from benchmarks.load.answer import Answer, End
from benchmarks.load.mix import Intent
from benchmarks.load.scenario import Phase
from benchmarks.oracle import Arrival
from benchmarks.report.model import Counts, Group, Moment, Refusal, Sessions, SessionWork, Timings

MOMENTS = 300  # stretches of the time line, at most
COMBINATIONS = 200  # of refusals that are told apart; the rest is booked together
SESSIONS = 20_000  # more in one phase are not told apart
BUSIEST = 50  # of them that a report names
# Reasons for which Headgate refuses before a request has waited anywhere, also where it names the stage that had no
# place left. Whatever else it sheds at a stage was taken out of a queue. The codes are those of limits and keys.
_DOOR = frozenset({"queue_full", "draining", "wait_budget"})
_DOOR_CODES = frozenset({"rate_limit_exceeded", "invalid_api_key", "permission_denied"})
_GONE = frozenset({End.TIMED_OUT, End.LEFT, End.STOPPED})


def outcome(answer: Answer) -> str:
    """The name of the field of `Counts` that an attempt with this answer counts as."""
    if answer.end is End.REFUSED:
        return _refused(answer.status)
    if answer.end is End.STOPPED:
        return "cancelled" if answer.sent else "unsent"
    return _OUTCOMES[answer.end]


_OUTCOMES = {
    End.WHOLE: "completed",
    End.ERROR_EVENT: "failed",
    End.BROKEN: "failed",
    End.NONSENSE: "failed",
    End.UNREACHABLE: "unreachable",
    End.TIMED_OUT: "cancelled",
    End.LEFT: "cancelled",
}


def _refused(status: int) -> str:
    if status == 503:
        return "shed"
    if status == 504:
        return "expired"
    return "failed" if status >= 500 else "rejected"


def _where(answer: Answer) -> str:
    """Where a request was refused, as far as the target says."""
    if answer.code in _DOOR_CODES:
        return "door"
    if not answer.stage:
        return "unknown"
    return "door" if answer.stage == "ingress" or answer.reason in _DOOR else "queue"


def timings() -> Timings:
    return Timings(latency=Histogram(), first_token=Histogram(), gaps=Histogram())


class Done(NamedTuple):
    """A request that ended: `intended` is when it should have been sent, `begun` when its last attempt was, both in
    seconds of the loop's clock; `outcome` as in `Counts`."""

    intent: Intent
    intended: float
    begun: float
    answer: Answer
    outcome: str


class Books:
    """Counts and timings of some requests."""

    def __init__(self) -> None:
        self.counts = Counts()
        self.timings = timings()

    def offer(self) -> None:
        """Counted apart from how they end, so that one that is lost on the way is missed."""
        self.counts.offered += 1

    def book(self, done: Done) -> None:
        counts, answer = self.counts, done.answer
        setattr(counts, done.outcome, getattr(counts, done.outcome) + 1)
        if answer.end is End.LEFT:
            counts.left += 1
        if done.outcome != "completed":
            return
        self.timings.latency.add(answer.ended - done.intended)
        if done.intent.kind.stream:
            if answer.first:
                self.timings.first_token.add(answer.first - done.intended)
            for gap, times in answer.gaps:
                self.timings.gaps.add(gap, times)

    def group(self, name: str) -> Group:
        return Group(name=name, counts=self.counts, timings=self.timings)


class SessionBooks:
    """How many requests each session offered, and how many of them completed."""

    def __init__(self) -> None:
        self._places: dict[str, int] = {}
        self._offered, self._completed = array("q"), array("q")
        self._too_many = False

    def offer(self, name: str) -> None:
        place = self._places.get(name)
        if place is None:
            if len(self._places) >= SESSIONS:
                self._too_many = True
                return
            place = self._places[name] = len(self._places)
            self._offered.append(0)
            self._completed.append(0)
        self._offered[place] += 1

    def completed(self, name: str) -> None:
        if (place := self._places.get(name)) is not None:
            self._completed[place] += 1

    def result(self) -> Sessions | None:
        """None where there were none, or more than are told apart."""
        if not self._places or self._too_many:
            return None
        work = [
            SessionWork(name=name, offered=self._offered[place], completed=self._completed[place])
            for name, place in self._places.items()
        ]
        work.sort(key=lambda one: -one.offered)
        return Sessions(
            count=len(work),
            jain=jain([one.completed for one in work]),
            least=min(self._completed),
            most=max(self._completed),
            busiest=work[:BUSIEST],
        )


def jain(shares: Sequence[float]) -> float | None:
    """Jain's index of fairness, (Σx)² ÷ (n Σx²); None where there is nothing to share."""
    squares = sum(share * share for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else None


class PhaseLedger:
    """One phase. Arrivals are kept as columns of numbers (32 bytes each) for the oracle, completions as two (16)."""

    def __init__(self, phase: Phase, began: float, first_number: int) -> None:
        self.phase = phase
        self.began = began
        self.first_number = first_number
        self.ended = began
        self.books = Books()
        self.kinds: dict[str, Books] = {}
        self.classes: dict[str, Books] = {}
        self.refusals: dict[tuple[str, int, str, str, str], Refusal] = {}
        self.attempts = 0
        self.retried = 0
        self.in_time = 0  # completed while arrivals lasted
        self.completed = array("q")  # numbers of the requests that did
        self.ends = array("d")  # of these: seconds since the phase began
        self.latencies = array("d")  # of these, from the intended time
        self.shed = array("q")  # numbers of the requests that were
        self.sessions = SessionBooks()
        self.gone: dict[int, float] = {}  # number → loop time at which its client had gone
        self._arrivals = (array("d"), array("d"), array("d"), array("d"))

    def offer(self, intent: Intent) -> None:
        """A request is due."""
        kind = intent.kind
        self.books.offer()
        self.kinds.setdefault(kind.name, Books()).offer()
        if kind.class_ is not None:
            self.classes.setdefault(kind.class_, Books()).offer()
        if intent.session is not None:
            self.sessions.offer(intent.session)

    def arrival(self, intent: Intent, patience: float) -> None:
        """For the oracle."""
        values = (intent.at, intent.words, intent.max_tokens or 0, 0.0 if intent.leaves else patience)
        for column, value in zip(self._arrivals, values, strict=True):
            column.append(value)

    def arrivals(self) -> Iterator[Arrival]:
        """In order of arrival. Who leaves has no patience: an admission that knows everything does not serve them."""
        for index, (at, words, tokens, patience) in enumerate(zip(*self._arrivals, strict=True)):
            yield Arrival(at, self.first_number + index, int(words), int(tokens) or None, patience)

    def attempt(self, answer: Answer, begun: float) -> None:
        self.attempts += 1
        if answer.end is End.WHOLE or answer.end in _GONE:
            return
        self._refusal(answer).latency.add(max(answer.ended - begun, 0.0))

    def book(self, done: Done) -> None:
        self.books.book(done)
        kind = done.intent.kind
        self.kinds[kind.name].book(done)
        if kind.class_ is not None:
            self.classes[kind.class_].book(done)
        answer = done.answer
        self.ended = max(self.ended, answer.ended)
        if done.outcome == "completed":
            self._completed(done)
        elif done.outcome == "shed":
            self.shed.append(done.intent.number)
        elif answer.end in _GONE and answer.sent:
            self.gone[done.intent.number] = answer.ended

    def _completed(self, done: Done) -> None:
        ended = done.answer.ended
        self.completed.append(done.intent.number)
        self.in_time += ended - self.began <= self.phase.seconds
        self.ends.append(ended - self.began)
        self.latencies.append(ended - done.intended)
        if done.intent.session is not None:
            self.sessions.completed(done.intent.session)

    def _refusal(self, answer: Answer) -> Refusal:
        code = answer.code if answer.end is End.REFUSED else str(answer.end)
        key = (outcome(answer), answer.status, answer.stage, answer.reason, code)
        if key not in self.refusals and len(self.refusals) >= COMBINATIONS:
            key = (key[0], 0, "", "", "others")
        entry = self.refusals.get(key)
        if entry is None:
            where = _where(answer)
            entry = self.refusals[key] = Refusal(
                outcome=key[0],
                status=key[1],
                stage=key[2],
                reason=key[3],
                code=key[4],
                where=where,
                retry_after=Histogram(),
                latency=Histogram(),
            )
        entry.count += 1
        if answer.retry_after is not None:
            entry.with_retry_after += 1
            entry.retry_after.add(max(answer.retry_after, 0.0))
        return entry


class Timeline:
    """The run in stretches of equal length: arrivals where they were intended, ends where they happened."""

    def __init__(self, began: float, seconds: float) -> None:
        self.began = began
        self.width = max(1.0, seconds / MOMENTS)
        self._moments: dict[int, Moment] = {}
        self._latencies: dict[int, Histogram] = {}
        self._oracles: dict[int, Histogram] = {}

    def offered(self, intended: float, in_flight: int) -> None:
        moment = self._at(intended)
        moment.offered += 1
        moment.in_flight = max(moment.in_flight, in_flight)

    def ended(self, done: Done) -> None:
        moment = self._at(done.answer.ended or done.intended)
        name = done.outcome
        if name in _SHOWN:
            setattr(moment, name, getattr(moment, name) + 1)
        if name == "completed":
            latencies = self._latencies.setdefault(self._index(done.answer.ended), Histogram())
            latencies.add(done.answer.ended - done.intended)

    def possible(self, at: float, latency: float) -> None:
        """The oracle completed a request, `at` seconds after the run's start."""
        moment = self._at(self.began + at)
        moment.oracle = (moment.oracle or 0) + 1
        self._oracles.setdefault(self._index(self.began + at), Histogram()).add(latency)

    def expected(self, begin: float, end: float) -> None:
        """Where the oracle was asked, what it did not complete is 0 and not unknown."""
        for index in range(self._index(self.began + begin), self._index(self.began + end)):
            moment = self._at(self.began + index * self.width)
            moment.oracle = moment.oracle or 0

    def moments(self) -> list[Moment]:
        last = max(self._moments, default=-1)
        for index in range(last + 1):
            moment = self._at(self.began + index * self.width)
            latencies = self._latencies.get(index)
            if latencies is not None:
                moment.p50, moment.p99 = latencies.percentile(0.5), latencies.percentile(0.99)
            oracle = self._oracles.get(index)
            if oracle is not None:
                moment.oracle_p50, moment.oracle_p99 = oracle.percentile(0.5), oracle.percentile(0.99)
        return [self._moments[index] for index in range(last + 1)]

    def _index(self, time: float) -> int:
        return max(int((time - self.began) / self.width + 1e-9), 0)

    def _at(self, time: float) -> Moment:
        index = self._index(time)
        moment = self._moments.get(index)
        if moment is None:
            moment = self._moments[index] = Moment(at=index * self.width, seconds=self.width)
        return moment


_SHOWN = frozenset({"completed", "shed", "rejected", "expired", "failed", "cancelled"})
