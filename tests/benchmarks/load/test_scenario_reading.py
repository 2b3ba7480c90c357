"""Where scenarios come from, and those that come with Headgate."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.load.reading import names, only, read, with_clients, with_rate, with_seconds
from benchmarks.load.scenario import Change, Phase, Scenario
from config.errors import ConfigError

SHIPPED = """
capacity-drop classes endurance fairness first impatient leave-early leavers overload ramp retries sessions slowdown
smoke-10x smoke streaming surge throughput
""".split()
REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "scenarios.md"


def refusal(call, *arguments):
    with pytest.raises(ConfigError) as refused:
        call(*arguments)
    (problem,) = refused.value.problems
    return problem


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text("[[phases]]\nname = 'p'\nseconds = 1\nrate = 1\n")
    return path


def test_all_that_come_with_headgate_are_sound_and_described():
    assert [name for name, _ in names()] == SHIPPED
    for name, description in names():
        label, scenario = read(name)
        assert (label, scenario.description) == (name, description)
        assert 10 < len(description) <= 100


def test_what_others_rely_on_in_those():
    overload, smoke = read("overload")[1], read("smoke")[1]
    assert [(phase.name, phase.load, phase.seconds) for phase in overload.phases[1:]] == [
        ("1x", 1, 30),
        ("2x", 2, 30),
        ("10x", 10, 30),
    ]
    assert overload.phases[0].warmup
    assert overload.backend is not None
    assert (overload.backend.slots, overload.backend.first_token_ms) == (8, 100)
    assert sum(phase.seconds + phase.pause_seconds for phase in smoke.phases) == 120
    assert {kind.class_ for kind in smoke.requests} == {"critical", "high", "normal", "low", None}
    left = {kind.leave.after for kind in smoke.requests if kind.leave is not None}
    assert left == {"sent", "head", "first_token", "tokens", "seconds"}
    assert read("first")[1].backend is None
    assert all(phase.rate is not None for phase in read("first")[1].phases)


def test_of_a_phase_made_shorter_no_share_is_wanted():
    scenario = read("smoke-10x")[1]
    assert [phase.least_share for phase in scenario.phases] == [None, 0.8]
    assert [phase.least_share for phase in with_seconds(scenario, 9).phases] == [None, 0.8]
    assert [phase.least_share for phase in with_seconds(scenario, 90).phases] == [None, 0.8]
    assert [phase.least_share for phase in with_seconds(scenario, 8.9).phases] == [None, None]


def test_a_path_is_read_as_a_file(file, monkeypatch):
    assert read(str(file))[0] == "mine"
    monkeypatch.chdir(file.parent)
    assert read("mine.toml")[0] == "mine"
    file.rename(file.parent / "mine")
    assert read("mine")[0] == "mine"


def test_a_name_that_is_nearly_one():
    problem = refusal(read, "overlaod")
    assert (problem.found, problem.hint) == ('"overlaod"', "overload")
    assert ", ".join(SHIPPED) in problem.expected


@pytest.mark.parametrize("name", ["", "a\0b", "x" * 5000, "..", "\n"])
def test_names_that_can_be_none(name):
    assert refusal(read, name).path == "scenario"


def test_files_that_cannot_be_read(tmp_path, file):
    assert "one of the scenarios capacity-drop" in refusal(read, str(tmp_path / "none.toml")).expected
    assert "directory" in refusal(read, f"{tmp_path}/").found
    file.write_bytes(b"\xff\xfe")
    assert refusal(read, str(file)).found == "bytes that are not UTF-8 on line 1"
    file.write_bytes(b"#" * (5 << 20))
    assert refusal(read, str(file)).found == "a larger file"
    file.write_text("phases = [")
    assert refusal(read, str(file)).expected == "TOML"


def test_a_trace_is_looked_for_beside_the_file_and_comes_back_absolute(tmp_path, file, monkeypatch):
    (tmp_path / "times.csv").write_text("at\n0.5\n")
    file.write_text("[[phases]]\nname = 'p'\nseconds = 1\narrivals = 'trace'\nfile = 'times.csv'\n")
    monkeypatch.chdir("/")
    (phase,) = read(str(file))[1].phases
    assert phase.file == str(tmp_path / "times.csv")


def test_another_rate():
    scenario = with_rate(read("smoke")[1], 12.5, 7)
    (phase,) = scenario.phases
    assert (phase.arrivals, phase.rate, phase.seconds, phase.load) == ("poisson", 12.5, 7, None)
    assert scenario.requests == read("smoke")[1].requests


def test_a_number_of_clients():
    (phase,) = with_clients(read("overload")[1], 3, 7).phases
    assert (phase.arrivals, phase.clients, phase.seconds, phase.rate) == ("closed", 3, 7, None)


def test_other_seconds_move_everything_alike():
    phases = [
        Phase(name="warm", seconds=10, rate=1, warmup=True),
        Phase(name="a", seconds=20, rate=1, pause_seconds=3, changes=[Change(at=10, slots=1)]),
        Phase(name="b", seconds=10, arrivals="surge", load=1, to_load=2, surge_at=4, surge_seconds=2),
    ]
    scaled = with_seconds(Scenario(phases=phases), 4).phases
    assert [phase.seconds for phase in scaled] == pytest.approx([1, 2, 1])
    assert scaled[1].changes == [Change(at=1, slots=1)]
    assert scaled[1].pause_seconds == 3
    assert (scaled[2].surge_at, scaled[2].surge_seconds) == pytest.approx((0.4, 0.2))


def test_one_phase_with_its_warm_ups():
    overload = read("overload")[1]
    assert [phase.name for phase in only(overload, "2x").phases] == ["warm-up", "2x"]
    assert refusal(only, overload, "20x").hint == "2x"


@pytest.mark.parametrize("number", [0, -1, float("nan"), float("inf"), 1e9])
def test_numbers_that_a_file_could_not_have(number):
    scenario = read("first")[1]
    assert refusal(with_rate, scenario, number, 5).path == "rate"
    assert refusal(with_rate, scenario, 5, number).path == "seconds"
    assert refusal(with_clients, scenario, number, 5).path == "clients"
    assert refusal(with_seconds, scenario, number).path == "seconds"


def test_more_requests_than_the_scenario_allows():
    scenario = msgspec.structs.replace(read("first")[1], max_requests=100)
    assert with_rate(scenario, 10, 10).phases[0].rate == 10
    assert refusal(with_rate, scenario, 10, 10.1).path == "max_requests"
    assert refusal(with_seconds, scenario, 60).path == "max_requests"


def test_the_reference_names_every_key():
    page = REFERENCE.read_text()
    pending = [msgspec.inspect.type_info(Scenario)]
    while pending:
        kind = pending.pop()
        match kind:
            case msgspec.inspect.StructType():
                assert [field for field in kind.fields if f"`{field.encode_name}`" not in page] == []
                pending += [field.type for field in kind.fields]
            case msgspec.inspect.UnionType():
                pending += kind.types
            case msgspec.inspect.ListType():
                pending.append(kind.item_type)
            case msgspec.inspect.LiteralType():
                assert [value for value in kind.values if f"`{value}`" not in page] == []
    assert [name for name in SHIPPED if f"`{name}`" not in page] == []
