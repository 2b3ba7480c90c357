import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from config.errors import ConfigError
from pipeline.process.child import Inheritance
from pipeline.process.counters import SharedMemory, State
from pipeline.process.errors import StartError
from pipeline.process.keeper import ATTEMPTS, Keeper
from tests.process.daemon import ROOT, alive, gone

pytestmark = pytest.mark.slow


@pytest.fixture
def memory():
    memory = SharedMemory.create(shards=1, block=8)
    yield memory
    memory.close()


@pytest.fixture
async def keep(memory, monkeypatch):
    """Starts a keeper of a child that behaves as its name says."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    keepers: list[Keeper] = []
    files = {part: os.open("/dev/null", os.O_RDONLY) for part in ("config", "lock", "listener")}

    def keep(name: str, *, timeout: float = 10.0, bury=lambda: 0) -> Keeper:
        born = Inheritance(name, 0, os.getpid(), link=-1, memory=memory.descriptor, **files)
        keepers.append(Keeper("tests.process.children", born, memory.shards[0], timeout, bury))
        return keepers[-1]

    yield keep
    for keeper in keepers:
        await keeper.kill()
        await asyncio.gather(keeper.task, return_exceptions=True)
    for descriptor in files.values():
        os.close(descriptor)


async def until(condition, within: float = 5.0) -> None:
    async with asyncio.timeout(within):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_child_that_is_well_is_left_alone(keep, memory):
    keeper = keep("well")
    await asyncio.wait_for(keeper.started.wait(), 5)
    slot = memory.shards[0]
    assert slot.state is State.READY
    assert alive(slot.pid)
    assert os.getsid(slot.pid) == slot.pid != os.getsid(0)
    assert abs(slot.started - time.time()) < 10
    pid = slot.pid
    assert await keeper.stop(5)
    assert not alive(pid)
    assert (slot.state, slot.pid, slot.restarts) == (State.DOWN, 0, 0)
    assert keeper.task.done()


async def test_a_child_that_dies_is_buried_and_then_replaced(keep, memory):
    slot = memory.shards[0]
    funerals = []
    keeper = keep("well", bury=lambda: funerals.append((slot.state, slot.pid)) or 5)
    await asyncio.wait_for(keeper.started.wait(), 5)
    first = slot.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: slot.state is State.READY and slot.pid != first)
    assert funerals == [(State.DOWN, 0)]
    assert slot.restarts == 1


async def test_a_child_that_always_dies_is_given_up(keep, memory):
    keeper = keep("dying")
    with pytest.raises(StartError, match=f"The dying process died {ATTEMPTS} times while it started"):
        await asyncio.wait_for(keeper.task, 10)
    assert memory.shards[0].restarts == ATTEMPTS - 1


async def test_a_child_that_says_why_is_believed_at_once(keep, memory):
    with pytest.raises(StartError, match="The failing process cannot start: the store is broken"):
        await asyncio.wait_for(keep("failing").task, 5)
    assert memory.shards[0].restarts == 0


async def test_a_refused_configuration_is_told_as_such(keep):
    with pytest.raises(ConfigError) as caught:
        await asyncio.wait_for(keep("refusing").task, 5)
    assert caught.value.problems[0].path == "workers[0].api_key"


async def test_a_child_that_never_gets_ready_is_killed(keep, memory):
    keeper = keep("silent", timeout=0.3)
    await until(lambda: memory.shards[0].pid)
    pid = memory.shards[0].pid
    assert await gone([pid], 2)
    with pytest.raises(StartError):
        await asyncio.wait_for(keeper.task, 5)


async def test_a_child_that_does_not_end_is_killed(keep, memory):
    keeper = keep("stubborn")
    await asyncio.wait_for(keeper.started.wait(), 5)
    pid = memory.shards[0].pid
    assert not await keeper.stop(0.3)
    assert not alive(pid)


async def test_stopping_at_any_moment_leaves_no_child(keep, memory):
    before = children()  # other tests' servers
    for delay in (0.0, 0.001, 0.01, 0.05):
        keeper = keep("well")
        await asyncio.sleep(delay)
        assert await keeper.stop(5)
        assert keeper.task.done()
    assert not [child for child in children() - before if alive(child)]


def children() -> set[int]:
    return {int(child) for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()}


async def test_a_child_inherits_what_it_was_given_and_nothing_else(keep):
    secret = os.open("/dev/null", os.O_RDONLY)
    try:
        keeper = keep("curious")
        with pytest.raises(StartError) as caught:
            await asyncio.wait_for(keeper.task, 5)
    finally:
        os.close(secret)
    given = keeper._inheritance
    inherited = {int(number) for number in str(caught.value).rpartition(": ")[2].split(",")}
    assert {given.memory, given.config, given.lock, given.listener} < inherited
    assert secret not in inherited
    assert len(inherited) <= 3 + 5 + 1  # standard ones; those and the link; the listing itself
