"""Runs that grow large: read bit by bit or in outline, and bounded."""

import pytest

from pipeline.workflow.errors import RunFull
from pipeline.workflow.journal import Journal, Left, Rewound, Signalled, StateChanged, StepStarted
from pipeline.workflow.states import RunState
from tests.conformance.journals.journals import BUNDLE, Journals, completed, record

BIG = "x" * 10_000


async def made(journal: Journal):
    _, lease = await journal.create(record(), BUNDLE, take=True)
    assert lease is not None
    return lease


async def test_an_outline_has_no_large_values(journal):
    lease = await made(journal)
    small, part = completed("small", value="y" * 600), completed("part", value={"a": [BIG[:2000]] * 3, "b": 1})
    large = completed("large", value=BIG, fields={"text": BIG}, attempt=2)
    signal = Signalled(1002.0, "go", payload=BIG)
    end = StateChanged(1003.0, RunState.COMPLETED, outputs={"all": BIG})
    await journal.append(lease, [StepStarted(1000.0, "small"), small, part, large, signal, end])
    found = [one.entry for one in await journal.outline("r1", 8000)]
    assert [one.number for one in await journal.outline("r1", 8000)] == list(range(1, 8))
    assert found[2:4] == [small, part]
    left = found[4]
    assert isinstance(left.value, Left)
    assert 10_000 <= left.value.size <= 25_000
    assert (left.path, left.fields, left.attempt) == ("large", {}, 2)
    assert (found[5].payload, found[6].outputs, found[6].state) == (None, None, RunState.COMPLETED)
    (whole,) = await journal.entries("r1", 4, 1)
    assert whole.entry == large
    assert await journal.outline("another", 10) == []


async def test_entries_end_where_there_are_enough_bytes(journal):
    lease = await made(journal)
    await journal.append(lease, [completed(f"s{number}", value=BIG + str(number)) for number in range(9)])
    assert [one.number for one in await journal.entries("r1", 1, 5, most=25_000)] == [2, 3, 4]
    assert [one.number for one in await journal.entries("r1", 1, 2, most=25_000)] == [2, 3]
    assert [one.number for one in await journal.entries("r1", 1, most=1)] == [2]


async def test_a_run_without_inputs_and_outputs(journal):
    lease = await made(journal)
    await journal.append(lease, [StateChanged(1003.0, RunState.FAILED, outputs={"a": 1}, error={"kind": "x"})])
    bare = await journal.run("r1", whole=False)
    assert (bare.inputs, bare.outputs, bare.error, bare.last) == (None, None, {"kind": "x"}, 2)
    assert (await journal.run("r1")).inputs == {"name": "Ada"}


@pytest.fixture
def limit(monkeypatch):
    monkeypatch.setattr(Journals, "run_max", 50_000)


@pytest.mark.usefixtures("limit")
async def test_what_is_stored_once_counts_once(tmp_path):
    journals = Journals("sqlite", tmp_path)
    journal = await journals.open()
    lease = await made(journal)
    for number in range(20):
        await journal.append(lease, [completed(f"s{number}", value=BIG)])
    await journals.aclose()


@pytest.mark.usefixtures("limit")
async def test_a_run_that_is_full_can_only_end(journal, journals):
    lease = await made(journal)
    for number in range(5):
        last = await journal.append(lease, [completed(f"s{number}", value=BIG + str(number))])
    assert last == 6
    with pytest.raises(RunFull):
        await journal.append(lease, [StepStarted(1001.0, "more")])
    with pytest.raises(RunFull):
        await journal.append(lease, [completed("more", value="x" * 70_000)])
    end = StateChanged(1003.0, RunState.FAILED, error={"kind": "too_large"})
    assert await journal.append(lease, [StepStarted(1001.0, "more"), end]) == 8
    with pytest.raises(RunFull):
        await journal.append(lease, [Rewound(1004.0, ["more"]), StateChanged(1004.0, RunState.PENDING)])
    with pytest.raises(RunFull):
        await journal.post("r1", [Signalled(1005.0, "go", payload="x" * 70_000)])
    # Who comes later knows too.
    await journal.release(lease)
    other = await journals.open(1)
    taken = await other.claim("r1")
    with pytest.raises(RunFull):
        await other.append(taken, [Rewound(1004.0, ["more"])])
    assert (await other.run("r1")).state is RunState.FAILED
