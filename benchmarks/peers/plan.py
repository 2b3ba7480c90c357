"""What is to be run, in which order, and about how long it takes."""

import json
import re
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from benchmarks.load import reading
from benchmarks.load.scenario import Phase, Scenario
from config.errors import ConfigError, Problem

_AROUND = 5.0  # seconds that a backend and a gateway take to start and end, roughly


class Planned(NamedTuple):
    """A scenario as it was named, its label in reports, and what it says. `duration`: seconds of each point."""

    argument: str
    label: str
    scenario: Scenario
    duration: float | None

    def measured(self) -> list[str]:
        return [phase.name for phase in self.scenario.phases if not phase.warmup]

    def part(self, phase: str) -> Scenario:
        """The phase and the warm-ups before it, as the generator runs them."""
        part = reading.only(self.scenario, phase)
        return part if self.duration is None else reading.with_seconds(part, self.duration)

    def whole(self, phases: Sequence[str]) -> Scenario:
        """What is run of it over all these phases, one after the other."""
        run: list[Phase] = [each for phase in phases for each in self.part(phase).phases]
        return msgspec.structs.replace(self.scenario, phases=run)


class Point(NamedTuple):
    """One measurement: `phase` before the gateway of this name, for the `turn`-th time (from 1)."""

    planned: Planned
    phase: str
    gateway: str
    turn: int

    @property
    def seconds(self) -> float:
        """Of load; answers that are late come on top."""
        return sum(phase.seconds + phase.pause_seconds for phase in self.planned.part(self.phase).phases)

    @property
    def run(self) -> str:
        """The gateway, and in which turn where that is not the first: what one merged report is of."""
        return self.gateway if self.turn == 1 else f"{self.gateway}-{self.turn}"

    @property
    def file(self) -> str:
        """A name for its report that no other point of its scenario has."""
        index = self.planned.measured().index(self.phase)
        return f"{self.run}.{index}-{re.sub(r'[^A-Za-z0-9.-]+', '-', self.phase)}.json"


def planned(names: Sequence[str], duration: float | None) -> list[Planned]:
    """Raises ConfigError for scenarios that are not there, do not fit together, or measure nothing."""
    found: dict[str, Planned] = {}
    for name in names:
        label, scenario = reading.read(name)
        one = Planned(name, label, scenario, duration)
        if label in found:
            raise ConfigError([Problem("scenario", json.dumps(name), "scenarios whose files have different names")])
        if not one.measured():
            raise ConfigError([Problem(label, "warm-ups only", "a phase that is measured")])
        for phase in one.measured():
            one.part(phase)
        found[label] = one
    return list(found.values())


def points(scenarios: Sequence[Planned], gateways: Sequence[str], rounds: int) -> list[Point]:
    """Gateway after gateway within a phase, so that a machine that slows down does so for all of them."""
    return [
        Point(one, phase, gateway, turn)
        for turn in range(1, rounds + 1)
        for one in scenarios
        for phase in one.measured()
        for gateway in gateways
    ]


def estimate(every: Sequence[Point]) -> float:
    """Seconds, roughly."""
    return sum(point.seconds + _AROUND for point in every)
