"""One holder executes a run at a time, whatever journal it is in."""

import asyncio

import pytest

from pipeline.workflow.errors import LeaseLost, UnknownRun
from pipeline.workflow.journal import Journal, Lease, Signalled, StateChanged
from pipeline.workflow.states import RunState
from tests.conformance.journals.journals import BUNDLE, LEASE_SECONDS, Journals, completed, record


@pytest.fixture
async def other(journals: Journals, journal: Journal) -> Journal:
    return await journals.open(1)


def anything(_: str) -> bool:
    return True


async def test_a_lease_goes_from_hand_to_hand(journal: Journal, other: Journal):
    made, first = await journal.create(record(), BUNDLE, take=True)
    assert (made.holder, made.epoch) == (journal.holder, 1)
    assert await other.claim("r1") is None
    assert await journal.claim("r1") is None
    await journal.release(first)
    second = await other.claim("r1")
    assert (second.holder, second.epoch) == (other.holder, 2)
    with pytest.raises(LeaseLost):
        await journal.append(first, [completed()])
    await journal.release(first)  # nothing happens: it is lost
    assert await other.append(second, [completed()]) == 2
    with pytest.raises(UnknownRun):
        await journal.claim("r2")


async def test_a_holder_that_does_not_renew_loses_its_leases(journals: Journals, journal: Journal, other: Journal):
    _, lease = await journal.create(record(), BUNDLE, take=True)
    journals.clock.now += LEASE_SECONDS - 1
    await journal.renew()
    journals.clock.now += LEASE_SECONDS - 1
    assert other.alive(journal.holder)
    assert await other.claim("r1") is None
    journals.clock.now += 2
    await other.renew()
    assert not other.alive(journal.holder)
    assert await journal.append(lease, [completed()]) == 2  # nobody has taken it yet
    taken = await other.claim("r1")
    assert taken.epoch == 2
    with pytest.raises(LeaseLost):
        await journal.append(lease, [completed()])
    await journal.renew()
    assert other.alive(journal.holder)
    assert await journal.claim("r1") is None


async def test_a_journal_that_closes_gives_its_leases_back(journal: Journal, other: Journal):
    await journal.create(record("r1"), BUNDLE, take=True)
    await journal.create(record("r2", state=RunState.COMPLETED), BUNDLE, take=True)
    assert other.alive(journal.holder)
    await journal.aclose()
    assert not other.alive(journal.holder)
    assert [(await other.run(run_id)).holder for run_id in ("r1", "r2")] == ["", ""]
    assert (await other.claim("r1")).epoch == 2


async def test_strange_holders_are_dead(journal: Journal):
    for holder in ("", "x", "../../etc/passwd", "1:2", "0:1:zzz", "turn", "\ud800"):
        assert not journal.alive(holder)
    assert journal.alive(journal.holder)


async def test_what_should_be_executed_is_claimed_the_oldest_first(
    journals: Journals, journal: Journal, other: Journal
):
    states = [
        RunState.RUNNING,
        RunState.COMPLETED,
        RunState.PENDING,
        RunState.PAUSED,
        RunState.WAITING,
        RunState.WAITING,
        RunState.WAITING,
        RunState.PENDING,
    ]
    wakes = {4: 100.0, 5: 300.0}
    for i, state in enumerate(states):
        await journal.create(record(f"r{i}", state=state, wake_at=wakes.get(i)), BUNDLE, take=False)
    await journal.create(record("held"), BUNDLE, take=True)
    assert await other.next_due() == 100.0
    claimed = await other.claim_many(10, due=200.0, mine=lambda run_id: run_id != "r2")
    assert [run.id for run, _ in claimed] == ["r0", "r4", "r7"]
    for run, lease in claimed:
        assert (lease.run, lease.holder, lease.epoch) == (run.id, other.holder, 1) == (run.id, run.holder, run.epoch)
        assert run.inputs == {"name": "Ada"}
        assert await other.append(lease, [completed()]) == 2
    assert [run.id for run, _ in await other.claim_many(10, due=200.0, mine=anything)] == ["r2"]
    assert await other.claim_many(10, due=200.0, mine=anything) == []
    assert await other.next_due() == 300.0


async def test_runs_of_a_dead_holder_are_claimed(journals: Journals, journal: Journal, other: Journal):
    for i in range(3):
        await journal.create(record(f"r{i}"), BUNDLE, take=True)
    await journal.create(record("w", state=RunState.WAITING, wake_at=50.0), BUNDLE, take=True)
    assert await other.claim_many(10, due=1e9, mine=anything) == []
    assert await other.next_due() is None
    journals.clock.now += LEASE_SECONDS + 1
    await other.renew()
    assert await other.next_due() == 50.0
    claimed = await other.claim_many(2, due=60.0, mine=anything)
    assert [(run.id, lease.epoch) for run, lease in claimed] == [("r0", 2), ("r1", 2)]
    assert [run.id for run, _ in await other.claim_many(9, due=60.0, mine=anything)] == ["r2", "w"]


async def test_two_who_claim_at_once_share_the_runs(journals: Journals, journal: Journal, other: Journal):
    await asyncio.gather(*(journal.create(record(f"r{i}"), BUNDLE, take=False) for i in range(600)))
    both = await asyncio.gather(*(one.claim_many(600, due=0.0, mine=anything) for one in (journal, other)))
    ids = [run.id for claimed in both for run, _ in claimed]
    assert len(ids) == len(set(ids))
    rest = await journal.claim_many(600, due=0.0, mine=anything)
    assert {*ids, *(run.id for run, _ in rest)} == {f"r{i}" for i in range(600)}


async def test_a_signal_makes_a_waiting_run_due(journal: Journal, other: Journal):
    _, lease = await journal.create(record(), BUNDLE, take=True)
    await journal.append(lease, [StateChanged(1001.0, RunState.WAITING)])
    await journal.release(lease)
    assert await other.claim_many(1, due=1e9, mine=anything) == []
    await other.post("r1", [Signalled(1002.0, "go")])
    assert await other.next_due() == 1002.0
    ((run, lease),) = await other.claim_many(1, due=1002.0, mine=anything)
    assert (run.id, run.wake_at) == ("r1", None)
    await other.append(
        lease, [StateChanged(1003.0, RunState.RUNNING), StateChanged(1004.0, RunState.WAITING, wake_at=9e9)]
    )
    await other.release(lease)
    assert await other.next_due() == 9e9


async def test_leases_that_nobody_waits_for_are_given_back(journal: Journal, other: Journal):
    await journal.create(record(), BUNDLE, take=False)
    asking = asyncio.ensure_future(journal.claim("r1"))
    await asyncio.sleep(0)
    asking.cancel()
    (result,) = await asyncio.gather(asking, return_exceptions=True)
    if isinstance(result, Lease):  # it had come already
        await journal.release(result)
    async with asyncio.timeout(10):
        while await other.claim("r1") is None:
            await asyncio.sleep(0.001)
