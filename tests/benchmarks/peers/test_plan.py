from pathlib import Path

import pytest

from benchmarks.peers.plan import estimate, planned, points
from config.errors import ConfigError

TWO = """
[[phases]]
name = "warm"
seconds = 2
rate = 5
warmup = true
[[phases]]
name = "a/b"
seconds = 4
rate = 5
[[phases]]
name = "a b"
seconds = 8
rate = 5
pause_seconds = 3
"""


def scenario(folder: Path, name: str, text: str = TWO) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / f"{name}.toml"
    path.write_text(text)
    return str(path)


def test_gateways_take_turns_within_a_phase_and_every_point_has_a_file_of_its_own(tmp_path: Path) -> None:
    every = points(planned([scenario(tmp_path, "one"), scenario(tmp_path, "two")], None), ["x", "y"], rounds=2)
    assert [(point.planned.label, point.phase, point.gateway, point.turn) for point in every] == [
        (label, phase, gateway, turn)
        for turn in (1, 2)
        for label in ("one", "two")
        for phase in ("a/b", "a b")
        for gateway in ("x", "y")
    ]
    assert len({(point.planned.label, point.file) for point in every}) == len(every)
    assert [point.file for point in every if point.planned.label == "one" and point.gateway == "x"] == [
        "x.0-a-b.json",
        "x.1-a-b.json",
        "x-2.0-a-b.json",
        "x-2.1-a-b.json",
    ]


def test_a_point_is_its_phase_and_the_warm_up_before_it(tmp_path: Path) -> None:
    (one,) = planned([scenario(tmp_path, "one")], None)
    first, second = points([one], ["x"], 1)
    assert (first.seconds, second.seconds) == (6.0, 13.0)
    assert estimate([first, second]) > 19.0
    assert [phase.name for phase in one.whole(one.measured()).phases] == ["warm", "a/b", "warm", "a b"]


def test_a_duration_is_of_each_point_without_its_pauses(tmp_path: Path) -> None:
    (one,) = planned([scenario(tmp_path, "one")], 3.0)
    assert [phase.seconds for phase in one.part("a/b").phases] == [1.0, 2.0]
    assert points([one], ["x"], 1)[1].seconds == pytest.approx(6.0)


def test_what_cannot_be_planned_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="one of the scenarios"):
        planned(["no-such"], None)
    twice = [scenario(tmp_path / "a", "one"), scenario(tmp_path / "b", "one")]
    with pytest.raises(ConfigError, match="different names"):
        planned(twice, None)
    warm = scenario(tmp_path, "warm", '[[phases]]\nname = "w"\nseconds = 1\nrate = 1\nwarmup = true\n')
    with pytest.raises(ConfigError, match="a phase that is measured"):
        planned([warm], None)
