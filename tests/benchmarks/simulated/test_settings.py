from pathlib import Path

import msgspec
import pytest

from benchmarks.service import Service
from benchmarks.simulated.settings import Place, changed, explained, from_file, from_text
from config.errors import ConfigError


def refused(values: dict[str, object]) -> dict[str, str]:
    with pytest.raises(ConfigError) as caught:
        changed(Service(), values)
    return {problem.path: f"{problem.found} | {problem.expected} | {problem.hint}" for problem in caught.value.problems}


def test_what_is_named_is_changed():
    before = Service(seed=5)
    after = changed(before, {"slots": 3, "first_token_ms": 20, "queue": 0, "distribution": "uniform"})
    assert after == Service(seed=5, slots=3, first_token_ms=20.0, queue=0, distribution="uniform")
    assert changed(after, {"queue": None}).queue is None


def test_every_problem_is_named():
    values = {"slots": -1, "cancel": "true", "slotz": 1, "distribution": "normal", "queue": 1.5, "seed": None}
    assert refused(values) == {
        "slots": "-1 | a whole number from 0 to 100,000 | ",
        "cancel": '"true" | true or false | true',
        "slotz": f"an unknown key | one of {', '.join(Service.__struct_fields__)} | slots",
        "distribution": '"normal" | one of "constant", "exponential", "lognormal", "uniform" | "lognormal"',
        "queue": "1.5 | a whole number of at least 0, or none | ",
        "seed": "nothing | a whole number | ",
    }


def test_a_spread_has_to_fit_its_distribution():
    assert list(refused({"distribution": "uniform", "spread": 0.6})) == ["spread"]
    assert changed(Service(), {"distribution": "lognormal", "spread": 0.6}).spread == 0.6


def test_ports_of_all_replicas_have_to_exist():
    with pytest.raises(ConfigError, match="ports up to 65535"):
        changed(Place(), {"port": 65535, "replicas": 2})
    assert changed(Place(), {"port": 0, "replicas": 2}).replicas == 2


def test_a_file_is_read_with_the_lines_of_its_problems(tmp_path: Path):
    path = tmp_path / "service.toml"
    path.write_text('slots = 2\nqueue = 5\ndistribution = "exponential"\n')
    assert from_file(path) == Service(slots=2, queue=5, distribution="exponential")
    path.write_text('distribution = "uniform"\nspread = 1\nslot = 2\n')
    with pytest.raises(ConfigError) as caught:
        from_file(path)
    assert [(problem.path, problem.where) for problem in caught.value.problems] == [
        ("spread", f"{path}:2"),
        ("slot", f"{path}:3"),
    ]


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("slots", "8", 8),
        ("first_token_ms", "0.5", 0.5),
        ("first_token_ms", "nan", "nan"),
        ("cancel", "false", False),
        ("queue", "none", None),
        ("distribution", "none", "none"),
        ("seed", "", ""),
    ],
)
def test_texts_of_the_command_line_become_values(key: str, text: str, value: object):
    assert from_text(Service, key, text) == value


@pytest.mark.parametrize("schema", [Service, Place])
def test_every_setting_is_explained(schema: type[msgspec.Struct]):
    assert set(explained(schema)) == set(schema.__struct_fields__)
    assert all(explained(schema).values())
