"""What clients ask: several kinds of them at once, each with a key, a route and an arrival process of its own."""

import asyncio
from collections.abc import Iterator
from random import Random

from benchmarks.load.accounting import Attempts
from benchmarks.load.answer import Answer, End
from benchmarks.load.arrivals import schedule
from benchmarks.load.driver import Arrivals, Driver
from benchmarks.load.mix import Mix
from benchmarks.load.scenario import Kind, Leave, Phase, Retries, Scenario, Sessions, Sizes
from benchmarks.load.target import run_id
from benchmarks.load.wire import Wire
from benchmarks.report.model import Counts
from benchmarks.soak.settings import DEADLINE, GRACE, KEYS, SOMETIMES
from benchmarks.soak.verdict import Seen

_SIZES = Sizes(mean=16, spread=0.8, least=1, most=80)
_WORDS = Sizes(mean=60, spread=1.5, least=3, most=3000)


def _kind(name: str, *, leave: Leave | None = None, stream: bool = True, weight: float = 1.0) -> Kind:
    return Kind(name=name, weight=weight, stream=stream, prompt_words=_WORDS, max_tokens=_SIZES, leave=leave)


def _bound(name: str, milliseconds: int, *, weight: float) -> Kind:
    """The daemon is told a deadline; the client itself waits on, to see whether it gets its answer."""
    kind = Kind(name=name, weight=weight, prompt_words=_WORDS, max_tokens=_SIZES)
    return Kind(
        **{field: getattr(kind, field) for field in ("name", "weight", "prompt_words", "max_tokens")},
        headers={"X-Request-Timeout-Ms": str(milliseconds)},
    )


STEADY = [
    _kind("whole", stream=False, weight=4),
    _kind("stream", weight=4),
    _kind("gone at once", leave=Leave(share=1, after="sent"), weight=0.5),
    _kind("gone at the head", leave=Leave(share=1, after="head"), weight=0.5),
    _kind("gone in the middle", leave=Leave(share=1, after="tokens", tokens=3), weight=1),
    _kind("gone after a while", leave=Leave(share=1, after="seconds", seconds=0.1), weight=0.5),
    _bound("in a hurry", 600, weight=1),
    _bound("in too much of a hurry", 40, weight=0.3),
]
_ORDINARY = [_kind("whole", stream=False), _kind("stream")]
_SESSIONS = Sessions(count=300, skew=0.9, share=0.8)


class Stream:
    """One kind of clients: `driver` sends what they ask."""

    def __init__(self, name: str, key: str, model: str, scenario: Scenario, base_url: str) -> None:
        self.name = name
        self.wire = Wire(base_url, api_key=KEYS[key])
        mix = Mix(scenario, scenario.seed)
        self.driver = Driver(
            scenario, self.wire, mix, model=model, run=run_id(), arrivals=lambda phase: _arrivals(scenario, phase)
        )
        self.watched = Watched(name)
        self.driver.attempts = self.watched

    @property
    def counts(self) -> Counts:
        return self.driver.phases[0].books.counts if self.driver.phases else Counts()


class Watched(Attempts):
    """Keeps, besides the sums, each attempt that was neither served nor left by its own client."""

    def __init__(self, stream: str) -> None:
        super().__init__()
        self._stream = stream
        self._new: list[Seen] = []

    def book(self, answer: Answer) -> None:
        super().book(answer)
        if answer.end not in (End.WHOLE, End.LEFT, End.STOPPED):
            code = answer.code or answer.end
            self._new.append(Seen(answer.ended, self._stream, answer.end, answer.status, str(code), answer.detail))

    def news(self) -> list[Seen]:
        """Since the last call."""
        new, self._new = self._new, []
        return new


class Load:
    """All clients together."""

    def __init__(self, base_url: str, seconds: float, seed: int) -> None:
        def scenario(phase: Phase, kinds: list[Kind], number: int, retries: int = 0) -> Scenario:
            return Scenario(
                seed=seed * 100 + number,
                hang_seconds=DEADLINE + GRACE,
                max_requests=10_000_000,
                phases=[phase],
                requests=kinds,
                sessions=_SESSIONS,
                retries=Retries(max=retries),
            )

        def steady(rate: float) -> Phase:
            return Phase(name="steady", seconds=seconds, rate=rate)

        burst = Phase(name="bursts", seconds=seconds, arrivals="burst", rate=15, burst=300)
        self.streams = [
            Stream("steady", "steady", "chat", scenario(steady(40), STEADY, 1), base_url),
            Stream("bursts", "bursts", "chat", scenario(burst, _ORDINARY, 2, retries=1), base_url),
            Stream("limited", "limited", "chat", scenario(steady(6), _ORDINARY, 3), base_url),
            Stream("docs", "steady", "docs", scenario(steady(3), _ORDINARY, 4), base_url),
            Stream(SOMETIMES, "steady", SOMETIMES, scenario(steady(3), _ORDINARY, 5), base_url),
        ]

    async def run(self) -> None:
        """Until the time is over and the last has its answer."""
        await asyncio.gather(*(stream.driver.run() for stream in self.streams))

    async def aclose(self) -> None:
        for stream in self.streams:
            await stream.wire.aclose()

    def stop(self, why: str) -> None:
        for stream in self.streams:
            stream.driver.stop(why)

    @property
    def counts(self) -> Counts:
        total = Counts()
        for stream in self.streams:
            for field in Counts.__struct_fields__:
                setattr(total, field, getattr(total, field) + getattr(stream.counts, field))
        return total

    @property
    def attempts(self) -> Attempts:
        total = Attempts()
        for stream in self.streams:
            total.seen.update(stream.watched.seen)
            total.fates.update(stream.watched.fates)
            total.resent += stream.watched.resent
            total.unsent += stream.watched.unsent
        return total

    def news(self) -> list[Seen]:
        return [seen for stream in self.streams for seen in stream.watched.news()]

    def problems(self) -> Iterator[str]:
        """The generator's own."""
        for stream in self.streams:
            driver = stream.driver
            yield from (f"{stream.name}: {problem}" for problem in driver.problems)
            if driver.ended != "done":
                yield f"{stream.name}: ended early: {driver.ended}"

    @property
    def latest(self) -> float:
        """How late it sent, at worst, in seconds."""
        return max(stream.driver.punctuality.lag.most for stream in self.streams)


def _arrivals(scenario: Scenario, phase: Phase) -> Arrivals:
    return schedule(phase, None, Random(f"{scenario.seed} {phase.name}"))
