"""Which loads are run, and what Headgate is told for each: nothing of the backend's slots, but in the ablation."""

from collections.abc import Sequence
from hashlib import sha256
from typing import NamedTuple

from benchmarks.load import reading
from benchmarks.load.scenario import Kind, Scenario
from benchmarks.peers.plan import Planned, Point

USUAL = 30.0  # seconds of a phase, for which the figures are meant
_KEY_FIELD = "x-api-key"

_RETRIEVING = """
[[workers]]
name = "sim"
kind = "openai"
base_url = "http://replaced.invalid/v1"

[[routes]]
name = "sim"
worker = "sim"
collection = "slow"
retrieval_timeout_ms = 20_000

[[collections]]
name = "slow"
store = "qdrant"
embedder = "lexical"
url = "{url}"
timeout_ms = 20_000
"""


class Trial(NamedTuple):
    """One phase of a scenario. `config` is further configuration for Headgate, as TOML; `slow_store`: its route looks
    for passages first, which takes longer than its clients wait."""

    key: str
    scenario: str
    phase: str
    config: str = ""
    slow_store: bool = False

    @property
    def what(self) -> str:
        return f"{self.scenario}, {self.phase}"


TRIALS = {
    trial.key: trial
    for trial in (
        Trial("1x", "overload", "1x"),
        Trial("2x", "overload", "2x"),
        Trial("10x", "overload", "10x"),
        Trial("classes", "classes", "2x"),
        Trial("fairness", "fairness", "3x"),
        Trial("surge", "surge", "surge"),
        Trial("slots", "capacity-drop", "drop"),
        Trial("slower", "slowdown", "slow"),
        Trial("working", "leavers", "working"),
        Trial("queued", "leavers", "queued"),
        Trial("retrieving", "leave-early", "leaving", slow_store=True),
        Trial("impatient", "impatient", "3x for 10 s"),
        Trial("endurance", "endurance", "10x"),
    )
}


class Step(NamedTuple):
    """One more mechanism than the step before. `config` says all that differs from the defaults."""

    name: str
    description: str
    config: str


_TOLD = "[stages.inference]\nconcurrency = 8\n"

STEPS = (
    Step(
        "try-put",
        "bounded queues and the right number of calls at once; sheds when a queue is full",
        f'{_TOLD}[admission]\nwait_budget_ms = "off"\ncodel = false\nfair = false\nhead_gate = false\n',
    ),
    Step(
        "+ wait budget",
        "refuses at the door what would wait too long",
        f"{_TOLD}[admission]\ncodel = false\nfair = false\nhead_gate = false\n",
    ),
    Step("+ CoDel", "cuts a queue that stands", f"{_TOLD}[admission]\nfair = false\nhead_gate = false\n"),
    Step("+ fairness", "serves by class and round by session", f"{_TOLD}[admission]\nhead_gate = false\n"),
    Step("+ adaptive limit", "finds by itself how many calls to make at once", "[admission]\nhead_gate = false\n"),
    Step("+ head gate", "refuses before the body is read: the defaults", ""),
)
STEP_TRIALS = ("1x", "2x", "10x", "classes", "fairness")


def step_trials(step: Step) -> list[Trial]:
    index = STEPS.index(step)
    return [TRIALS[key]._replace(key=f"step{index}-{key}", config=step.config) for key in STEP_TRIALS]


def point(trial: Trial, gateway: str, seconds: float) -> Point:
    """The trial as the generator runs it; `seconds` stand for the usual `USUAL`, and everything is scaled with them.

    Raises ConfigError.
    """
    label, scenario = reading.read(trial.scenario)
    part = reading.only(scenario, trial.phase)
    usual = sum(phase.seconds for phase in part.phases)
    duration = None if seconds == USUAL else usual * seconds / USUAL
    return Point(Planned(trial.scenario, label, scenario, duration), trial.phase, gateway, 1)


def configuration(trial: Trial, scenario: Scenario, store_url: str | None) -> str:
    """All that Headgate is told beside the backend's address."""
    retrieving = "" if store_url is None else _RETRIEVING.format(url=store_url)
    return "\n".join(filter(None, (trial.config, retrieving, keys(scenario.requests))))


def keys(kinds: Sequence[Kind]) -> str:
    """The keys that a scenario's requests carry, of their classes. Who carries none is let in too: the first look at a
    target has no key."""
    found: dict[str, str] = {}
    for kind in kinds:
        if (key := kind.headers.get(_KEY_FIELD)) is not None:
            found[key] = kind.class_ or "normal"
    if not found:
        return ""
    tables = [
        f'[[keys]]\nname = "key-{index}"\nhash = "sha256:{sha256(key.encode()).hexdigest()}"\nclass = "{class_}"\n'
        for index, (key, class_) in enumerate(found.items())
    ]
    return "\n".join(["[server]\nanonymous = true\n", *tables])
