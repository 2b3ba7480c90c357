"""Scenario files are refused with every problem, each with its key path, as `pipeline.toml` is."""

from pathlib import Path

import msgspec
import pytest

from benchmarks.load.reading import read
from benchmarks.load.scenario import Scenario
from config.errors import ConfigError, Problem
from config.shape import Leaf, bare

PHASE = "[[phases]]\nname = 'p'\nseconds = 10\n"
KIND = "[[requests]]\nname = 'k'\n"
STREAM = KIND + "stream = true\n"


def problems(folder: Path, text: str) -> tuple[Problem, ...]:
    file = folder / "test.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as refused:
        read(str(file))
    return refused.value.problems


# text; then the one problem it must give: path, found, the beginning of what is expected, nearest
TABLE = {
    "more heavy sessions than there are": (
        f"{PHASE}rate = 1\n[sessions]\ncount = 2\nheavy = 3\ntimes = 2",
        "sessions.heavy",
        "3",
        "at most 2, which is how many there are",
        "",
    ),
    "heavy without times": (
        f"{PHASE}rate = 1\n[sessions]\ncount = 2\nheavy = 1",
        "sessions.times",
        "nothing",
        "how often they ask",
        "",
    ),
    "times without heavy": (
        f"{PHASE}rate = 1\n[sessions]\ncount = 2\ntimes = 3",
        "sessions.heavy",
        "nothing",
        "how many of them do",
        "",
    ),
    "a share of a closed loop": (
        PHASE + "arrivals = 'closed'\nclients = 2\nleast_share = 0.5",
        "phases[0].least_share",
        "a share of nothing",
        "none: for a closed loop there is no oracle",
        "",
    ),
    "a share above all": (
        PHASE + "rate = 1\nleast_share = 1.5",
        "phases[0].least_share",
        "1.5",
        "a number from 0 to 1",
        "",
    ),
    "unknown key of a phase": (PHASE + "rate = 1\nlaod = 5", "phases[0].laod", "an unknown key", "a key of", "load"),
    "unknown top key": (f"sed = 5\n{PHASE}rate = 1", "sed", "an unknown key", "a key of the scenario", "seed"),
    "a key of the backend": (f"slots = 5\n{PHASE}rate = 1", "slots", "an unknown key", "a key", "backend.slots"),
    "a key by its python name": (
        f"{PHASE}rate = 1\n{KIND}class_ = 'high'",
        "requests[0].class_",
        "an unknown key",
        "a key of requests[0]",
        "class",
    ),
    "class": (f"{PHASE}rate=1\n{KIND}class = 'hgih'", "requests[0].class", '"hgih"', "one of", '"high"'),
    "no rate": (PHASE, "phases[0].rate", "nothing", "rate (requests a second) or load", ""),
    "rate and load": (PHASE + "rate = 1\nload = 1", "phases[0].load", "both rate and load", "one of the two", ""),
    "rate of 0": (PHASE + "rate = 0", "phases[0].rate", "0", "a number above 0 and at most 1,000,000", ""),
    "rate is nan": (PHASE + "rate = nan", "phases[0].rate", "nan", "a number above 0", ""),
    "seconds are inf": (PHASE.replace("10", "inf") + "rate = 1", "phases[0].seconds", "inf", "a number above 0", ""),
    "weight is inf": (f"{PHASE}rate = 1\n{KIND}weight = inf", "requests[0].weight", "inf", "a number above 0", ""),
    "arrivals": (PHASE + "rate = 1\narrivals = 'poison'", "phases[0].arrivals", '"poison"', "one of", '"poisson"'),
    "burst with poisson": (
        PHASE + "rate = 1\nburst = 3",
        "phases[0].burst",
        "a key for other arrivals",
        'none: arrivals = "poisson" takes rate, load; burst is for "burst"',
        "",
    ),
    "speed without a trace": (PHASE + "rate = 1\nspeed = 1", "phases[0].speed", "a key for other arrivals", "none", ""),
    "thinking in an open loop": (
        PHASE + "rate = 1\nthink_seconds = 0",
        "phases[0].think_seconds",
        "a key for other arrivals",
        'none: arrivals = "poisson" takes rate, load; think_seconds is for "closed"',
        "",
    ),
    "rate in a closed loop": (
        PHASE + "arrivals = 'closed'\nclients = 3\nrate = 3",
        "phases[0].rate",
        "a key for other arrivals",
        'none: arrivals = "closed" takes clients, think_seconds',
        "",
    ),
    "closed without clients": (PHASE + "arrivals = 'closed'", "phases[0].clients", "nothing", "how many clients", ""),
    "more clients than may be in flight": (
        f"max_in_flight = 2\n{PHASE}arrivals = 'closed'\nclients = 3",
        "phases[0].clients",
        "3",
        "at most 2, which is max_in_flight",
        "",
    ),
    "burst without burst": (PHASE + "arrivals = 'burst'\nrate = 9", "phases[0].burst", "nothing", "how many", ""),
    "a burst that never comes": (
        PHASE + "arrivals = 'burst'\nrate = 1\nburst = 11",
        "phases[0].burst",
        "11",
        "at most 10",
        "",
    ),
    "ramp to nowhere": (PHASE + "arrivals = 'ramp'\nload = 1", "phases[0].to_load", "nothing", "what a ramp", ""),
    "ramp to another measure": (
        PHASE + "arrivals = 'ramp'\nload = 1\nto_rate = 5",
        "phases[0].to_rate",
        "another measure",
        "to_load, as the phase begins with load",
        "to_load",
    ),
    "ramp to both": (
        PHASE + "arrivals = 'ramp'\nrate = 1\nto_rate = 5\nto_load = 5",
        "phases[0].to_load",
        "another measure",
        "to_rate",
        "to_rate",
    ),
    "surge without a time": (
        PHASE + "arrivals = 'surge'\nrate = 1\nto_rate = 5\nsurge_at = 5",
        "phases[0].surge_seconds",
        "nothing",
        "how long",
        "",
    ),
    "surge beyond the end": (
        PHASE + "arrivals = 'surge'\nrate = 1\nto_rate = 5\nsurge_at = 5\nsurge_seconds = 6",
        "phases[0].surge_seconds",
        "6 from 5 on",
        "an end within the 10 seconds",
        "",
    ),
    "trace without a file": (PHASE + "arrivals = 'trace'", "phases[0].file", "nothing", "a file of arrivals", ""),
    "two phases of a name": (
        f"{PHASE}rate = 1\n{PHASE}rate = 2",
        "phases[1].name",
        '"p"',
        "a name of its own: phases[0] has this one",
        "",
    ),
    "two kinds of a name": (f"{PHASE}rate = 1\n{KIND}{KIND}", "requests[1].name", '"k"', "a name of its own", ""),
    "a name with a newline": (PHASE.replace("'p'", '"p\\n"') + "rate = 1", "phases[0].name", '"p\\n"', "a name of", ""),
    "no phases": ("phases = []", "phases", "an array of 0", "an array of 1 to 1,000 tables", ""),
    "one table for an array": ("[phases]\nname = 'p'", "phases", "a table", "an array of 1", "[[phases]]"),
    "change after the end": (
        PHASE + "rate = 1\nchanges = [{at = 10, slots = 1}]",
        "phases[0].changes[0].at",
        "10",
        "less than 10",
        "",
    ),
    "changes out of order": (
        PHASE + "rate = 1\nchanges = [{at = 5, slots = 1}, {at = 4, slots = 2}]",
        "phases[0].changes[1].at",
        "4",
        "at least 5",
        "",
    ),
    "a change of nothing": (PHASE + "rate = 1\nchanges = [{at = 5}]", "phases[0].changes[0]", "a change of", "at", ""),
    "leaving after a token of no stream": (
        f"{PHASE}rate = 1\n{KIND}leave = {{share = 1, after = 'first_token'}}",
        "requests[0].leave.after",
        '"first_token"',
        "stream = true",
        "",
    ),
    "tokens of another point": (
        f"{PHASE}rate = 1\n{STREAM}leave = {{share = 1, after = 'head', tokens = 1}}",
        "requests[0].leave.tokens",
        "a key for another point",
        'none, or after = "tokens"',
        "",
    ),
    "leaving after the deadline": (
        f"{PHASE}rate = 1\n{KIND}deadline_ms = 500\nleave = {{share = 1, after = 'seconds', seconds = 0.5}}",
        "requests[0].leave.seconds",
        "0.5",
        "less than 0.5",
        "",
    ),
    "leaving without a share": (
        f"{PHASE}rate = 1\n{KIND}leave = {{after = 'sent'}}",
        "requests[0].leave.share",
        "nothing",
        "a number from 0 to 1",
        "",
    ),
    "no deadline to tell": (
        f"{PHASE}rate = 1\n{KIND}send_deadline = true",
        "requests[0].deadline_ms",
        "nothing",
        "the deadline",
        "",
    ),
    "a deadline after hanging": (
        f"hang_seconds = 1\n{PHASE}rate = 1\n{KIND}deadline_ms = 2000",
        "requests[0].deadline_ms",
        "2000",
        "at most 1,000",
        "",
    ),
    "least above most": (
        f"{PHASE}rate = 1\n{KIND}prompt_words = {{mean = 5, least = 9, most = 6}}",
        "requests[0].prompt_words.least",
        "9",
        "at most 6",
        "",
    ),
    "mean above most": (
        f"{PHASE}rate = 1\n{KIND}max_tokens = {{mean = 7, most = 6}}",
        "requests[0].max_tokens.mean",
        "7",
        "from least to most: 1 to 6",
        "",
    ),
    "a header that cannot be": (
        f"{PHASE}rate = 1\n{KIND}headers = {{'a b' = 'x'}}",
        'requests[0].headers."a b"',
        "a name that no header can have",
        "letters",
        "",
    ),
    "a header of the generator": (
        f"{PHASE}rate = 1\n{KIND}headers = {{Content-Length = '5'}}",
        "requests[0].headers.Content-Length",
        "a header that the generator sets itself",
        "any other header",
        "",
    ),
    "authorization": (
        f"{PHASE}rate = 1\n{KIND}headers = {{authorization = 'Bearer hunter2'}}",
        "requests[0].headers.authorization",
        "a header that is set by other means",
        "--api-key",
        "",
    ),
    "a header twice": (
        f"{PHASE}rate = 1\n{KIND}headers = {{a = 'x', A = 'x'}}",
        "requests[0].headers.A",
        "the same header twice",
        "each one once",
        "",
    ),
    "a header of two lines": (
        f'{PHASE}rate = 1\n{KIND}headers = {{a = "x\\r\\nb: c"}}',
        "requests[0].headers.a",
        "a value that is not shown",
        "one line",
        "",
    ),
    "spread of a uniform distribution": (
        f"{PHASE}rate = 1\n[backend]\ndistribution = 'uniform'\nspread = 0.6",
        "backend.spread",
        "0.6",
        "at most 0.577",
        "",
    ),
    "more requests than allowed": (
        f"max_requests = 99\ncapacity = 5\n{PHASE}load = 2",
        "max_requests",
        "99",
        "at least the 100 requests",
        "",
    ),
}


@pytest.mark.parametrize("case", TABLE)
def test_each_problem_alone(case, tmp_path):
    text, path, found, expected, hint = TABLE[case]
    (problem,) = problems(tmp_path, text)
    assert problem.path == path
    assert problem.found.startswith(found)
    assert problem.expected.startswith(expected)
    assert problem.hint == hint
    assert "hunter2" not in repr(problem)


def test_all_at_once_in_the_order_of_the_file(tmp_path):
    text = """\
max_request = 5
[[phases]]
name = "a"
seconds = "10"
burst = 3
[[phases]]
name = "a"
seconds = 5
arrivals = "trace"
file = "there.is.none"
changes = [{at = 7, slots = -1}]
[[requests]]
leave = {share = 2, after = "token"}
[retries]
max = 1.5
[backend]
slot = 3
"""
    found = [(one.path, one.where.removeprefix(f"{tmp_path}/")) for one in problems(tmp_path, text)]
    assert found == [
        ("max_request", "test.toml:1"),
        ("phases[0].rate", "test.toml:2"),
        ("phases[0].seconds", "test.toml:4"),
        ("phases[0].burst", "test.toml:5"),
        ("phases[1].name", "test.toml:7"),
        ("phases[1].file", "test.toml:10"),
        ("phases[1].changes[0].slots", "test.toml:11"),
        ("requests[0].leave.share", "test.toml:13"),
        ("requests[0].leave.after", "test.toml:13"),
        ("retries.max", "test.toml:15"),
        ("backend.slot", "test.toml:17"),
    ]


def test_what_is_wrong_with_a_trace_is_a_problem_of_its_key(tmp_path):
    (tmp_path / "trace.jsonl").write_text('{"at": 1}\n{"at": -1}\n{"ta": 1}\n')
    one, two = problems(tmp_path, f"{PHASE}arrivals = 'trace'\nfile = 'trace.jsonl'")
    assert (one.path, two.path) == ("phases[0].file", "phases[0].file")
    assert one.found.startswith(f"{tmp_path}/trace.jsonl:2: ")
    assert two.found.startswith(f"{tmp_path}/trace.jsonl:3: ")
    assert one.where == f"{tmp_path}/test.toml:5"


def test_arrivals_of_a_trace_count_as_requests(tmp_path):
    (tmp_path / "trace.jsonl").write_text('{"at": 1}\n' * 4 + '{"at": 11}\n')
    (problem,) = problems(tmp_path, f"max_requests = 3\n{PHASE}arrivals = 'trace'\nfile = 'trace.jsonl'")
    assert (problem.path, problem.expected) == ("max_requests", "at least the 4 requests that the phases ask for")


def test_keys_that_cannot_be_read_are_not_judged_again(tmp_path):
    text = f"hang_seconds = 'x'\nmax_in_flight = 0\n{PHASE}arrivals = 'closed'\nclients = 0\n{KIND}deadline_ms = true"
    found = [problem.path for problem in problems(tmp_path, text)]
    assert found == ["hang_seconds", "max_in_flight", "phases[0].clients", "requests[0].deadline_ms"]


@pytest.mark.parametrize("text", ["phases = 5", "phases = [5]", "[[phases]]", "[[phases.changes]]", "requests = [[]]"])
def test_what_has_the_wrong_shape_altogether(tmp_path, text):
    assert problems(tmp_path, text)


def test_every_type_in_a_scenario_is_one_that_is_checked():
    pending: list[msgspec.inspect.Type] = [msgspec.inspect.type_info(Scenario)]
    while pending:
        kind, _ = bare(pending.pop())
        match kind:
            case msgspec.inspect.StructType():
                assert kind.forbid_unknown_fields
                pending += [field.type for field in kind.fields]
            case msgspec.inspect.ListType():
                pending.append(kind.item_type)
            case msgspec.inspect.DictType():
                assert bare(kind.value_type)[0] == msgspec.inspect.StrType()
            case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
                assert kind.multiple_of is None
            case _:
                assert isinstance(kind, Leaf)
