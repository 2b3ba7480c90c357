"""What values journals keep, and what they refuse."""

import math

import pytest

from pipeline.workflow.journal import Journal, Signalled, StateChanged, StepFailedFinally
from pipeline.workflow.states import RunState
from tests.conformance.journals.journals import BUNDLE, completed, record


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


LARGE = "large " * 5000
VALUES = [
    None,
    False,
    0,
    -1,
    2**53 + 1,
    2**63,
    2**64,
    -(2**63) - 1,
    10**400,
    0.1,
    -0.0,
    1e308,
    5e-324,
    "",
    "ä€🎉\0\u2028",
    [],
    {},
    {"": 1, "a.b": {"$ref": "x"}, "ä": [None]},
    [[1, 2.5], ["x"]],
    [float(i) / 7 for i in range(500)],
    nested(800),
    LARGE,
    {"draft": LARGE, "list": [LARGE, LARGE, {"deep": {"deeper": {"deepest": {"bottom": LARGE}}}}]},
    {f"k{i}": "x" * i for i in range(1500)},
    [2**70, "large " * 100],
    "\xcb\x7f\xf8 no number",
]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
async def test_json_comes_back_as_it_was(journal: Journal, value):
    made, lease = await journal.create(record(inputs=value), BUNDLE, take=True)
    assert made.inputs == value
    outputs, error = {"out": value}, {"kind": "x", "details": value}
    await journal.append(lease, [completed("a", value, fields={"raw": value})])
    await journal.append(lease, [Signalled(1.0, "go", value), StepFailedFinally(2.0, "b", error)])
    await journal.append(lease, [StateChanged(3.0, RunState.FAILED, "", outputs, error)])
    run = await journal.run("r1")
    assert (run.inputs, run.outputs, run.error) == (value, outputs, error)
    entries = [one.entry for one in (await journal.histories(["r1"]))["r1"]]
    assert (entries[1].value, entries[1].fields["raw"], entries[2].payload) == (value, value, value)
    assert (entries[3].error, entries[4].outputs) == (error, outputs)
    (listed,) = (await journal.runs()).runs
    assert (listed.inputs, listed.outputs, listed.error) == (None, None, error)
    assert type(entries[1].value) is type(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (math.nan, "the value.* is nan"),
        ({"a": [1.0, math.inf]}, r"\[1\] is inf"),
        ({"a": {"b": -math.inf}}, r"\.b is -inf"),
        (nested(5000), "too deeply"),
        ([2**70, *nested(5000)], "too deeply"),
        (object(), "not JSON"),
        ({"x": 1j}, "not JSON"),
    ],
)
async def test_what_is_not_json_is_refused_and_writes_nothing(journal: Journal, value, message: str):
    _, lease = await journal.create(record(), BUNDLE, take=True)
    with pytest.raises(ValueError, match=message):
        await journal.append(lease, [completed("a"), completed("b", value)])
    with pytest.raises(ValueError, match=message):
        await journal.create(record("r2", inputs=value), BUNDLE, take=True)
    assert (await journal.run("r1")).last == 1
    assert await journal.run("r2") is None


async def test_lone_surrogates_are_replaced_everywhere(journal: Journal):
    odd = "a\ud800b"
    run = record(f"id{odd}", caller=odd, workflow=odd, idempotency_key=odd, inputs={odd: [odd]}, request_digest=odd)
    made, lease = await journal.create(run, BUNDLE, take=True)
    await journal.append(lease, [completed(odd, {odd: odd}), completed("pair", "\ud83c\udf89")])
    assert made.id == "ida\ufffdb"
    found = await journal.run(f"id{odd}")
    assert (found.caller, found.workflow) == ("a\ufffdb", "a\ufffdb")
    assert found.inputs == {"a\ufffdb": ["a\ufffdb"]}
    _, one, two = await journal.entries(f"id{odd}")
    assert (one.entry.path, one.entry.value, two.entry.value) == ("a\ufffdb", {"a\ufffdb": "a\ufffdb"}, "🎉")
    assert len((await journal.runs(caller=odd, workflow=odd)).runs) == 1
    again, _ = await journal.create(run, BUNDLE, take=True)
    assert again.id == made.id


async def test_what_is_changed_after_it_was_handed_in_does_not_change_what_is_kept(journal: Journal):
    inputs, value = {"list": [1]}, {"list": [2]}
    _, lease = await journal.create(record(inputs=inputs), BUNDLE, take=True)
    await journal.append(lease, [completed("a", value)])
    inputs["list"].append(9)
    value["list"].append(9)
    (await journal.entries("r1"))[1].entry.value["list"].append(9)
    assert (await journal.run("r1")).inputs == {"list": [1]}
    assert (await journal.entries("r1"))[1].entry.value == {"list": [2]}


@pytest.mark.slow
async def test_a_value_of_100_mb_is_kept(journal: Journal):
    value = {"text": "0123456789abcdef" * (100_000_000 // 16), "n": 1}
    _, lease = await journal.create(record(), BUNDLE, take=True)
    assert await journal.append(lease, [completed("big", value)]) == 2
    assert (await journal.entries("r1", after=1))[0].entry.value == value
