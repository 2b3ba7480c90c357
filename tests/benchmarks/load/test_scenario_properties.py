"""Whatever stands in a scenario file, it is read or refused with problems that name a place."""

import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from benchmarks.load.mix import Mix
from benchmarks.load.reading import read
from config.errors import ConfigError
from tests.config.test_properties import document, names, values

SCENARIOS = Path(__file__).parents[3] / "benchmarks" / "scenarios"
TEXT = (SCENARIOS / "smoke.toml").read_text()

many = settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("properties") / "test.toml"


def judge(file: Path, text: str) -> None:
    file.write_text(text, newline="")
    scenario, problems = None, ()
    try:
        _, scenario = read(str(file))
    except ConfigError as refused:
        problems = refused.problems
    assert (scenario is None) == bool(problems)
    assert all(one.path and one.found and one.expected and one.where for one in problems)
    event("refused" if scenario is None else "read")
    if scenario is not None:
        mix = Mix(scenario, scenario.seed)
        assert [mix.intent(0.0).number for _ in range(20)] == list(range(20))
        assert min(mix.expected()) > 0


def places(tree, path=()):
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, entry in inner:
        yield tree, key
        yield from places(entry, (*path, key))


@given(data=st.data())
@many
def test_a_scenario_with_a_few_values_changed(file, data):
    tree = tomllib.loads(TEXT)
    for _ in range(data.draw(st.integers(1, 4))):
        holder, key = data.draw(st.sampled_from(list(places(tree))))
        change = data.draw(st.sampled_from(["replace", "delete", "add"]))
        if change == "delete":
            del holder[key]
        elif change == "replace" or isinstance(holder, list):
            holder[key] = data.draw(values | st.integers(0, 100))
        else:
            holder[data.draw(names | st.sampled_from(["rate", "load", "clients", "tokens"]))] = data.draw(values)
    judge(file, document(tree))


@given(data=st.data())
@many
def test_a_scenario_with_a_few_characters_changed(file, data):
    start = data.draw(st.integers(0, len(TEXT)))
    end = start + data.draw(st.integers(0, 40))
    judge(file, TEXT[:start] + data.draw(st.text("[]{}=.\"'# \n01a_-\\", max_size=3)) + TEXT[end:])
