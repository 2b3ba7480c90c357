import asyncio
import os
import signal
import time
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from config.errors import ConfigError
from pipeline.process import pulses
from pipeline.process.child import Inheritance
from pipeline.process.counters import SharedMemory, State
from pipeline.process.errors import StartError
from pipeline.process.keeper import ATTEMPTS, Keeper, Limits
from pipeline.process.process import Process
from pipeline.process.seats import ShardSeats
from tests.process.daemon import ROOT, alive, gone

pytestmark = pytest.mark.slow


class House:
    """Notes what it is told, as (what, seat)."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.states: list[State] = []

    def joined(self, process: Process) -> None:
        assert process.slot.state is State.READY
        self.told.append(("joined", process.seat))

    def heard(self, process, message) -> None:
        self.told.append((type(message).__name__, process.seat))

    def gone(self, process: Process) -> int:
        assert (process.slot.state, process.slot.pid) == (State.DOWN, 0)
        self.told.append(("gone", process.seat))
        return 5

    def turned(self, keeper: Keeper) -> None:
        self.states.append(keeper.state)


@pytest.fixture
def memory():
    memory = SharedMemory.create(shards=1, block=8)
    yield memory
    memory.close()


@pytest.fixture
def house() -> House:
    return House()


@pytest.fixture
async def keep(memory, house, monkeypatch, tmp_path):
    """Starts a keeper of a child that behaves as its name says."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.chdir(tmp_path)
    keepers: list[Keeper] = []
    files = {part: os.open("/dev/null", os.O_RDONLY) for part in ("config", "lock", "listener")}

    def keep(name: str, *, timeout: float = 10.0, deaths: int = 10, vital: bool = True) -> Keeper:
        born = Inheritance(name, 0, os.getpid(), link=-1, memory=memory.descriptor, **files)
        limits = Limits(timeout, deaths)
        keepers.append(Keeper("tests.process.children", lambda: born, ShardSeats(memory), limits, house, vital=vital))
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


async def ready(keeper: Keeper) -> Process:
    await asyncio.wait_for(keeper.started.wait(), 5)
    assert keeper.current is not None
    return keeper.current


async def test_a_child_that_is_well_is_left_alone(keep, memory, house):
    keeper = keep("well")
    process = await ready(keeper)
    slot = memory.seats[0]
    assert (slot.state, slot.pid, keeper.state) == (State.READY, process.pid, State.READY)
    assert keeper.processes == [process]
    assert alive(slot.pid)
    assert os.getsid(slot.pid) == slot.pid != os.getsid(0)
    assert abs(slot.started - time.time()) < 10
    assert await keeper.stop(5)
    assert not alive(process.pid)
    assert (slot.state, slot.pid, keeper.restarts) == (State.DOWN, 0, 0)
    assert keeper.task.done()
    assert house.told == [("joined", 0), ("gone", 0)]
    assert house.states == [State.STARTING, State.READY, State.STOPPING, State.DOWN]


async def test_a_child_that_dies_is_buried_and_then_replaced(keep, house):
    keeper = keep("well")
    first = await ready(keeper)
    with capture_logs() as logs:
        os.kill(first.pid, signal.SIGKILL)
        await until(lambda: keeper.state is State.READY and keeper.current not in (None, first))
    (died,) = [line for line in logs if line["event"] == "process_died"]
    assert (died["pid"], died["status"], died["lost"]) == (first.pid, "killed by SIGKILL", 5)
    assert house.told == [("joined", 0), ("gone", 0), ("joined", 0)]
    assert keeper.restarts == 1


async def test_a_child_that_always_dies_never_starts(keep):
    keeper = keep("dying")
    with pytest.raises(StartError, match=rf"dying process died {ATTEMPTS} times while it started \(exit status 3\)"):
        await asyncio.wait_for(keeper.task, 10)
    assert keeper.restarts == ATTEMPTS - 1


async def test_a_child_that_dies_again_and_again_is_given_up(keep, house):
    keeper = keep("short-lived", deaths=3)
    with capture_logs() as logs:
        await until(lambda: keeper.state is State.GIVEN_UP)
    (line,) = [line for line in logs if line["event"] == "process_given_up"]
    assert (line["deaths"], line["because"], line["log_level"]) == (3, "exit status 4", "error")
    assert [what for what, _ in house.told] == ["joined", "gone"] * 3
    assert not keeper.task.done()
    assert not keeper.processes
    assert await keeper.stop(1)


async def test_what_was_given_up_can_be_started_again(keep):
    keeper = keep("short-lived", deaths=1)
    await until(lambda: keeper.state is State.GIVEN_UP)
    await keeper.replace(1)
    await until(lambda: keeper.state is State.GIVEN_UP)


async def test_a_child_that_says_why_is_believed_at_once(keep):
    keeper = keep("failing")
    with pytest.raises(StartError, match="The failing process cannot start: the store is broken"):
        await asyncio.wait_for(keeper.task, 5)
    assert keeper.restarts == 0


async def test_what_two_children_say_in_the_same_words_the_third_would_say_too(keep):
    """Where the daemon does without them."""
    keeper = keep("failing", vital=False)
    await until(lambda: keeper.state is State.GIVEN_UP)
    assert (keeper.restarts, keeper.reason) == (1, "the store is broken")
    assert not keeper.task.done()


async def test_a_child_that_just_dies_is_tried_as_often_as_any(keep):
    keeper = keep("dying", vital=False, deaths=3)
    await until(lambda: keeper.state is State.GIVEN_UP)
    assert keeper.restarts == 2


async def test_a_refused_configuration_is_told_as_such(keep):
    with pytest.raises(ConfigError) as caught:
        await asyncio.wait_for(keep("refusing").task, 5)
    assert caught.value.problems[0].path == "workers[0].api_key"


async def test_a_child_that_never_gets_ready_is_killed(keep, memory):
    keeper = keep("silent", timeout=0.3)
    await until(lambda: memory.seats[0].pid)
    pid = memory.seats[0].pid
    assert await gone([pid], 2)
    with pytest.raises(StartError, match=r"it was not ready within 0\.3 s"):
        await asyncio.wait_for(keeper.task, 5)


async def test_a_child_that_does_not_end_is_killed(keep):
    keeper = keep("stubborn")
    process = await ready(keeper)
    assert not await keeper.stop(0.3)
    assert not alive(process.pid)


async def test_stopping_at_any_moment_leaves_no_child(keep):
    before = children()  # other tests' servers
    for delay in (0.0, 0.001, 0.01, 0.05):
        keeper = keep("well")
        await asyncio.sleep(delay)
        assert await keeper.stop(5)
        assert keeper.task.done()
    assert not [child for child in children() - before if alive(child)]


class TestReplace:
    async def test_the_new_one_works_before_the_old_one_is_told_to_end(self, keep, memory, house):
        keeper = keep("polite")
        old = await ready(keeper)
        await keeper.replace(5)
        new = keeper.current
        assert new is not None
        assert (old.seat, new.seat) == (0, 1)
        assert house.told == [("joined", 0), ("joined", 1), ("gone", 0)]
        assert house.states == [State.STARTING, State.READY]
        assert not alive(old.pid)
        assert (memory.seats[0].state, memory.seats[1].state) == (State.DOWN, State.READY)
        assert keeper.restarts == 0
        await keeper.replace(5)
        assert keeper.current.seat == 0

    async def test_one_that_does_not_end_is_killed(self, keep):
        keeper = keep("stubborn")
        old = await ready(keeper)
        await keeper.replace(0.2)
        assert not alive(old.pid)
        assert alive(keeper.current.pid)

    async def test_when_the_new_one_cannot_the_old_one_goes_on(self, keep, house):
        keeper = keep("once")
        old = await ready(keeper)
        with pytest.raises(StartError, match=r"A new once process did not get ready: exit status 0\."):
            await keeper.replace(5)
        assert keeper.current is old
        assert alive(old.pid)
        assert (keeper.state, keeper.processes) == (State.READY, [old])
        assert house.told == [("joined", 0), ("gone", 1)]

    async def test_the_old_one_may_die_meanwhile(self, keep):
        keeper = keep("polite")
        old = await ready(keeper)
        replacing = asyncio.create_task(keeper.replace(5))
        await until(lambda: len(keeper.processes) == 2)
        os.kill(old.pid, signal.SIGKILL)
        await asyncio.wait_for(replacing, 5)
        await until(lambda: keeper.state is State.READY)
        assert keeper.processes == [keeper.current]
        assert keeper.restarts == 0

    async def test_the_new_one_may_die_while_the_old_one_still_ends(self, keep):
        keeper = keep("stubborn")
        old = await ready(keeper)
        replacing = asyncio.create_task(keeper.replace(1))
        await until(lambda: keeper.current is not old)
        second = keeper.current
        os.kill(second.pid, signal.SIGKILL)
        await until(lambda: keeper.current not in (None, second))
        assert alive(old.pid)
        await asyncio.wait_for(replacing, 5)
        assert not alive(old.pid)
        assert keeper.processes == [keeper.current]

    async def test_stopping_meanwhile_leaves_no_child(self, keep):
        keeper = keep("polite")
        await ready(keeper)
        replacing = asyncio.create_task(keeper.replace(5))
        await until(lambda: len(keeper.processes) == 2)
        pids = [process.pid for process in keeper.processes]
        await keeper.stop(5)
        assert not any(map(alive, pids))
        with pytest.raises(StartError):
            await asyncio.wait_for(replacing, 5)


class TestPulse:
    async def test_a_blocked_loop_is_shown_and_ended(self, keep, capfd):
        keeper = keep("blocked")
        process = await ready(keeper)
        watching = asyncio.create_task(pulses.watch(lambda: keeper.processes, 0.5))
        with capture_logs() as logs:
            assert await gone([process.pid], 5)
            await until(lambda: keeper.current is not process)
        watching.cancel()
        blocked = [line for line in logs if line["event"] == "process_blocked"]
        assert (blocked[0]["pid"], blocked[0]["log_level"]) == (process.pid, "error")
        assert blocked[0]["seconds"] >= 0.5
        assert "in spin_for_ever" in capfd.readouterr().err
        assert keeper.reason.startswith("its event loop had not turned for 0.")

    async def test_one_that_beats_is_left_alone(self, keep):
        keeper = keep("beating")
        process = await ready(keeper)
        watching = asyncio.create_task(pulses.watch(lambda: keeper.processes, 0.3))
        await asyncio.sleep(0.8)
        watching.cancel()
        assert keeper.current is process


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
    given = keeper._born()
    inherited = {int(number) for number in str(caught.value).rpartition(": ")[2].split(",")}
    assert {given.memory, given.config, given.lock, given.listener} < inherited
    assert secret not in inherited
    assert len(inherited) <= 3 + 5 + 1  # standard ones; those and the link; the listing itself
