"""Checks between the keys of a scenario, and of what a type cannot say.

As in `config.crosscheck`, each looks only at keys in which nothing has been found before.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.load.arrivals import mean_rate
from benchmarks.load.scenario import Kind, Leave, Phase, Scenario, Sizes
from benchmarks.load.trace import read_trace
from benchmarks.service import MOST_UNIFORM_SPREAD
from config.errors import ConfigError
from config.findings import Findings
from config.paths import KeyPath, dotted, quote

# Which keys an arrival process takes beside those that all of them take.
TAKES = {
    "poisson": ["rate", "load"],
    "constant": ["rate", "load"],
    "burst": ["rate", "load", "burst"],
    "ramp": ["rate", "load", "to_rate", "to_load"],
    "surge": ["rate", "load", "to_rate", "to_load", "surge_at", "surge_seconds"],
    "trace": ["file", "speed"],
    "closed": ["clients", "think_seconds"],
}
_NEEDED = {  # and cannot do without, with what is expected of them
    "burst": {"burst": "how many requests come at once"},
    "surge": {"surge_at": "when it begins, in seconds", "surge_seconds": "how long it lasts"},
    "trace": {"file": "a file of arrivals"},
    "closed": {"clients": "how many clients there are"},
}
_SPECIAL = dict.fromkeys(key for keys in TAKES.values() for key in keys)  # in this order, each once

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110, 5.6.2
_BY_OTHER_MEANS = {
    "authorization": "--api-key",
    "x-session-id": "the table sessions",
    "x-headgate-class": "the key class",
    "x-request-timeout-ms": "the key send_deadline",
}
_OWN_HEADERS = frozenset(
    "accept accept-encoding connection content-length content-type expect host keep-alive te trailer transfer-encoding "
    "upgrade user-agent".split()
)


def expected_requests(scenario: Scenario) -> float:
    """How many requests will arrive, as far as that is known before: without closed loops, traces, and loads whose
    capacity the scenario does not say."""
    return sum(
        (mean_rate(phase, scenario.capacity) or 0.0) * phase.seconds
        for phase in scenario.phases
        if scenario.capacity is not None or not (phase.load or phase.to_load)
    )


class Check:
    """`scenario` is a draft (see `config.structure`), `folder` the one that a trace's file is looked for in."""

    def __init__(self, scenario: Scenario, folder: Path, findings: Findings) -> None:
        self._scenario = scenario
        self._folder = folder
        self._findings = findings
        self._traced = 0  # requests that come from traces

    def run(self) -> None:
        self._unique_names("phases", self._scenario.phases)
        self._unique_names("requests", self._scenario.requests)
        for index, phase in enumerate(self._scenario.phases):
            self._phase(phase, ("phases", index))
        for index, kind in enumerate(self._scenario.requests):
            self._kind(kind, ("requests", index))
        self._sessions()
        self._backend()
        self._total()

    def _unique_names(self, table: str, sections: Sequence[Phase | Kind]) -> None:
        first: dict[str, int] = {}
        for index, section in enumerate(sections):
            path = (table, index, "name")
            if self._findings.sound(path) and first.setdefault(section.name, index) != index:
                taken = dotted((table, first[section.name]))
                self._findings.add(path, quote(section.name), f"a name of its own: {taken} has this one")

    def _given(self, path: KeyPath) -> dict[str, Any]:
        """The keys that the file has in a table."""
        raw: Any = self._findings.source.tree
        for part in path:
            inside = isinstance(raw, dict) and part in raw
            inside = inside or (isinstance(raw, list) and isinstance(part, int) and part < len(raw))
            raw = raw[part] if inside else {}
        return raw if isinstance(raw, dict) else {}

    def _phase(self, phase: Phase, path: KeyPath) -> None:
        if self._findings.sound((*path, "arrivals")):
            self._arrivals(phase, path)
        if self._findings.sound((*path, "seconds"), (*path, "changes")):
            self._changes(phase, path)
        if phase.least_share is not None and phase.arrivals == "closed":
            self._findings.add(
                (*path, "least_share"), "a share of nothing", "none: for a closed loop there is no oracle"
            )

    def _arrivals(self, phase: Phase, path: KeyPath) -> None:
        given, takes = self._given(path), TAKES[phase.arrivals]
        for key in _SPECIAL:
            if key in given and key not in takes:
                fitting = ", ".join(quote(one) for one, keys in TAKES.items() if key in keys)
                expected = f"none: arrivals = {quote(phase.arrivals)} takes {', '.join(takes)}; {key} is for {fitting}"
                self._findings.add((*path, key), "a key for other arrivals", expected)
        for key, meaning in _NEEDED.get(phase.arrivals, {}).items():
            if key not in given:
                self._findings.add((*path, key), "nothing", f"{meaning}, for arrivals = {quote(phase.arrivals)}")
        if "rate" in takes:
            self._rate(phase, given, path)
        if phase.arrivals == "burst":
            self._burst(phase, path)
        if phase.arrivals == "surge":
            self._surge(phase, path)
        if phase.arrivals == "closed":
            self._clients(phase, path)
        if phase.arrivals == "trace" and phase.file is not None and self._findings.sound((*path, "file")):
            self._trace(phase, path)

    def _rate(self, phase: Phase, given: dict[str, Any], path: KeyPath) -> None:
        if "rate" in given and "load" in given:
            self._findings.add((*path, "load"), "both rate and load", "one of the two")
            return
        if "rate" not in given and "load" not in given:
            expected = "rate (requests a second) or load (the same as a multiple of the capacity)"
            self._findings.add((*path, "rate"), "nothing", expected)
            return
        if "to_rate" not in TAKES[phase.arrivals]:
            return
        right, wrong = ("to_rate", "to_load") if "rate" in given else ("to_load", "to_rate")
        if wrong in given:
            begins = right.removeprefix("to_")
            self._findings.add((*path, wrong), "another measure", f"{right}, as the phase begins with {begins}", right)
        elif right not in given:
            self._findings.add((*path, right), "nothing", f"what a {phase.arrivals} goes to")

    def _burst(self, phase: Phase, path: KeyPath) -> None:
        if phase.burst is None or phase.rate is None or not self._findings.sound((*path, "seconds")):
            return
        most = phase.rate * phase.seconds
        if phase.burst > most:
            expected = f"at most {most:,.0f}, which is how many come in all its seconds"
            self._findings.add((*path, "burst"), f"{phase.burst}", expected)

    def _surge(self, phase: Phase, path: KeyPath) -> None:
        if phase.surge_at is None or phase.surge_seconds is None or not self._findings.sound((*path, "seconds")):
            return
        if phase.surge_at + phase.surge_seconds > phase.seconds:
            expected = f"an end within the {phase.seconds:g} seconds of the phase"
            self._findings.add(
                (*path, "surge_seconds"), f"{phase.surge_seconds:g} from {phase.surge_at:g} on", expected
            )

    def _clients(self, phase: Phase, path: KeyPath) -> None:
        most = self._scenario.max_in_flight
        if phase.clients is not None and self._findings.sound(("max_in_flight",)) and phase.clients > most:
            self._findings.add((*path, "clients"), f"{phase.clients}", f"at most {most:,}, which is max_in_flight")

    def _trace(self, phase: Phase, path: KeyPath) -> None:
        try:
            entries = read_trace(self._folder / str(phase.file))
        except ConfigError as error:
            for problem in error.problems:
                self._findings.add((*path, "file"), f"{problem.where}: {problem.found}", problem.expected, problem.hint)
        else:
            self._traced += sum(entry.at / phase.speed < phase.seconds for entry in entries)

    def _changes(self, phase: Phase, path: KeyPath) -> None:
        latest = 0.0
        for index, change in enumerate(phase.changes):
            here = (*path, "changes", index)
            if change.at >= phase.seconds:
                expected = f"less than {phase.seconds:g}, which is how long the phase lasts"
                self._findings.add((*here, "at"), f"{change.at:g}", expected)
            elif change.at < latest:
                self._findings.add((*here, "at"), f"{change.at:g}", f"at least {latest:g}: changes stand in order")
            if self._given(here).keys() <= {"at"}:
                self._findings.add(here, "a change of nothing", "at least one key of the backend beside at")
            latest = max(latest, change.at)

    def _kind(self, kind: Kind, path: KeyPath) -> None:
        self._sizes(kind.prompt_words, (*path, "prompt_words"))
        if kind.max_tokens is not None:
            self._sizes(kind.max_tokens, (*path, "max_tokens"))
        if kind.leave is not None:
            self._leave(kind.leave, kind, (*path, "leave"))
        if kind.send_deadline and kind.deadline_ms is None and self._findings.sound((*path, "deadline_ms")):
            self._findings.add((*path, "deadline_ms"), "nothing", "the deadline that send_deadline is to tell")
        self._deadline(kind, path)
        self._headers(kind, path)

    def _deadline(self, kind: Kind, path: KeyPath) -> None:
        most = self._scenario.hang_seconds
        here = (*path, "deadline_ms")
        if kind.deadline_ms is None or not self._findings.sound(here, ("hang_seconds",)):
            return
        if kind.deadline_ms > most * 1000:
            expected = f"at most {most * 1000:,.0f}: what takes hang_seconds counts as hanging"
            self._findings.add(here, f"{kind.deadline_ms:g}", expected)

    def _sizes(self, sizes: Sizes, path: KeyPath) -> None:
        if not self._findings.sound(path):
            return
        if sizes.least > sizes.most:
            expected = f"at most {sizes.most:,}, which is {dotted((*path, 'most'))}"
            self._findings.add((*path, "least"), f"{sizes.least}", expected, beside=(*path, "most"))
        elif not sizes.least <= max(sizes.mean, 1.0) <= sizes.most:
            expected = f"from least to most: {sizes.least:,} to {sizes.most:,}"
            self._findings.add((*path, "mean"), f"{sizes.mean:g}", expected)

    def _leave(self, leave: Leave, kind: Kind, path: KeyPath) -> None:
        if not self._findings.sound((*path, "after")):
            return
        if leave.after in {"first_token", "tokens"} and not kind.stream:
            expected = "stream = true beside it, or another point: an unstreamed answer comes all at once"
            self._findings.add((*path, "after"), quote(leave.after), expected)
        given = self._given(path)
        for key in ("tokens", "seconds"):
            if key in given and leave.after != key:
                self._findings.add((*path, key), "a key for another point", f"none, or after = {quote(key)}")
        patience = kind.deadline_ms
        if leave.after == "seconds" and patience is not None and leave.seconds * 1000 >= patience:
            expected = f"less than {patience / 1000:g}: then the deadline has ended it"
            self._findings.add((*path, "seconds"), f"{leave.seconds:g}", expected, beside=path)

    def _headers(self, kind: Kind, path: KeyPath) -> None:
        seen: set[str] = set()
        for name, value in kind.headers.items():
            here, lower = (*path, "headers", name), name.lower()
            if not _HEADER_NAME.fullmatch(name):
                self._findings.add(here, "a name that no header can have", "letters, digits and - for the most part")
            elif lower in _BY_OTHER_MEANS:
                self._findings.add(here, "a header that is set by other means", _BY_OTHER_MEANS[lower])
            elif lower in _OWN_HEADERS:
                self._findings.add(here, "a header that the generator sets itself", "any other header")
            elif lower in seen:
                self._findings.add(here, "the same header twice", "each one once")
            elif not (value.isascii() and value.isprintable()):
                self._findings.add(here, "a value that is not shown", "one line of printable ASCII")
            seen.add(lower)

    def _sessions(self) -> None:
        sessions, given = self._scenario.sessions, self._given(("sessions",))
        if sessions is None or not self._findings.sound(("sessions", "count"), ("sessions", "heavy")):
            return
        if sessions.heavy > sessions.count:
            expected = f"at most {sessions.count:,}, which is how many there are"
            self._findings.add(("sessions", "heavy"), f"{sessions.heavy}", expected)
        for key, other, meaning in (
            ("heavy", "times", "how often they ask, beside the others"),
            ("times", "heavy", "how many of them do"),
        ):
            if key in given and other not in given:
                self._findings.add(("sessions", other), "nothing", meaning)

    def _backend(self) -> None:
        backend, path = self._scenario.backend, ("backend", "spread")
        if backend is None or not self._findings.sound(path, ("backend", "distribution")):
            return
        if backend.distribution == "uniform" and backend.spread > MOST_UNIFORM_SPREAD:
            expected = f"at most {MOST_UNIFORM_SPREAD} for a uniform distribution, which ends at 0"
            self._findings.add(path, f"{backend.spread:g}", expected)

    def _total(self) -> None:
        if not self._findings.sound(("phases",), ("capacity",), ("max_requests",)):
            return
        total = expected_requests(self._scenario) + self._traced
        if total > self._scenario.max_requests:
            expected = f"at least the {total:,.0f} requests that the phases ask for"
            self._findings.add(("max_requests",), f"{self._scenario.max_requests:,}", expected, beside=("phases",))
