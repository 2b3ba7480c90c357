"""Where scenarios come from: a file, one of those that come with Headgate, or one of these with another load."""

import tomllib
from collections.abc import Callable
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from benchmarks.load.check import Check, expected_requests
from benchmarks.load.scenario import Phase, Scenario
from config.errors import ConfigError, Problem
from config.findings import Findings
from config.paths import nearest, quote
from config.source import read as read_source
from config.structure import draft_of

_Number = TypeVar("_Number", int, float)


def read(name_or_path: str) -> tuple[str, Scenario]:
    """A scenario and its name. What has a slash, ends in `.toml` or is a file here is read as a file, anything else is
    the name of one that comes with Headgate. Raises ConfigError with every problem there is.

    `file` of a phase is relative to the scenario's file and comes back absolute.
    """
    path = _path(name_or_path)
    source = read_source(path, "", f"a file, or one of the scenarios {_listed()}")
    findings = Findings(source)
    folder = path.parent.absolute()
    Check(draft_of(Scenario, source.tree, findings, "a key of the scenario"), folder, findings).run()
    findings.raise_if_any()
    for phase in source.tree["phases"]:
        if "file" in phase:
            phase["file"] = str(folder / phase["file"])
    return path.stem, msgspec.convert(source.tree, Scenario)


def names() -> list[tuple[str, str]]:
    """The scenarios that come with Headgate, each with its description."""
    texts = ((path.stem, path.read_text("utf-8")) for path in sorted(_folder().glob("*.toml")))
    return [(name, tomllib.loads(text).get("description", "")) for name, text in texts]


def _folder() -> Path:
    return Path(str(resources.files("benchmarks"))) / "scenarios"


def _listed() -> str:
    return ", ".join(path.stem for path in sorted(_folder().glob("*.toml")))


def _path(name: str) -> Path:
    if "/" in name or name.endswith(".toml") or _is_file(name):
        return Path(name)
    known = {path.stem: path for path in _folder().glob("*.toml")}
    if name not in known:
        expected = f"a file, or one of the scenarios {_listed()}"
        raise ConfigError([Problem("scenario", quote(name[:80]), expected, nearest(name, known))])
    return known[name]


def _is_file(name: str) -> bool:
    with suppress(OSError, ValueError):  # a name that is too long, or has a NUL in it
        return Path(name).is_file()
    return False


def with_rate(scenario: Scenario, rate: float, seconds: float) -> Scenario:
    """The same requests, arriving at random at this rate. Raises ConfigError for numbers that a file could not have."""
    _within("rate", rate, 1_000_000.0)
    _within("seconds", seconds, 86_400.0)
    return _affordable(_phases(scenario, [Phase(name=f"{rate:g} per second", seconds=seconds, rate=rate)]))


def with_clients(scenario: Scenario, clients: int, seconds: float) -> Scenario:
    """The same requests, sent by as many clients that wait for their answers. Raises ConfigError."""
    _within("clients", clients, min(scenario.max_in_flight, 20_000))
    _within("seconds", seconds, 86_400.0)
    phase = Phase(name=f"{clients} clients", seconds=seconds, arrivals="closed", clients=clients)
    return _phases(scenario, [phase])


def with_seconds(scenario: Scenario, seconds: float) -> Scenario:
    """The same phases, made longer or shorter alike, so that they last so long together; what happens inside them moves
    with them. Pauses stay as they are, and a trace's times too. Of phases made shorter no `least_share` is wanted any
    more: what a moment says of goodput is chance. Raises ConfigError."""
    _within("seconds", seconds, 86_400.0)
    factor = seconds / sum(phase.seconds for phase in scenario.phases)
    return _affordable(_phases(scenario, [_scaled(phase, factor) for phase in scenario.phases]))


def only(scenario: Scenario, phase_name: str) -> Scenario:
    """One phase, with the warm-ups before it. Raises ConfigError when there is none of this name."""
    named = [phase.name for phase in scenario.phases]
    if phase_name not in named:
        expected = f"one of the phases {', '.join(named)}"
        raise ConfigError([Problem("phase", quote(phase_name[:80]), expected, nearest(phase_name, named))])
    index = named.index(phase_name)
    warmups = [phase for phase in scenario.phases[:index] if phase.warmup]
    return _phases(scenario, [*warmups, scenario.phases[index]])


def _phases(scenario: Scenario, phases: list[Phase]) -> Scenario:
    return msgspec.structs.replace(scenario, phases=phases)


def _scaled(phase: Phase, factor: float) -> Phase:
    moved: Callable[..., Any] = msgspec.structs.replace
    changes = [moved(change, at=change.at * factor) for change in phase.changes]
    surge_at = None if phase.surge_at is None else phase.surge_at * factor
    surge_seconds = None if phase.surge_seconds is None else phase.surge_seconds * factor
    seconds = phase.seconds * factor
    least = phase.least_share if factor >= 1.0 else None
    return msgspec.structs.replace(
        phase, seconds=seconds, changes=changes, surge_at=surge_at, surge_seconds=surge_seconds, least_share=least
    )


def _within(name: str, number: _Number, most: _Number) -> None:
    if not 0 < number <= most:  # what is no number is not
        raise ConfigError([Problem(name, f"{number}", f"a number above 0 and at most {most:,}")])


def _affordable(scenario: Scenario) -> Scenario:
    expected = expected_requests(scenario)
    if expected > scenario.max_requests:
        found = f"{expected:,.0f} requests"
        raise ConfigError([Problem("max_requests", found, f"at most {scenario.max_requests:,}, as the scenario says")])
    return scenario
