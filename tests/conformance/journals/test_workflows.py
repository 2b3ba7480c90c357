"""Registered workflows, and what retention leaves."""

import asyncio

import msgspec
import pytest

from pipeline.workflow.errors import UnknownWorkflow, VersionTaken
from pipeline.workflow.journal import Bundle, Journal, StateChanged
from pipeline.workflow.states import RunState
from tests.conformance.journals.journals import BUNDLE, completed, record, registered


async def test_a_version_never_changes(journal: Journal):
    first = await journal.register(registered())
    assert await journal.register(msgspec.structs.replace(registered(), created_at=2000.0)) == first
    with pytest.raises(VersionTaken, match=r"Version 1 .*'greet'"):
        await journal.register(registered(digest="d2"))
    found = await journal.workflow("greet", "1")
    assert (found.digest, found.created_at, found.source) == ("d1", 1000.0, "name: greet\n")
    assert bytes(found.bundle.main) == bytes(BUNDLE.main)


async def test_the_newest_version_is_the_last_registered(journal: Journal):
    for version in ("2", "10", "1"):
        await journal.register(registered(version, f"d{version}"))
    await journal.register(registered("7", name="another"))
    assert (await journal.workflow("greet", None)).version == "1"
    assert (await journal.workflow("greet", "10")).digest == "d10"
    assert await journal.workflow("greet", "3") is None
    assert await journal.workflow("unknown", None) is None
    listed = await journal.workflows()
    assert [(one.name, one.version) for one in listed] == [
        ("another", "7"),
        ("greet", "1"),
        ("greet", "10"),
        ("greet", "2"),
    ]
    assert all((one.source, bytes(one.bundle.main), one.bundle.digest) == ("", b"", BUNDLE.digest) for one in listed)


async def test_one_version_registered_at_the_same_moment_is_one(journal: Journal):
    results = await asyncio.gather(
        *(journal.register(registered(digest=f"d{i % 2}")) for i in range(10)), return_exceptions=True
    )
    assert {type(result).__name__ for result in results} == {"Registered", "VersionTaken"}
    assert len(await journal.workflows()) == 1


async def test_runs_that_ended_long_ago_go_with_all_that_is_theirs(journal: Journal):
    leases = {}
    own = Bundle("o" * 64, msgspec.Raw(b"{}"))
    for i in range(12):
        run = record(f"r{i}", idempotency_key=f"k{i}", bundle=own.digest if i < 6 else BUNDLE.digest)
        _, leases[i] = await journal.create(run, own if i < 6 else BUNDLE, take=True)
        await journal.append(leases[i], [completed("a", "large " * 1000)])
    for i in range(10):
        await journal.append(leases[i], [StateChanged(2000.0 + i, RunState.COMPLETED)])
    assert await journal.expire(2000.0) == 0
    assert await journal.expire(2008.0, limit=3) == 3
    assert [run.id for run in (await journal.runs()).runs] == [f"r{i}" for i in range(11, 2, -1)]
    await journal.append(leases[5], [StateChanged(2010.0, RunState.PENDING)])  # a retry: it has not ended any more
    assert await journal.expire(2008.0) == 4
    assert [run.id for run in (await journal.runs()).runs] == ["r11", "r10", "r9", "r8", "r5"]
    assert await journal.entries("r0") == []
    assert await journal.histories(["r0", "r9"]) == {"r9": await journal.entries("r9")}
    assert (await journal.bundle(own.digest)).digest == own.digest
    again, lease = await journal.create(record("new", idempotency_key="k0"), BUNDLE, take=True)
    assert (again.id, lease is not None) == ("new", True)
    assert len(await journal.entries("new")) == 1
    await journal.append(leases[5], [StateChanged(2011.0, RunState.CANCELLED)])
    assert await journal.expire(2012.0) == 3
    with pytest.raises(UnknownWorkflow):
        await journal.bundle(own.digest)
    assert (await journal.bundle(BUNDLE.digest)).digest == BUNDLE.digest


async def test_a_bundle_of_a_registered_workflow_stays(journal: Journal):
    await journal.register(registered())
    await journal.create(record(state=RunState.FAILED), BUNDLE, take=False)
    assert await journal.expire(1e9) == 1
    assert (await journal.workflow("greet", None)).bundle.digest == BUNDLE.digest
