"""Every trial and every step of the ablation is one that Headgate and the generator can run."""

from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks.load import reading
from benchmarks.load.scenario import Kind
from benchmarks.overload.trials import STEP_TRIALS, STEPS, TRIALS, USUAL, Trial, configuration, keys, point, step_trials
from benchmarks.peers.headgate import Headgate
from config.load import load
from config.schema import Config
from pipeline.policy.access import key_digest

EVERY = [*TRIALS.values(), *(trial for step in STEPS for trial in step_trials(step))]


def configured(trial: Trial, folder: Path) -> Config:
    """As the daemon would read it."""
    scenario = reading.read(trial.scenario)[1]
    gateway = Headgate(text=configuration(trial, scenario, "http://127.0.0.1:1" if trial.slow_store else None))
    gateway.prepare(lambda: None)
    path = folder / "pipeline.toml"
    path.write_text(gateway._text)
    return load(path, {}).config


@pytest.mark.parametrize("trial", EVERY, ids=lambda trial: trial.key)
def test_headgate_takes_the_configuration(trial: Trial, tmp_path: Path):
    config = configured(trial, tmp_path)
    assert config.routes[0].name == "sim"
    assert (config.routes[0].collection is not None) == trial.slow_store


@pytest.mark.parametrize("trial", TRIALS.values(), ids=lambda trial: trial.key)
def test_outside_the_ablation_headgate_is_told_nothing_of_the_slots(trial: Trial, tmp_path: Path):
    config = configured(trial, tmp_path)
    usual = Config(workers=config.workers, routes=config.routes)
    assert (config.stages, config.admission) == (usual.stages, usual.admission)
    assert config.workers[0].concurrency is None


def test_each_step_adds_one_mechanism(tmp_path: Path):
    """The settings of each step are those of the one before, but for one of them."""

    def settings(index: int) -> dict[str, object]:
        config = configured(step_trials(STEPS[index])[0], tmp_path)
        it = config.admission
        mechanisms = {"budget": it.wait_budget_ms, "codel": it.codel, "fair": it.fair, "gate": it.head_gate}
        return mechanisms | {"concurrency": config.stages.inference.concurrency}

    every = [settings(index) for index in range(len(STEPS))]
    changed = [{name for name in after if after[name] != before[name]} for before, after in pairwise(every)]
    assert changed == [{"budget"}, {"codel"}, {"fair"}, {"concurrency"}, {"gate"}]
    assert every[0] == {"budget": "off", "codel": False, "fair": False, "gate": False, "concurrency": 8}
    assert every[-1] == {"budget": "auto", "codel": True, "fair": True, "gate": True, "concurrency": "adaptive"}


def test_the_keys_of_a_scenario_are_known_with_their_classes(tmp_path: Path):
    config = configured(TRIALS["classes"], tmp_path)
    known = {key.hash: key.class_ for key in config.keys}
    kinds = reading.read("classes")[1].requests
    assert [kind.class_ for kind in kinds] == ["high", "normal"]
    assert {f"sha256:{key_digest(kind.headers['x-api-key']).hex()}": kind.class_ for kind in kinds} == known
    assert config.server.anonymous is True
    assert keys([Kind(), Kind(class_="high")]) == ""


def test_a_shorter_trial_is_shorter_in_all_its_parts():
    usual, half = (point(TRIALS["surge"], "headgate", seconds) for seconds in (USUAL, USUAL / 2))
    assert usual.planned.duration is None
    assert half.seconds == usual.seconds / 2
    (phase,) = [phase for phase in half.planned.part("surge").phases if not phase.warmup]
    assert (phase.surge_at, phase.surge_seconds) == (10, 2.5)


def test_steps_are_told_apart_from_the_rows_own_trials():
    every = [trial.key for trial in EVERY]
    assert len(set(every)) == len(every) == len(TRIALS) + len(STEPS) * len(STEP_TRIALS)
