"""Every journal remembers runs and their entries."""

import asyncio

import msgspec
import pytest

from pipeline.core.errors import InvalidRequest
from pipeline.workflow.errors import Conflict, JournalFailed, LeaseLost, UnknownRun
from pipeline.workflow.journal import Journal, Lease, Numbered, Rewound, Signalled, StateChanged, StepStarted
from pipeline.workflow.states import RunState
from tests.conformance.journals.journals import BUNDLE, Journals, completed, record


async def test_a_run_is_what_was_made_with_its_state_as_first_entry(journal: Journal):
    made, lease = await journal.create(record(), BUNDLE, take=False)
    assert lease is None
    assert made == msgspec.structs.replace(record(), last=1)
    assert await journal.run("r1") == made
    assert await journal.entries("r1") == [Numbered(1, StateChanged(1000.5, RunState.PENDING))]
    assert await journal.run("r2") is None
    assert await journal.entries("r2") == []
    found = await journal.bundle(BUNDLE.digest)
    assert (bytes(found.main), dict(found.others)) == (bytes(BUNDLE.main), dict(BUNDLE.others))


async def test_entries_are_numbered_in_the_order_in_which_they_were_appended(journal: Journal):
    _, lease = await journal.create(record(), BUNDLE, take=True)
    assert await journal.append(lease, [StepStarted(1001.0, "draft"), completed(fields={"model": "echo"})]) == 3
    assert await journal.append(lease, [completed("review", {"ok": True}, attempt=2)]) == 4
    entries = await journal.entries("r1")
    assert [entry.number for entry in entries] == [1, 2, 3, 4]
    assert entries[2].entry == completed(fields={"model": "echo"})
    assert await journal.entries("r1", after=2, limit=1) == entries[2:3]
    assert await journal.entries("r1", after=2) == entries[2:]
    run = await journal.run("r1")
    assert (run.last, run.updated_at, run.state) == (4, 1001.0, RunState.PENDING)


async def test_many_appends_at_once_keep_each_run_without_gaps(journal: Journal):
    made = await asyncio.gather(*(journal.create(record(f"r{i}"), BUNDLE, take=True) for i in range(20)))

    async def work(lease: Lease) -> list[int]:
        return [await journal.append(lease, [completed(f"s{n}", n)]) for n in range(30)]

    assert await asyncio.gather(*(work(lease) for _, lease in made)) == [list(range(2, 32))] * 20
    together = await asyncio.gather(*(journal.append(made[0][1], [completed("x")]) for _ in range(50)))
    assert sorted(together) == list(range(32, 82))
    histories = await journal.histories([f"r{i}" for i in range(20)] + ["unknown"])
    assert len(histories) == 20
    for run_id, history in histories.items():
        assert history == await journal.entries(run_id)
        assert [one.number for one in history] == list(range(1, len(history) + 1))
    assert [one.entry.value for one in histories["r7"][1:]] == list(range(30))


async def test_a_change_of_state_changes_the_run(journal: Journal):
    _, lease = await journal.create(record(), BUNDLE, take=True)
    await journal.append(lease, [StateChanged(1002.0, RunState.RUNNING)])
    await journal.append(lease, [StateChanged(1003.0, RunState.WAITING, wake_at=2000.125)])
    run = await journal.run("r1")
    assert (run.state, run.wake_at, run.updated_at) == (RunState.WAITING, 2000.125, 1003.0)
    end = StateChanged(1004.0, RunState.PARTIAL, "done", {"text": "so far"}, {"kind": "timeout"})
    await journal.append(lease, [StateChanged(1003.5, RunState.RUNNING), end, completed("late", at=1005.0)])
    run = await journal.run("r1")
    assert (run.state, run.outputs, run.error, run.wake_at) == (end.state, end.outputs, end.error, None)
    assert (run.updated_at, run.last) == (1005.0, 6)
    await journal.append(lease, [Rewound(1006.0, ["draft"]), StateChanged(1006.0, RunState.PENDING)])
    run = await journal.run("r1")
    assert (run.state, run.outputs, run.error) == (RunState.PENDING, None, None)


async def test_an_idempotency_key_makes_one_run(journal: Journal):
    first = record("r1", idempotency_key="k", request_digest="q", caller="ada")
    made, _ = await journal.create(first, BUNDLE, take=True)
    again, lease = await journal.create(
        record("r2", idempotency_key="k", request_digest="q", caller="ada"), BUNDLE, take=True
    )
    assert (again, lease) == (made, None)
    with pytest.raises(Conflict, match="'k' came with another request"):
        await journal.create(record("r3", idempotency_key="k", request_digest="other", caller="ada"), BUNDLE, take=True)
    other, _ = await journal.create(
        record("r4", idempotency_key="k", request_digest="x", caller="bob"), BUNDLE, take=True
    )
    assert other.id == "r4"
    assert [run.id for run in (await journal.runs()).runs] == ["r4", "r1"]


async def test_one_key_at_the_same_moment_makes_one_run(journal: Journal):
    wanted = [record(f"r{i}", idempotency_key="k", request_digest="q") for i in range(20)]
    made = await asyncio.gather(*(journal.create(run, BUNDLE, take=True) for run in wanted))
    assert len({run.id for run, _ in made}) == 1
    assert len([lease for _, lease in made if lease is not None]) == 1


async def test_a_run_is_made_once(journal: Journal):
    await journal.create(record(), BUNDLE, take=True)
    with pytest.raises(Conflict, match="'r1'"):
        await journal.create(record(), BUNDLE, take=True)


async def test_an_append_without_the_lease_writes_nothing(journals: Journals, journal: Journal):
    _, lease = await journal.create(record(), BUNDLE, take=True)
    forged = [Lease("r1", lease.holder, 2), Lease("r1", "9:9:abc", 1), Lease("unknown", lease.holder, 1)]
    for wrong in forged:
        with pytest.raises(LeaseLost):
            await journal.append(wrong, [completed()])
    await journal.release(lease)
    with pytest.raises(LeaseLost):
        await journal.append(lease, [completed(), StateChanged(1001.0, RunState.FAILED)])
    run = await journal.run("r1")
    assert (run.last, run.state, run.holder) == (1, RunState.PENDING, "")


async def test_one_lost_lease_among_many_appends_fails_alone(journal: Journal):
    _, good = await journal.create(record("r1"), BUNDLE, take=True)
    await journal.create(record("r2"), BUNDLE, take=True)
    results = await asyncio.gather(
        journal.append(good, [completed()]),
        journal.append(Lease("r2", good.holder, 7), [completed()]),
        journal.append(good, [completed("b")]),
        journal.post("unknown", [Signalled(1.0, "go")]),
        return_exceptions=True,
    )
    assert (results[0], results[2]) == (2, 3)
    assert isinstance(results[1], LeaseLost)
    assert isinstance(results[3], UnknownRun)


async def test_what_others_post_gets_a_number_of_its_own(journals: Journals, journal: Journal):
    other = await journals.open(1)
    _, lease = await journal.create(record(), BUNDLE, take=True)
    assert await other.post("r1", [Signalled(1001.0, "approved", {"by": "Ada"})]) == 2
    assert await journal.append(lease, [completed()]) == 3
    for change in (StateChanged(1002.0, RunState.CANCELLED), Rewound(1002.0, ["draft"])):
        with pytest.raises(Conflict, match="being executed"):
            await other.post("r1", [change])
    await journal.release(lease)
    assert await other.post("r1", [StateChanged(1002.0, RunState.CANCELLED)]) == 4
    assert (await journal.run("r1")).state is RunState.CANCELLED
    with pytest.raises(UnknownRun):
        await other.post("r2", [Signalled(1.0, "go")])


async def test_pages_go_from_the_newest_to_the_oldest(journal: Journal):
    for i in range(25):
        state = RunState.FAILED if i % 5 == 0 else RunState.RUNNING
        await journal.create(
            record(f"r{i:02}", caller=f"c{i % 2}", workflow=f"w{i % 3}", state=state), BUNDLE, take=False
        )
    filters = [
        {},
        {"caller": "c1"},
        {"workflow": "w2"},
        {"states": [RunState.FAILED]},
        {"states": [RunState.FAILED, RunState.RUNNING], "caller": "c0"},
        {"caller": "c0", "workflow": "w0", "states": [RunState.FAILED]},
        {"caller": "nobody"},
    ]
    for given in filters:
        everything = [run async for run in _all(journal, **given)]
        wanted = [i for i in range(24, -1, -1) if _fits(i, **given)]
        assert [run.id for run in everything] == [f"r{i:02}" for i in wanted]
        assert all(run.inputs is None and run.options == {"max_concurrency": 2} for run in everything)
    page = await journal.runs(limit=25)
    assert page.next is None


async def _all(journal: Journal, **given):
    after = None
    while True:
        page = await journal.runs(**given, limit=4, after=after)
        assert len(page.runs) <= 4
        for run in page.runs:
            yield run
        if page.next is None:
            return
        after = page.next


def _fits(i: int, *, caller=None, workflow=None, states=()) -> bool:
    state = RunState.FAILED if i % 5 == 0 else RunState.RUNNING
    return caller in {None, f"c{i % 2}"} and workflow in {None, f"w{i % 3}"} and (not states or state in states)


async def test_runs_made_between_two_pages_change_neither(journal: Journal):
    for i in range(4):
        await journal.create(record(f"r{i}"), BUNDLE, take=False)
    first = await journal.runs(limit=2)
    await journal.create(record("new"), BUNDLE, take=False)
    second = await journal.runs(limit=2, after=first.next)
    assert [run.id for run in (*first.runs, *second.runs)] == ["r3", "r2", "r1", "r0"]


@pytest.mark.parametrize(
    "cursor", ["", "x", "cnVuOng", "!!!", "cnVuOi0x", "ä", "\ud800", "cnVuOjk5OTk5OTk5OTk5OTk5OTk5OTk5"]
)
async def test_a_cursor_that_no_page_gave_is_refused(journal: Journal, cursor: str):
    with pytest.raises(InvalidRequest) as caught:
        await journal.runs(after=cursor)
    assert caught.value.param == "after"


async def test_runs_that_have_not_ended_are_counted(journal: Journal):
    states = [RunState.PENDING, RunState.RUNNING, RunState.RUNNING, RunState.COMPLETED]
    for i, state in enumerate(states):
        await journal.create(record(f"r{i}", state=state), BUNDLE, take=False)
    assert await journal.counts() == {
        RunState.PENDING: 1,
        RunState.RUNNING: 2,
        RunState.PAUSED: 0,
        RunState.WAITING: 0,
    }


async def test_a_closed_journal_says_so(journal: Journal):
    await journal.aclose()
    with pytest.raises(JournalFailed, match="closed"):
        await journal.run("r1")
    with pytest.raises(JournalFailed, match="closed"):
        await journal.create(record(), BUNDLE, take=True)
    await journal.aclose()
